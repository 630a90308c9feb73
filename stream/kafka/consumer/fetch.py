"""The consumer thread: reads committed clicks as ranges of offsets, and notices clicks that Kafka has deleted.

The rule that must not break: each range of a partition begins where the previous one ended. The offsets of the records
do not show whether a click is missing, because not every offset has a click: there are transaction markers, clicks that
were rolled back, and clicks that compaction removed. So the fetcher's own positions are the limits of a range. A range
includes the offsets of clicks that Kafka deleted before they were read (retention, DeleteRecords). These offsets are
counted and logged.

Private names of Faust and aiokafka are used in this room and, one, in worker/hooks.py only
(tests/contracts checks them).
Source: faust/transport/drivers/aiokafka.py, aiokafka/consumer/fetcher.py.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from aiokafka import conn
from aiokafka.errors import (
    GroupAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    TopicAuthorizationFailedError,
)
from faust.transport.drivers import aiokafka as driver

from stream.access.refusal import refused
from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.consumer.offsets import positions
from stream.kafka.consumer.pace import Pace

OFFSET_RESET = "none"
"""aiokafka's reset policy. With any other policy aiokafka skips deleted clicks without an error."""

CYCLE_BYTES = 16 << 20
"""Largest size of a cycle, and of a message with more than one chunk: a cycle takes whole messages."""

NEVER_IDLE_MS = 1_000_000_000_000
"""aiokafka leaves the group after so long without a fetch, and joins it again after the next one. But Faust fetches
in a group only. A worker that had waited for 17 minutes with its memory full of clicks was silent for ever."""

NO_POSITION_S = 0.2
CONNECT_AGAIN_S = 1.0

log = logging.getLogger(__name__)


class OffsetRange(NamedTuple):
    """The result of one read of a partition: the offsets begin <= offset < end.

    lost     number of these offsets that Kafka deleted before they were read
    records  aiokafka's ConsumerRecords in offset order; empty if no offset has a click
    """

    begin: int
    end: int
    lost: int
    records: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Offsets begin <= offset < end of one partition, fetched in one generation of the group.

    begin    the fetcher's position before it read the chunk. No click is skipped if each chunk of a partition begins
             where the previous one ended
    lost     number of these offsets that Kafka deleted before they were read
    records  aiokafka's ConsumerRecords in offset order: .offset .timestamp (ms) .key .value (bytes or None). It may be
             empty
    size     bytes of all keys and values
    """

    partition: Partition
    generation: int
    begin: int
    end: int
    lost: int
    records: Sequence[Any]
    size: int


class Fetch(NamedTuple):
    """The value of a Faust message: what one fetch has read, all in one generation of the group.

    records, size  number of records, and bytes of their keys and values, in all chunks
    """

    chunks: Sequence[Chunk]
    records: int
    size: int


class Connection(conn.AIOKafkaConnection):
    """A connection whose transport may be closed before aiokafka knows it.

    uvloop then raises a RuntimeError, where asyncio's own transport ignores the write. aiokafka expects an OSError: any
    other error ended its group coordination, and with it the worker.
    """

    def send(self, request: Any, expect_response: bool = True) -> Any:
        with self._closed_is_broken():
            return super().send(request, expect_response)

    def _send_sasl_token(self, payload: Any, expect_response: bool = True) -> Any:
        with self._closed_is_broken():
            return super()._send_sasl_token(payload, expect_response)

    @contextmanager
    def _closed_is_broken(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as exc:
            self.close(reason=conn.CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken: {exc}") from exc


conn.AIOKafkaConnection = Connection  # create_conn takes no class


class FetchThread(driver.AIOKafkaConsumerThread):
    """The thread that fetches and sends heartbeats. Every method runs in this thread, which has its own event loop."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._next_offset: dict[Any, int] = {}  # partition -> end of its last range, or the offset of a seek
        self._pace: Pace | None = None  # there is none before it is connected
        super().__init__(*arguments, **options)

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = "read_committed"  # Faust sets this only for its own transactions
        consumer._max_poll_interval_ms = NEVER_IDLE_MS
        _connect_to_a_broker(consumer._client)
        return consumer

    async def on_start(self) -> None:
        """Create the consumer and connect it; again, if the broker went away since the worker asked."""
        while not self.should_stop:  # else the end would wait for a connection
            try:
                await super().on_start()
                self._pace = Pace(self._consumer._fetcher)
                return
            except KafkaConnectionError as exc:
                log.warning("the consumer could not connect, so the worker tries again: error=%s", exc)
            await self._consumer.stop()
            await asyncio.sleep(CONNECT_AGAIN_S)

    def decided(self) -> None:
        """All clicks that were fetched are decided. May be called in any thread."""
        if self._pace is not None:
            with suppress(RuntimeError):  # the thread has ended, and its event loop is closed
                self.thread_loop.call_soon_threadsafe(self._pace.decided.set)

    async def on_thread_stop(self) -> None:
        """Stop the consumer. In an outage aiokafka's fetcher lets the cancel of its own tasks escape from `close`, and
        the event loop would wait for this thread for ever."""
        with suppress(asyncio.CancelledError):
            await super().on_thread_stop()

    def close(self) -> None:
        """Do nothing, `on_thread_stop` closes the consumer. Faust calls this if a rebalance comes while a worker ends.

        Its own closes what belongs to this thread's event loop from the worker's, which no event loop allows: seen once
        to end the process with SIGSEGV (-11).
        """

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Forget the positions of the partitions: after a rebalance each partition begins with a seek."""
        self._next_offset.clear()
        await super().on_partitions_revoked(revoked)

    async def _seek_wait(self, consumer: Any, partitions: Mapping[Any, int]) -> None:
        self._next_offset.update(partitions)
        await super()._seek_wait(consumer, partitions)  # it seeks before its first await, so no fetch runs in between

    async def _fetch_records(
        self, consumer: Any, active_partitions: Any, timeout: float | None = None, max_records: int | None = None
    ) -> dict[Any, OffsetRange]:
        """Wait up to `timeout` s for records. Return partition -> its next range, if its position has moved.

        Raises ConfigError if a position is beyond the partition's end or this user may not read it any more.
        """
        records: Mapping[Any, Sequence[Any]] = {}
        lost: Mapping[Any, int] = {}
        try:
            records = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        except OffsetOutOfRangeError as exc:
            sought = {tp: position for tp, position in exc.args[0].items() if tp in self._next_offset}
            if sought:
                lost = await self._skip_lost(consumer, sought)
            else:  # its recovery is still running
                await asyncio.sleep(NO_POSITION_S)
        except (GroupAuthorizationFailedError, TopicAuthorizationFailedError) as exc:
            raise refused(exc) or exc from None
        except NoOffsetForPartitionError:  # its recovery is still running, or another worker has the partition
            await asyncio.sleep(NO_POSITION_S)
        if self._pace is not None:
            self._pace.read(sum(map(len, records.values())))
        # no await from here on: a seek in between would separate the positions from the records
        ranges: dict[Any, OffsetRange] = {}
        for tp, end in positions(consumer).items():
            begin = self._next_offset.get(tp)
            if begin is not None and begin != end:
                self._next_offset[tp] = end
                ranges[tp] = OffsetRange(begin, end, lost.get(tp, 0), records.get(tp, ()))
        return ranges

    async def _skip_lost(self, consumer: Any, out_of_range: Mapping[Any, int]) -> dict[Any, int]:
        """Continue at the first offset that Kafka still has.

        out_of_range  partition -> position that Kafka does not have
        returns       partition -> number of skipped offsets
        """
        try:
            first = await consumer.beginning_offsets(list(out_of_range))
        except KafkaError as exc:  # the position has not changed, so the next fetch fails in the same way
            log.warning("the first offsets could not be read, so the worker tries again: error=%r", exc)
            return {}
        now = positions(consumer)
        lost: dict[Any, int] = {}
        for tp, position in out_of_range.items():
            if now.get(tp) != position:  # there was a rebalance or a seek
                continue
            if first[tp] <= position:
                raise ConfigError(
                    f"{tp.topic}-{tp.partition} ends before offset {position}, the next one to read: Kafka lost "
                    "decided clicks, or the topic was created again; run `eddy topics repair` to continue with the "
                    "users' states, or start with another --group and --changelog-topic"
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


def _connect_to_a_broker(client: Any) -> None:
    """Let an aiokafka client take a cluster in which no broker is yet for one that it cannot connect to.

    A broker answers before it is in the cluster, after its start and after a pause that was longer than its session.
    aiokafka then looked for the group's coordinator at no broker, and an assertion of it ended the worker.
    """
    bootstrap = client.bootstrap

    async def connected() -> None:
        await bootstrap()
        if not client.cluster.brokers():
            raise KafkaConnectionError("the cluster has no broker at the moment")

    client.bootstrap = connected


def chunk_of(partition: Any, fetched: OffsetRange, generation: int) -> Chunk:
    """What one fetch has read of a partition, a tuple of topic and number."""
    begin, stop, lost, records = fetched
    size = sum(len(record.key or b"") + len(record.value or b"") for record in records)
    return Chunk(Partition(*partition), generation, begin, stop, lost, records, size)


def split(chunk: Chunk, records: int) -> tuple[Chunk, Chunk]:
    """The chunk up to the record at this index, which is below their number, and from there on."""
    at = chunk.records[records].offset
    first = replace(chunk, end=at, records=chunk.records[:records])
    return first, replace(chunk, begin=at, lost=0, records=chunk.records[records:])


def fetches(chunks: Sequence[Chunk]) -> Iterator[Fetch]:
    """The chunks in their order, in as few messages as CYCLE_BYTES allows."""
    some: list[Chunk] = []
    for chunk in chunks:
        if some and sum(one.size for one in some) + chunk.size > CYCLE_BYTES:
            yield _fetch(some)
            some = []
        some.append(chunk)
    if some:
        yield _fetch(some)


def _fetch(chunks: Sequence[Chunk]) -> Fetch:
    return Fetch(chunks, sum(len(chunk.records) for chunk in chunks), sum(chunk.size for chunk in chunks))
