"""Kafka's clicks as the consumer thread reads them: stretches of offsets without a hole, committed clicks only.

Offsets of a partition are not all clicks: between them lie transaction markers, clicks that were rolled back, and those
that compaction took away. So the offsets of the records do not show whether something is missing; the fetcher's own
position does. Each stretch begins where the one before it ended, and clicks that Kafka deleted before they were read
(retention, DeleteRecords) are a part of it that is counted and logged.

Private names of Faust and aiokafka stand in this file and in transport.py alone (tests/contracts checks them).
Source: faust/transport/drivers/aiokafka.py, aiokafka/consumer/fetcher.py.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.transport.drivers import aiokafka as driver

from stream.errors import ConfigError

FETCH_WAIT_MS = 50
"""How long the broker may hold an empty fetch. Faust has 1500 hard-coded, which a rebalance then waits for."""

OFFSET_RESET = "none"
"""aiokafka must not reset an offset that is out of range by itself: nobody would learn of the clicks in between."""

NOT_SOUGHT_S = 0.2

log = logging.getLogger(__name__)


class Stretch(NamedTuple):
    """Offsets begin <= offset < end of one partition, read in one go.

    lost     how many of them Kafka had deleted before they were read
    records  aiokafka's ConsumerRecords in offset order; none where all offsets are markers, rolled back or lost
    """

    begin: int
    end: int
    lost: int
    records: Sequence[Any]


class FetchThread(driver.AIOKafkaConsumerThread):
    """The thread that fetches and heartbeats. Everything here runs in it, in an event loop of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._reached: dict[Any, int] = {}  # partition -> where it was sought, or the last stretch ended
        super().__init__(*arguments, **options)

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        consumer._isolation_level = "read_committed"  # Faust asks for that only with its own transactions
        return consumer

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """A partition that comes back counts from where it is sought then."""
        self._reached.clear()
        await super().on_partitions_revoked(revoked)

    async def _seek_wait(self, consumer: Any, partitions: Mapping[Any, int]) -> None:
        self._reached.update(partitions)
        await super()._seek_wait(consumer, partitions)  # seeks before it first awaits: no fetch comes between

    async def _fetch_records(
        self, consumer: Any, active_partitions: Any, timeout: float | None = None, max_records: int | None = None
    ) -> dict[Any, Stretch]:
        """Partition -> the stretch read next, for each that has moved on. Waits up to `timeout` s for records.

        Raises ConfigError for a position beyond the partition's end.
        """
        records: Mapping[Any, Sequence[Any]] = {}
        lost: Mapping[Any, int] = {}
        try:
            records = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        except OffsetOutOfRangeError as exc:
            lost = await self._skip_lost(consumer, exc.args[0])
        except NoOffsetForPartitionError:  # not sought: another worker overtook recovery, a rebalance is on its way
            await asyncio.sleep(NOT_SOUGHT_S)
        # nothing may be awaited from here on: positions and records belong together
        stretches: dict[Any, Stretch] = {}
        for tp, end in _positions(consumer).items():
            begin = self._reached.get(tp)
            if begin is not None and begin != end:
                self._reached[tp] = end
                stretches[tp] = Stretch(begin, end, lost.get(tp, 0), records.get(tp, ()))
        return stretches

    async def _skip_lost(self, consumer: Any, out_of_range: Mapping[Any, int]) -> dict[Any, int]:
        """Go on behind clicks that are gone, partition -> position out of range. Partition -> how many offsets are."""
        try:
            first = await consumer.beginning_offsets(list(out_of_range))
        except KafkaError as exc:  # the position stands, so the next fetch finds it out of range again
            log.warning("first offsets could not be read, tried again: error=%r", exc)
            return {}
        now = _positions(consumer)
        lost: dict[Any, int] = {}
        for tp, position in out_of_range.items():
            if now.get(tp) != position:  # a rebalance or a seek came meanwhile
                continue
            if first[tp] <= position:
                raise ConfigError(
                    f"{tp.topic}-{tp.partition} ends before offset {position}, which is to be read next: Kafka lost "
                    "clicks that were decided, or the topic was created again; start with another --group and "
                    "--changelog-topic"
                )
            consumer.seek(tp, first[tp])
            lost[tp] = first[tp] - position
            log.warning(
                "clicks lost before they were read: topic=%s partition=%d offsets=%d..%d count=%d; "
                "raise the topic's retention or add workers",
                tp.topic,
                tp.partition,
                position,
                first[tp] - 1,
                lost[tp],
            )
        return lost


def _positions(consumer: Any) -> dict[Any, int]:
    """Partition -> the offset that is read next, of every partition that has one."""
    subscription = consumer._subscription.subscription
    if subscription is None or subscription.assignment is None:
        return {}
    states = {tp: subscription.assignment.state_value(tp) for tp in subscription.assignment.tps}
    return {tp: state.position for tp, state in states.items() if state is not None and state.has_valid_position}
