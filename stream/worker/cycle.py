"""The work: chunks of clicks become one cycle, and a cycle one transaction.

    start, rebalance   recover: offsets and rows as of the last decided transaction
    cycle              decode -> process (staged) -> transaction -> commit the staged rows -> ack
    revoke             nothing new begins; what runs ends; what is pending is released

Rows are put in place only after Kafka has them, and only one cycle runs at a time. Engine and codec run in one thread
of their own beside the event loop, the producer in another.
"""

import asyncio
import logging
import time
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException

from stream.engine.engine import Cycle, Engine
from stream.errors import BadClick
from stream.events import Click, DeadLetter, Origin
from stream.kafka.changelog import POSITION_KEY, Changelog, Position, disagreement
from stream.kafka.delivery import Delivery, Outcome, Record
from stream.kafka.transport import Chunk
from stream.settings import Topics
from stream.wire.json import JsonCodec, encode

CYCLE_BYTES = 16 << 20
DEAD_LETTER_BYTES = 512 << 10
"""Raw bytes kept of a bad message: base64 adds a third, and a broker takes 1 MB by default."""

ROLL_BACKS = 10
"""Roll-backs of one batch in a row before the worker ends: it would otherwise try a poisoned one for ever."""

RECOVERY_S = 60.0
AGREE_TRIES, AGREE_PAUSE_S = 20, 0.5
"""Tries, not a time limit: a worker frozen between the two reads would wake up past any limit."""


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assignment:
    """What this worker may write until the next rebalance.

    member  the group's generation and member id as they stood when the partitions were recovered
    next    partition -> the lowest offset that may come next
    """

    generation: int
    member: bytes
    next: dict[int, int]


@dataclass(frozen=True)
class Batch:
    """A processed batch: everything its transaction will hold, and the cycle to commit after it."""

    cycle: Cycle
    records: list[Record]
    offsets: dict[int, int]


class Cycles:
    """Runs one worker's cycles.

    max_clicks  of one cycle; a single chunk may not hold more
    clock_ms    the worker's clock, ms since the epoch: to tell times from the future
    """

    def __init__(
        self,
        engine: Engine,
        codec: JsonCodec,
        delivery: Delivery,
        changelog: Changelog,
        topics: Topics,
        max_clicks: int,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._engine = engine
        self._codec = codec
        self._delivery = delivery
        self._changelog = changelog
        self._topics = topics
        self._max_clicks = max_clicks
        self._clock_ms = clock_ms
        self._thread = ThreadPoolExecutor(1, "engine")
        self._pending: deque[Any] = deque()
        self._arrived = asyncio.Event()
        self._assignment: Assignment | None = None
        self._started = False
        self._stale_at: float | None = None

    # -- what the agent and the rebalance hooks call ------------------------------------------------------------------

    def offer(self, event: Any) -> None:
        """Take an event that carries a Chunk. It is acked when its clicks are decided."""
        self._pending.append(event)
        self._arrived.set()

    def release(self) -> list[Any]:
        """Give up what has not started, and start nothing more under this assignment. Returns the events given up."""
        self._assignment = None
        given_up = list(self._pending)
        self._pending.clear()
        return given_up

    def positions(self) -> Mapping[int, int]:
        """Partition -> the offset to read next under this assignment; empty while there is none."""
        return {} if self._assignment is None else self._assignment.next

    def check_rejoined(self, limit_s: float) -> None:
        """Raises TimeoutError if the group has refused our offsets and no rebalance has come of it for `limit_s`."""
        if self._stale_at is not None and time.monotonic() - self._stale_at > limit_s:
            raise TimeoutError(f"the group refused this worker's offsets and gave it nothing new for {limit_s:.0f} s")

    async def recover(self, partitions: Sequence[int], generation: int, member: bytes) -> None:
        """Make the arena stand where Kafka stands, for the partitions this worker has just been given.

        1. init_transactions, once: what a former process under this id left open is rolled back
        2. generation and member id: taken once by the caller, never again under this assignment
        3. committed offsets with read_committed: a pending transaction over them is waited for
        4. changelog rows, read_committed, up to the high watermark: not before 3, so that no row is older than it
        5. the position that the changelog holds must be the committed offset: a worker that was frozen between 3 and 4,
           or overtaken by the group, sees them apart, so both are read again AGREE_TRIES times. If the offset moves
           meanwhile, another worker has the partitions: nothing is assigned, a rebalance is on its way
        6. the consumer seeks to `positions`, also where nothing was committed yet; each chunk is checked against them

        Every partition is read anew, also one that was kept: what a frozen worker remembers may be old. Raises
        ConfigError if rows and offsets do not belong together.
        """
        began = time.monotonic()
        if not self._started:
            await self._delivery.start()
            self._started = True
        self._stale_at = None
        positions, rows = await self._in_engine(self._restore, partitions)
        if positions is None:
            self._assignment, self._stale_at = None, time.monotonic()
            log.warning("recovery overtaken by the group: partitions=%s generation=%d", partitions, generation)
            return
        self._assignment = Assignment(generation, member, {p: position.next for p, position in positions.items()})
        log.info(
            "partitions recovered: partitions=%s generation=%d users=%d rows_read=%d seconds=%.2f",
            partitions,
            generation,
            len(self._engine.arena),
            rows,
            time.monotonic() - began,
        )

    def stand_by(self) -> None:
        """The group has given this worker nothing: it waits as a spare."""
        self._assignment = None
        self._stale_at = None

    async def run(self) -> None:
        """Decide on what arrives, for ever."""
        while True:
            await self._arrived.wait()
            events = self._take()
            if not events:
                self._arrived.clear()
                continue
            await self._decide([event.value for event in events])
            for event in events:
                event.ack()

    async def close(self) -> None:
        await self._delivery.close()
        self._thread.shutdown(wait=False)

    # -- one cycle ----------------------------------------------------------------------------------------------------

    def _take(self) -> list[Any]:
        """Chunks in the order they came, up to the size of a cycle; at least one."""
        taken: list[Any] = []
        clicks = size = 0
        while self._pending:
            chunk: Chunk = self._pending[0].value
            clicks += len(chunk.records)
            size += chunk.size
            if taken and (clicks > self._max_clicks or size > CYCLE_BYTES):
                break
            taken.append(self._pending.popleft())
        return taken

    async def _decide(self, chunks: list[Chunk]) -> None:
        """Process and deliver. A batch that is not ours any more is dropped: its next owner reads it again."""
        assignment = self._assignment
        if assignment is None:
            return
        ours = [c for c in chunks if c.generation == assignment.generation and c.partition in assignment.next]
        if not ours:
            return
        batch = await self._in_engine(self._process, ours, assignment.next)
        for _ in range(ROLL_BACKS):
            if self._assignment is not assignment:
                return
            outcome = await self._delivery.commit(batch.records, self._topics.clicks, batch.offsets, assignment.member)
            if outcome is Outcome.COMMITTED:
                await self._in_engine(self._engine.commit, batch.cycle)
                assignment.next.update(batch.offsets)
                return
            if outcome is Outcome.STALE:  # what is pending comes by here and is acked undecided
                self._assignment = None
                self._stale_at = time.monotonic()
                return
        raise RuntimeError(f"the same transaction was rolled back {ROLL_BACKS} times")

    def _process(self, chunks: list[Chunk], expected: Mapping[int, int]) -> Batch:
        """Decode and step. Touches neither the arena nor Kafka, so a batch can be dropped at any time."""
        self._engine.refresh()
        now_ms, decode, topics = self._clock_ms(), self._codec.decode, self._topics
        clicks: list[Click] = []
        origins: list[Origin] = []
        records: list[Record] = []
        offsets: dict[int, int] = {}
        for chunk in chunks:
            partition = chunk.partition
            lowest = offsets.get(partition, expected[partition])
            if chunk.begin != lowest or chunk.records[0].offset < lowest:
                raise RuntimeError(
                    f"{topics.clicks}-{partition}: decided up to {lowest}, but read on from {chunk.begin} "
                    f"({chunk.records[0].offset}): clicks would be left out or repeated"
                )
            for record in chunk.records:
                origin = Origin(topics.clicks, partition, record.offset)
                try:
                    clicks.append(decode(record.key, record.value, now_ms))
                    origins.append(origin)
                except BadClick as exc:
                    letter = encode(dead_letter(origin, record, exc))
                    records.append(Record(topics.dead_letters, record.key, letter))
            offsets[partition] = chunk.records[-1].offset + 1
        cycle = self._engine.process(clicks, origins)
        if cycle.repeated:
            log.warning("clicks below their user's row skipped: clicks=%d", cycle.repeated)
        records += [Record(topics.recommendations, r.user_id.encode(), encode(r)) for r in cycle.recommendations]
        records += [Record(topics.anomalies, a.user_id.encode(), encode(a)) for a in cycle.anomalies]
        records += [Record(topics.changelog, key, row, partition) for partition, key, row in cycle.rows]
        records += [Record(topics.changelog, POSITION_KEY, b"%d" % next_, p) for p, next_ in offsets.items()]
        return Batch(cycle, records, offsets)

    # -- recovery, in the engine's thread -----------------------------------------------------------------------------

    def _restore(self, partitions: Sequence[int]) -> tuple[dict[int, Position] | None, int]:
        """Steps 3 to 5 of `recover`: where each partition stands, None if overtaken, and how many rows were read."""
        first: dict[int, Position] | None = None
        for left in reversed(range(AGREE_TRIES)):
            found = self._patiently(self._changelog.positions, partitions)
            first = first or found
            rows = self._patiently(self._changelog.read, partitions)
            marks = {p: rows[p].pop(POSITION_KEY, None) for p in partitions}
            stands = {p: None if mark is None else int(mark) for p, mark in marks.items()}
            apart = next((p for p in partitions if stands[p] != found[p].committed), None)
            if apart is None:
                break
            committed, position = found[apart].committed, stands[apart]
            if committed != first[apart].committed:
                return None, 0
            if not left:
                raise disagreement(self._changelog.group, self._topics.clicks, apart, committed, position)
            log.warning(
                "offsets and changelog apart, read again: partition=%d committed=%s changelog=%s",
                apart,
                committed,
                position,
            )
            time.sleep(AGREE_PAUSE_S)
        arena = self._engine.arena
        for partition in arena.partitions():
            arena.drop(partition)
        for partition in partitions:
            arena.restore(partition, rows[partition])
        return found, sum(map(len, rows.values()))

    @staticmethod
    def _patiently(read: Callable[[Sequence[int]], Any], partitions: Sequence[int]) -> Any:
        """A broker may be restarting, which is what often causes the rebalance: read again until RECOVERY_S."""
        deadline = time.monotonic() + RECOVERY_S
        while True:
            try:
                return read(partitions)
            except KafkaException as exc:
                if not (exc.args[0].retriable() or exc.args[0].code() < 0) or time.monotonic() > deadline:
                    raise
                log.warning("recovery reads again: error=%s", exc.args[0].name())
                time.sleep(0.2)

    async def _in_engine(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)


def dead_letter(origin: Origin, record: Any, why: BadClick) -> DeadLetter:
    """A bad message with its reason; its value is cut at DEAD_LETTER_BYTES, its key at a tenth of that."""
    key, value = record.key, record.value
    return DeadLetter(
        id=origin.id,
        reason=why.reason,
        detail=why.detail,
        topic=origin.topic,
        partition=origin.partition,
        offset=origin.offset,
        timestamp=record.timestamp,
        key=None if key is None else b64encode(key[: DEAD_LETTER_BYTES // 10]).decode(),
        value=None if value is None else b64encode(value[:DEAD_LETTER_BYTES]).decode(),
        value_bytes=len(value or b""),
    )
