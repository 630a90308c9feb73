"""Writes a batch: its records are made, and become one Kafka transaction with its rows and offsets.

The engine may process the next batch meanwhile, on top of the rows of this one: `early`. It uses the graphs, which
leave Python to others, while the records are made in a thread of their own.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from stream.access.begin import metadata
from stream.engine.engine import Engine
from stream.kafka.delivery import Delivery, Outcome, Undecided
from stream.meter import Meter
from stream.process import OneThread
from stream.settings import Topics
from stream.worker.cycles.batch import Batch, encode_all
from stream.worker.cycles.recovery import Assignment, Recovery

ROLL_BACKS = 10
"""The worker ends after so many roll-backs of one batch; it would otherwise repeat a bad batch for ever."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 4.0
"""The pause after a roll-back: twice as long after each. Together they are longer than TopicWatch needs to see that a
topic is gone, and a topic that is made again meanwhile is written to."""

log = logging.getLogger(__name__)


@dataclass
class Writing:
    """A batch that is being written.

    task   ends when it is written or given up
    early  its rows are in the arena already, for the next batch
    known  Kafka has it, and its rows are being put in place
    """

    batch: Batch
    assignment: Assignment
    task: "asyncio.Task[None]" = field(init=False)
    early: bool = False
    known: bool = False

    @property
    def kafka_s(self) -> float:
        """How long the transaction took, seconds; 0 if Kafka does not have it."""
        return sum(self.batch.seconds.get(stage, 0.0) for stage in ("produce", "commit"))


class Writer:
    """Writes the batches of one worker, one at a time. Every method is called in the event loop.

    thread    the engine thread
    limits    topic -> the most bytes of a record
    """

    def __init__(
        self,
        engine: Engine,
        thread: OneThread,
        delivery: Delivery,
        recovery: Recovery,
        topics: Topics,
        limits: Mapping[str, int],
        meter: Meter,
    ) -> None:
        self._engine, self._thread = engine, thread
        self._delivery, self._recovery = delivery, recovery
        self._topics, self._limits = topics, limits
        self._metadata = metadata(topics.recommendations)
        self._encoding = ThreadPoolExecutor(1, "encode")
        self._meter = meter
        for outcome in Outcome:
            meter.count("transactions", 0, outcome=outcome.value)

    async def put_early(self, writing: Writing) -> None:
        """Put the rows of a batch in place that Kafka does not have yet."""
        await self._thread.run(self._engine.committed.put_early, writing.batch.cycle.staged)
        writing.early = True

    async def write(self, writing: Writing, current: Callable[[], bool]) -> Outcome | None:
        """Steps 3 and 4 of a cycle. Returns COMMITTED, STALE, or None: the assignment was over before.

        current  False after the assignment is over
        """
        assignment, loop = writing.assignment, asyncio.get_running_loop()
        encoding = partial(encode_all, self._engine, self._topics, self._limits, writing.batch)
        writing.batch = batch = await loop.run_in_executor(self._encoding, encoding)
        pause_s, left = FIRST_PAUSE_S, ROLL_BACKS
        while left:
            if not current():
                return None
            outcome = await self._deliver(batch, assignment)  # 3
            self._meter.count("transactions", outcome=outcome.value)
            if outcome is Outcome.COMMITTED:
                writing.known, began_s = True, time.perf_counter()
                if writing.early:
                    self._engine.commit(batch.cycle)
                else:
                    await self._thread.run(self._engine.commit, batch.cycle)  # 4
                batch.seconds.update(self._delivery.seconds, apply=time.perf_counter() - began_s)
                assignment.next.update(batch.offsets)
            if outcome is not Outcome.ROLLED_BACK:
                return outcome
            left -= not await self._delivery.targets.led(batch.records, current)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        raise RuntimeError(f"the same transaction was rolled back {ROLL_BACKS} times")

    async def _deliver(self, batch: Batch, assignment: Assignment) -> Outcome:
        """Step 3 of a cycle. After a producer that hung or broke, its successor finds out what came of the batch."""
        try:
            return await self._delivery.commit(batch.records, batch.offsets, assignment.member, self._metadata)
        except Undecided as exc:
            log.warning("producer replaced, its transaction may be committed or not: reason=%s", exc)
        await self._delivery.restart()
        return await self._recovery.outcome(assignment, batch.offsets, batch.cycle.staged.times)

    def close(self) -> None:
        """End the thread that makes records."""
        self._encoding.shutdown(wait=False)
