"""The work: chunks of clicks become one cycle, and a cycle one transaction.

    start, rebalance   recover offsets and rows
    cycle              decode and process (rows are staged) -> transaction -> commit the staged rows -> ack
    rest               partitions without clicks for half an hour: their sessions end, in a transaction of its own
    revoke             the running cycle ends, no new one begins, pending fetches are released

Rows are put in place only after Kafka has them, and only one cycle runs at a time. Five threads take part: the event
loop, which calls everything here; the consumer thread, which fetches and heartbeats (kafka.fetch); the engine thread,
which has the codec, the engine and the arena to itself; the delivery thread, which has the producer; and while new
partitions are recovered, a thread that reads the changelog (worker.cycles.recovery).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from stream.access.begin import Begin, earliest, metadata
from stream.engine.engine import Engine
from stream.errors import NoRegistry
from stream.events import Partition
from stream.kafka.changelog import Changelog
from stream.kafka.delivery import Delivery, Outcome, Undecided
from stream.kafka.fetch import CYCLE_BYTES, Chunk, Fetch
from stream.kafka.waiting import NoWatch, Watch, in_daemon, patiently
from stream.meter import Meter
from stream.process import OneThread
from stream.sessions.rest import Rest
from stream.settings import Topics
from stream.web.health import Doing
from stream.wire.codec import Codec
from stream.worker.cycles.batch import Batch, process, rest
from stream.worker.cycles.recovery import Assignment, Recovery

TICK_S = 1.0
"""How often partitions at rest are looked for while no clicks come."""

ROLL_BACKS = 10
"""The worker ends after so many roll-backs of one batch; it would otherwise repeat a bad batch for ever."""

ENGINE_SLOW_S, ENGINE_HANGS_S = 20.0, 300.0
"""The log says that one call in the engine thread takes so long, and the worker ends. A cycle takes less than a second,
but a GPU may compile its kernels for minutes at the first one."""

SLOW = (
    "no click is decided, the engine works on one batch: busy_s=%.0f at=%s; the model is too slow for "
    "--max-cycle-clicks, or it hangs: then the worker ends after %.0f s"
)

log = logging.getLogger(__name__)


class Cycles:
    """Runs one worker's cycles. Every method is called in the event loop, unless it says otherwise.

    limits      topic -> the most bytes of a record, as topics.record_limits gives them
    max_clicks  of one cycle; a single fetch may not hold more
    clock_ms    the worker's clock, ms since the epoch; a click may not be far ahead of it
    observe     called with the chunks and the batch of each committed cycle; without chunks for partitions at rest
    watch       its clock measures time limits: they stand still while Kafka does not answer
    begin_at    where a group begins that has no committed offset
    meter       gets transactions, rebalances and recoveries; `observe` has what was committed
    """

    def __init__(
        self,
        engine: Engine,
        codec: Codec,
        delivery: Delivery,
        changelog: Changelog,
        topics: Topics,
        limits: Mapping[str, int],
        max_clicks: int,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        observe: Callable[[Sequence[Chunk], Batch], None] = lambda chunks, batch: None,
        watch: Watch | None = None,
        begin_at: Begin = earliest,
        meter: Meter | None = None,
    ) -> None:
        self._engine, self._codec, self._delivery = engine, codec, delivery
        self._topics, self._limits, self._max_clicks = topics, limits, max_clicks
        self._metadata = metadata(topics.recommendations)
        self._clock_ms, self._observe = clock_ms, observe
        self._watch, self._meter = watch or NoWatch(), meter or Meter()
        for outcome in Outcome:
            self._meter.count("transactions", 0, outcome=outcome.value)
        self._thread = OneThread("engine", lambda: self._watch.answered_s)
        self._changelog, self._rest, pool = changelog, Rest(), self._thread.pool
        self._recovery = Recovery(delivery, changelog, engine.arena, pool, self._watch, begin_at, self._meter)
        self._pending: deque[Any] = deque()
        self._arrived = asyncio.Event()
        self._assignment: Assignment | None = None
        self._stale_at: float | None = None
        self._cycle_since_s: float | None = None  # since when a cycle runs
        self.closed, self._phase = False, "joining"  # one of health.WHY_NOT_READY

    # -- what the agent and the rebalance hooks call ------------------------------------------------------------------

    def offer(self, event: Any) -> None:
        """Take an event that carries a Fetch. It is acked when its clicks are decided."""
        self._pending.append(event)
        self._arrived.set()

    def release(self) -> list[Any]:
        """Give up the fetches of which no cycle has begun, and end the assignment. Returns the events given up."""
        self._assignment = None
        self._phase = "rebalancing"
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
        assignment, since_s, busy_s = self._assignment, self._cycle_since_s, self._thread.busy_s()
        longest_s = max(busy_s, 0.0 if since_s is None else self._watch.answered_s - since_s)
        partitions = 0 if assignment is None else len(assignment.next)
        return Doing(self._phase, partitions, longest_s, longest_s > ENGINE_SLOW_S, busy_s > ENGINE_HANGS_S)

    def check_rejoined(self, limit_s: float) -> None:
        """Raises TimeoutError if the group refused our offsets more than `limit_s` ago and no rebalance followed.

        An outage does not count.
        """
        if self._stale_at is not None and self._watch.answered_s - self._stale_at > limit_s:
            raise TimeoutError(f"no rebalance for {limit_s:.0f} s after the group refused this worker's offsets")

    def check_engine(self) -> None:
        """Log a warning if the engine thread has been busy with one call for ENGINE_SLOW_S, and again as often.

        Raises TimeoutError after ENGINE_HANGS_S. An outage does not count, nor the time of a frozen process.
        """
        busy_s = self._thread.busy_s()
        if busy_s > ENGINE_HANGS_S:
            raise TimeoutError(f"the engine has worked on one batch for {busy_s:.0f} s; it is at {self._thread.line()}")
        if self._thread.slow(ENGINE_SLOW_S):
            log.warning(SLOW, busy_s, self._thread.line(), ENGINE_HANGS_S)

    async def recover(self, partitions: Sequence[Partition], generation: int, member: bytes) -> Assignment:
        """Begin an assignment with the partitions that `Recovery.keep` keeps. Call `read` next for the others."""
        self._stale_at = None
        self._phase = "recovering"
        self._meter.count("rebalances")
        self._assignment = await self._recovery.keep(partitions, generation, member)
        return self._assignment

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
        self._assignment = None
        self._stale_at = None
        self._phase = "spare"
        self._meter.count("rebalances")

    def _lose(self) -> None:
        """The group has refused this worker's offsets: it writes nothing until the next rebalance."""
        self._assignment = None
        self._stale_at = self._watch.answered_s
        self._phase = "rejoining"

    async def run(self) -> None:
        """Decide on what arrives, until `close`. Each cycle:

        1. take      fetches in the order in which they came
        2. process   decode, step, encode; rows are staged. After a crash before 3 the clicks are read again
        3. deliver   one transaction; `Delivery.commit` says what a crash in it leaves
        4. commit    the staged rows into the arena. After a crash between 3 and 4 recovery reads the changelog
        5. ack       Faust does not wait for these fetches any more. After a crash between 4 and 5 nothing is missing:
                     Faust's account is in memory only
        """
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), TICK_S)
            if self.closed:  # Faust cancels this task a while after `close`; a tick would find no engine thread
                return
            events = self._take()  # 1
            if not events:
                self._arrived.clear()
                await self._let_rest()
                continue
            self._cycle_since_s = self._watch.answered_s
            await self._decide([chunk for event in events for chunk in event.value.chunks])  # 2 to 4
            self._cycle_since_s = None
            for event in events:
                event.ack()  # 5

    async def close(self) -> None:
        """Stop the engine thread. No cycle runs: Faust has waited for the last one."""
        self.closed = True
        self._arrived.set()
        self._thread.pool.shutdown(wait=False)

    # -- one cycle ----------------------------------------------------------------------------------------------------

    def _take(self) -> list[Any]:
        """Pending fetches in their order, up to the size of a cycle; at least one if there is one."""
        taken: list[Any] = []
        clicks = size = 0
        while self._pending:
            fetch: Fetch = self._pending[0].value
            clicks += fetch.records
            size += fetch.size
            if taken and (clicks > self._max_clicks or size > CYCLE_BYTES):
                break
            taken.append(self._pending.popleft())
        return taken

    async def _decide(self, chunks: list[Chunk]) -> None:
        """Steps 2 to 4 of a cycle. A batch of partitions that were lost is dropped: their new owner reads it again."""
        assignment = self._assignment
        if assignment is None:
            return
        ours = [c for c in chunks if c.generation == assignment.generation and c.partition in assignment.next]
        if not ours:
            return
        self._rest.active((chunk.partition for chunk in ours), self._watch.answered_s)
        batch = await self._processed(ours, assignment)  # 2
        if batch is not None and await self._write(batch, assignment):
            self._observe(ours, batch)

    async def _let_rest(self) -> None:
        """End the sessions of partitions at rest. One whose clicks Kafka holds back is not at rest.

        No event waits for this: a rebalance may come at any time. What is written then is refused by the group, or is
        read by the next owner.
        """
        assignment, partitions = self._assignment, self._rest.take(self._watch.answered_s)
        if assignment is None or not partitions:
            return
        ends = await in_daemon("rest", patiently, self._watch, self._changelog.ends, partitions)
        next_ = assignment.next
        behind = [p for p in partitions if ends[p][1] > next_.get(p, 0)]
        resting = [p for p in partitions if p not in behind]
        batch = await self._thread.run(rest, self._engine, self._topics, self._limits, next_, resting)
        self._rest.active([*behind, *batch.offsets], self._watch.answered_s)  # an hour may end by the next rest
        if batch.records and await self._write(batch, assignment):
            self._observe((), batch)

    async def _write(self, batch: Batch, assignment: Assignment) -> bool:
        """Steps 3 and 4 of a cycle. False if the partitions were lost."""
        for _ in range(ROLL_BACKS):
            if self._assignment is not assignment:
                return False
            outcome = await self._deliver(batch, assignment)  # 3
            self._meter.count("transactions", outcome=outcome.value)
            if outcome is Outcome.COMMITTED:
                began_s = time.perf_counter()
                await self._thread.run(self._engine.commit, batch.cycle)  # 4
                batch.seconds.update(self._delivery.seconds, apply=time.perf_counter() - began_s)
                assignment.next.update(batch.offsets)
                return True
            if outcome is Outcome.STALE:  # pending fetches are then acked without a decision, by the return above
                self._lose()
                return False
        raise RuntimeError(f"the same transaction was rolled back {ROLL_BACKS} times")

    async def _deliver(self, batch: Batch, assignment: Assignment) -> Outcome:
        """Step 3 of a cycle. After a producer that hung or broke, its successor finds out what came of the batch."""
        try:
            return await self._delivery.commit(batch.records, batch.offsets, assignment.member, self._metadata)
        except Undecided as exc:
            log.warning("producer replaced, its transaction may be committed or not: reason=%s", exc)
        await self._delivery.restart()
        return await self._recovery.outcome(assignment, batch.offsets, batch.cycle.staged.times)

    async def _processed(self, chunks: list[Chunk], assignment: Assignment) -> Batch | None:
        """Step 2 of a cycle, again until the Schema Registry answers; None if the assignment is over."""
        while self._assignment is assignment and not self.closed:
            try:
                return await self._thread.run(self._process, chunks, assignment.next)
            except NoRegistry:  # nothing was changed, and the registry's client has said it
                self._cycle_since_s = self._watch.answered_s  # waiting is no work that takes too long
                await asyncio.sleep(TICK_S)
        return None

    def _process(self, chunks: list[Chunk], expected: Mapping[Partition, int]) -> Batch:
        """Step 2 of a cycle, in the engine thread."""
        return process(self._engine, self._codec, self._topics, self._limits, chunks, expected, self._clock_ms())
