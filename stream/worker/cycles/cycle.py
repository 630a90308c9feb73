"""The work: chunks of clicks become one cycle, and a cycle one transaction.

    start, rebalance   recover offsets and rows
    cycle              decode and process (rows are staged) -> transaction -> commit the staged rows -> ack
    rest               partitions without clicks for half an hour: their sessions end, in a transaction of its own
    revoke             the running transaction ends, no new one begins, pending fetches are released

Rows are put in place after Kafka has them. Only of a worker that is behind, one batch is processed while the one before
it is written: on the rows of that one, which are put in place for it. If its transaction then fails, both batches are
dropped, and recovery finds that these rows are not those of the changelog and reads them.

Six threads take part: the event loop, which calls everything here; the consumer thread (kafka.consumer), which fetches
and heartbeats; the engine thread, which has the codec, the engine and the arena to itself; one that makes the records;
the delivery thread, which has the producer; and while new partitions are recovered, one that reads the changelog.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from stream.access.begin import Begin, earliest
from stream.carry.messages import Way
from stream.engine.engine import Engine
from stream.errors import NoRegistry
from stream.events import Partition
from stream.kafka.changelog import Changelog
from stream.kafka.consumer.fetch import Chunk
from stream.kafka.delivery import Delivery, Outcome
from stream.kafka.leaders import led
from stream.kafka.waiting import NoWatch, Watch, in_daemon
from stream.meter import Meter
from stream.process import HANGS_S, SLOW_S, OneThread
from stream.sessions.ends import MOST, rest_ends
from stream.sessions.rest import Rest
from stream.settings import Topics
from stream.web.health import Doing
from stream.wire.codec import Codec
from stream.worker.cycles.batch import Batch, decide, rest
from stream.worker.cycles.recovery import Assignment, Recovery
from stream.worker.cycles.size import CycleSize
from stream.worker.cycles.writing import Writer, Writing

TICK_S = 1.0
"""How often partitions at rest are looked for while no clicks come."""

BEHIND = 500
"""With so many clicks waiting, a cycle begins while the one before is written: it takes longer than most commits. With
fewer it waits, and takes those that come meanwhile, too: fewer cycles cost less."""


class Cycles:
    """Runs one worker's cycles. Every method is called in the event loop, unless it says otherwise.

    limits      topic -> the most bytes of a record, as topics.record_limits gives them
    size        of the cycles
    clock_ms    the worker's clock, ms since the epoch; a click may not be far ahead of it
    observe     called with the chunks and the batch of each committed cycle; without chunks for partitions at rest
    watch       its clock measures time limits: they stand still while Kafka does not answer
    begin_at    where a group begins that has no committed offset
    meter       gets transactions, rebalances and recoveries; `observe` has what was committed
    carries     states go from anonymous ids to users
    thread      (attribute) the engine thread
    """

    def __init__(
        self,
        engine: Engine,
        codec: Codec,
        delivery: Delivery,
        changelog: Changelog,
        topics: Topics,
        limits: Mapping[str, int],
        size: CycleSize,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        observe: Callable[[Sequence[Chunk], Batch], None] = lambda chunks, batch: None,
        watch: Watch | None = None,
        begin_at: Begin = earliest,
        meter: Meter | None = None,
        carries: bool = False,
    ) -> None:
        self._engine, self._codec = engine, codec
        self._topics, self._size = topics, size
        self._way = Way(changelog.group, topics.clicks, limits[topics.clicks]) if carries else None
        self._clock_ms, self._observe = clock_ms, observe
        self._watch, self._meter = watch or NoWatch(), meter or Meter()
        self.thread = OneThread("engine", lambda: self._watch.answered_s)
        self._changelog, self._rest, pool = changelog, Rest(), self.thread.pool
        self._recovery = Recovery(delivery, changelog, engine.arena, pool, self._watch, begin_at, self._meter)
        self._writer = Writer(engine, self.thread, delivery, self._recovery, topics, limits, self._meter)
        self._pending, self._arrived = deque[Any](), asyncio.Event()
        self._assignment: Assignment | None = None
        self._stale_at: float | None = None
        self._writing: Writing | None = None
        self._since_s: deque[float] = deque()  # since when each cycle runs, the first one first
        self.closed, self._phase = False, "joining"  # one of health.WHY_NOT_READY

    def offer(self, event: Any) -> None:
        """Take an event that carries a Fetch. It is acked when its clicks are decided."""
        self._pending.append(event)
        self._arrived.set()

    def release(self) -> list[Any]:
        """Give up the fetches of which no cycle has begun, and end the assignment. Returns the events given up."""
        self._assignment, self._stale_at, self._phase = None, None, "rebalancing"
        given_up, self._pending = list(self._pending), deque()
        return given_up

    def positions(self) -> Mapping[Partition, int]:
        """Partition -> the offset to read next under this assignment; empty while there is none."""
        return {} if self._assignment is None else self._assignment.next

    @property
    def settled(self) -> bool:
        """True while all partitions of the assignment are recovered, or the group has given none."""
        return self._phase in ("assigned", "spare")

    def doing(self) -> Doing:
        """What the worker does now. May be called in any thread."""
        assignment, since_s, busy_s = self._assignment, list(self._since_s), self.thread.busy_s()
        longest_s = max([busy_s, *(self._watch.answered_s - one for one in since_s)])
        partitions = 0 if assignment is None else len(assignment.next)
        return Doing(self._phase, partitions, longest_s, longest_s > SLOW_S, busy_s > HANGS_S)

    def check_rejoined(self, limit_s: float) -> None:
        """Raises TimeoutError if the group refused our offsets more than `limit_s` ago and no rebalance has begun.

        An outage does not count.
        """
        if self._stale_at is not None and self._watch.answered_s - self._stale_at > limit_s:
            raise TimeoutError(f"no rebalance for {limit_s:.0f} s after the group refused this worker's offsets")

    async def recover(self, partitions: Sequence[Partition], generation: int, member: bytes) -> Assignment:
        """Begin an assignment with the partitions that `Recovery.keep` keeps. Call `read` next for the others."""
        await self._written()
        self._assignment, self._stale_at, self._phase = None, None, "recovering"
        await self.thread.run(self._engine.committed.give_up)
        self._meter.count("rebalances")
        assignment = await self._recovery.keep(partitions, generation, member)
        if self._phase == "recovering":  # else a rebalance has begun meanwhile, and this assignment is over
            self._assignment = assignment
        return assignment

    async def read(self, assignment: Assignment, partitions: Sequence[Partition]) -> Mapping[Partition, int]:
        """Read the rest of an assignment and return the offsets to seek; none if the assignment is over."""
        found = await self._recovery.read(assignment, partitions)
        if self._assignment is not assignment:
            return {}
        if found is None:
            self._lose()
            return {}
        self._phase = "assigned"
        self._rest.begin(assignment.next, self._watch.answered_s)
        return found

    def stand_by(self) -> None:
        """The group has given no partitions to this worker: it waits as a spare."""
        self._assignment, self._stale_at, self._phase = None, None, "spare"
        self._meter.count("rebalances")

    def _lose(self) -> None:
        """The group has refused this worker's offsets: it writes nothing until the next rebalance."""
        self._assignment = None
        self._stale_at = self._watch.answered_s
        self._phase = "rejoining"

    async def run(self) -> None:
        """Decide on what arrives, until `close`. Each cycle:

        1. take      fetches in the order in which they came
        2. process   decode and step; rows are staged. After a crash before 3 the clicks are read again
        3. deliver   the records are made; one transaction; `Delivery.commit` says what a crash in it leaves
        4. commit    the staged rows into the arena. After a crash between 3 and 4 recovery reads the changelog
        5. ack       Faust does not wait for these fetches any more. After a crash between 4 and 5 nothing is missing:
                     Faust's account is in memory only

        1 and 2 of one cycle may run during 3 of the one before (`_may_begin`).
        """
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._arrived.wait(), TICK_S)
                if self.closed:  # Faust cancels this task a while after `close`; a tick would find no engine thread
                    return
                if self._writing is not None and self._writing.task.done():
                    await self._written()
                events = self._size.take(self._pending) if self._may_begin() else []  # 1
                if events:
                    chunks: Sequence[Chunk] = [chunk for event in events for chunk in event.value.chunks]
                    while chunks := await self._decide(chunks, events):
                        await self._written()
                    continue
                self._arrived.clear()
                if self._writing is None:
                    await self._let_rest()
        finally:
            if self._writing is not None:
                self._writing.task.cancel()

    async def close(self) -> None:
        """Stop the engine thread. No cycle runs: Faust has waited for the last one."""
        self.closed = True
        self._arrived.set()
        self.thread.pool.shutdown(wait=False)
        self._writer.close()

    def _may_begin(self) -> bool:
        """True if no batch is being written, or if it is worth the work to process another one meanwhile."""
        writing = self._writing
        if writing is None:
            return True
        worth = sum(event.value.records for event in self._pending) >= BEHIND
        return worth and not writing.known and writing.assignment is self._assignment

    async def _decide(self, chunks: Sequence[Chunk], events: Sequence[Any]) -> Sequence[Chunk]:
        """Step 2 of a cycle with the chunks of events, and the begin of step 3 once the batch before is written.

        `Writer.write` drops a batch of partitions that were lost: their new owner reads it again. So it does with one
        on rows that were put in place early for nothing: then there is no assignment any more. Returns the chunks that
        the next cycle must begin with.
        """
        self._since_s.append(self._watch.answered_s)
        assignment, batch, later = self._assignment, None, list[Chunk]()
        if assignment is not None:
            chunks = [c for c in chunks if c.generation == assignment.generation and c.partition in assignment.next]
            self._rest.active((chunk.partition for chunk in chunks), self._watch.answered_s)
            chunks, later = self._size.cut(chunks)
            batch = await self._processed(chunks, assignment) if chunks else None  # 2
        await self._written()
        if assignment is None or batch is None:
            self._end(events)
            return ()
        self._writing = writing = Writing(batch, assignment)
        rest = [*batch.rest, *later]
        writing.task = asyncio.create_task(self._write(writing, () if rest else events))
        writing.task.add_done_callback(lambda task: self._arrived.set())
        return rest

    async def _write(self, writing: Writing, events: Sequence[Any]) -> None:
        """Steps 3 to 5 of a cycle."""
        outcome = await self._writer.write(writing, lambda: self._assignment is writing.assignment)  # 3 and 4
        if outcome is Outcome.STALE and self._assignment is writing.assignment:
            self._lose()  # pending fetches are then acked without a decision
        self._size.took(writing.batch.chunks, writing.batch.work_s, writing.kafka_s)
        self._end(events)
        if outcome is Outcome.COMMITTED:  # the next fetch is on its way meanwhile
            self._observe(writing.batch.chunks, writing.batch)

    def _end(self, events: Sequence[Any]) -> None:
        self._since_s.popleft()
        for event in events:
            event.ack()  # 5

    async def _written(self) -> None:
        """Wait until no batch is being written. Raises what ends the worker."""
        writing = self._writing
        if writing is not None:
            await writing.task
            self._writing = None if self._writing is writing else self._writing

    async def _let_rest(self) -> None:
        """End the sessions of partitions at rest. One whose clicks Kafka holds back is not at rest.

        No event waits for this: a rebalance may come at any time. What is written then is refused by the group, or is
        read by the next owner.
        """
        assignment, partitions = self._assignment, self._rest.take(self._watch.answered_s)
        if assignment is None or not partitions:
            return
        ends = await in_daemon("rest", led, self._watch, self._changelog.ends, partitions)
        arena, known, next_ = self._engine.arena, self._rest.minutes, assignment.next
        behind = [p for p in partitions if p not in ends or ends[p][1] > next_.get(p, 0)]
        resting = {p: known.get(p) or rest_ends(arena.newest_ms(p)) for p in partitions if p not in behind}
        some = resting if len(arena) <= MOST else dict(list(resting.items())[:1])  # together too many may end
        batch = await self.thread.run(rest, self._engine, self._topics, next_, some)
        self._rest.active([*behind, *batch.offsets], self._watch.answered_s)  # an hour may end by the next rest
        left = batch.left_open(some) | (resting.keys() - some.keys())
        self._rest.go_on({partition: resting[partition] for partition in left}, self._watch.answered_s)
        if batch.offsets:
            self._since_s.append(self._watch.answered_s)
            await self._write(Writing(batch, assignment), ())
        if left:
            self._arrived.set()  # they go on at once, after the clicks that came meanwhile

    async def _processed(self, chunks: Sequence[Chunk], assignment: Assignment) -> Batch | None:
        """Step 2 of a cycle, again until the Schema Registry answers; None if the assignment is over."""
        expected, writing = dict(assignment.next), self._writing
        if writing is not None:  # its transaction may fail yet: then this batch is dropped, too
            await self._writer.put_early(writing)
            expected |= writing.batch.offsets
        while self._assignment is assignment and not self.closed:
            try:
                run, engine, codec = self.thread.run, self._engine, self._codec
                return await run(decide, engine, codec, self._topics, chunks, expected, self._clock_ms(), self._way)
            except NoRegistry:  # nothing was changed, and the registry's client has said it
                self._since_s[-1] = self._watch.answered_s  # waiting is no work that takes too long
                await asyncio.sleep(TICK_S)
        return None
