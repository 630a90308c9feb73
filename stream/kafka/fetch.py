"""The consumer thread: reads committed clicks as stretches of offsets, and notices clicks that Kafka has deleted.

The rule that must not break: each stretch of a partition begins where the last one ended. The offsets of the records do
not show whether something is missing, because not every offset is a click: there are transaction markers, clicks that
were rolled back, and clicks that compaction removed. So a stretch begins and ends at positions of the fetcher itself.
Clicks that Kafka deleted before they were read (retention, DeleteRecords) are part of a stretch; they are counted and
logged.

Private names of Faust and aiokafka are used in this file and in transport.py only (tests/contracts checks them).
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
"""How long the broker may hold an empty fetch. Faust's fixed 1500 would delay each rebalance."""

OFFSET_RESET = "none"
"""aiokafka's reset policy. With another one it passes lost clicks by itself, and nobody notices."""

NOT_SOUGHT_S = 0.2

log = logging.getLogger(__name__)


class Stretch(NamedTuple):
    """Offsets begin <= offset < end of one partition, read at once.

    lost     how many of these offsets Kafka had deleted before they were read
    records  aiokafka's ConsumerRecords in offset order; empty if no offset is a click
    """

    begin: int
    end: int
    lost: int
    records: Sequence[Any]


class FetchThread(driver.AIOKafkaConsumerThread):
    """The thread that fetches and sends heartbeats. Every method runs in it, in an event loop of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._reached: dict[Any, int] = {}  # partition -> end of its last stretch, or the offset of a seek
        super().__init__(*arguments, **options)

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        consumer._isolation_level = "read_committed"  # Faust asks for that only with its own transactions
        return consumer

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Forget where the partitions are: after a rebalance each begins with a seek."""
        self._reached.clear()
        await super().on_partitions_revoked(revoked)

    async def _seek_wait(self, consumer: Any, partitions: Mapping[Any, int]) -> None:
        self._reached.update(partitions)
        await super()._seek_wait(consumer, partitions)  # seeks before it first awaits: no fetch comes between

    async def _fetch_records(
        self, consumer: Any, active_partitions: Any, timeout: float | None = None, max_records: int | None = None
    ) -> dict[Any, Stretch]:
        """Partition -> its next stretch, for each partition that was read on. Waits up to `timeout` s for records.

        Raises ConfigError if a position is beyond the partition's end.
        """
        records: Mapping[Any, Sequence[Any]] = {}
        lost: Mapping[Any, int] = {}
        try:
            records = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        except OffsetOutOfRangeError as exc:
            lost = await self._skip_lost(consumer, exc.args[0])
        except NoOffsetForPartitionError:  # no seek: another worker has the partition, and a rebalance will follow
            await asyncio.sleep(NOT_SOUGHT_S)
        # no await from here on: a seek in between would separate the positions from the records
        stretches: dict[Any, Stretch] = {}
        for tp, end in _positions(consumer).items():
            begin = self._reached.get(tp)
            if begin is not None and begin != end:
                self._reached[tp] = end
                stretches[tp] = Stretch(begin, end, lost.get(tp, 0), records.get(tp, ()))
        return stretches

    async def _skip_lost(self, consumer: Any, out_of_range: Mapping[Any, int]) -> dict[Any, int]:
        """Continue at the first click that is left.

        out_of_range  partition -> position that Kafka does not have
        returns       partition -> how many offsets were lost
        """
        try:
            first = await consumer.beginning_offsets(list(out_of_range))
        except KafkaError as exc:  # the position has not changed, so the next fetch fails in the same way
            log.warning("first offsets could not be read, tried again: error=%r", exc)
            return {}
        now = _positions(consumer)
        lost: dict[Any, int] = {}
        for tp, position in out_of_range.items():
            if now.get(tp) != position:  # there was a rebalance or a seek
                continue
            if first[tp] <= position:
                raise ConfigError(
                    f"{tp.topic}-{tp.partition} ends before offset {position}, the next one to read: Kafka lost clicks "
                    "that were decided, or the topic was created again; start with another --group and "
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
    """Partition -> the offset to read next, for every partition that has a position."""
    subscription = consumer._subscription.subscription
    if subscription is None or subscription.assignment is None:
        return {}
    states = {tp: subscription.assignment.state_value(tp) for tp in subscription.assignment.tps}
    return {tp: state.position for tp, state in states.items() if state is not None and state.has_valid_position}
