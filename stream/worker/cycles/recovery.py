"""Start and rebalance: the arena gets the rows that belong to the group's committed offsets.

No partition is read on unless its offset and its rows belong together and no row is missing. A partition that this
worker had before, and whose rows are right, is not read again and does not wait for the others.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from stream.access.begin import Begin, earliest
from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import POSITION_KEY, Changelog, Mark, Position, disagreement
from stream.kafka.delivery import Delivery, Outcome, Record
from stream.kafka.leaders import led, with_leaders
from stream.kafka.waiting import Watch, in_daemon
from stream.log_lines import hashed
from stream.meter import Meter
from stream.state.arena import Arena
from stream.state.checksum import Totals

AGREE_TRIES, AGREE_PAUSE_S = 20, 0.5
"""A number of tries and not a time limit: a worker that is frozen between the two reads exceeds any limit."""

BEGIN_TRIES = 10
MOST_BROKEN, MOST_BROKEN_SHARE = 10, 0.01
"""More broken rows in a partition than both are no accident of single rows: the worker does not start."""

Offsets = Mapping[Partition, int]
"""Partition of the clicks -> the offset to read next."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assignment:
    """What this worker may write until the next rebalance.

    member  the group's generation and member id at the time when the partitions were recovered
    next    recovered partition -> the offset at which the next chunk must begin
    """

    generation: int
    member: bytes
    next: dict[Partition, int]


class Abandoned(Exception):
    """A new assignment has begun: what was read for the one before is not needed any more."""


class Recovery:
    """Restores an arena from the changelog. `keep` and `read` are called in the event loop.

    engine    the engine thread, which alone touches the arena
    watch     its clock measures the time limits
    begin_at  where a group begins that has no committed offset
    meter     gets the rows that were read and the time of each recovery
    """

    def __init__(
        self,
        delivery: Delivery,
        changelog: Changelog,
        arena: Arena,
        engine: ThreadPoolExecutor,
        watch: Watch,
        begin_at: Begin = earliest,
        meter: Meter | None = None,
    ) -> None:
        self._delivery, self._changelog = delivery, changelog
        self._arena, self._engine = arena, engine
        self._watch = watch
        self._begin_at = begin_at
        self._meter = meter or Meter()
        self._started = False
        self._last: Assignment | None = None
        self._current: Assignment | None = None
        self._broken: dict[Partition, set[bytes]] = {}

    async def keep(self, partitions: Sequence[Partition], generation: int, member: bytes) -> Assignment:
        """Begin an assignment with the partitions that this worker had before and whose rows in memory are right.

        1. membership  generation and member id, taken by the caller in the same rebalance and kept for the assignment
        2. start       once: the transaction that an earlier process under this id left open is rolled back
        3. keep        of a partition that this worker had before, only the group's offset and the mark at the end of
                       the changelog are read. If offset, number of rows and checksum are those in memory, the rows
                       stay, and the partition is in `next` of the result

        Only 2 changes anything in Kafka: after a crash between any two steps, here and in `read`, the next start begins
        at 1 and finds what this one found. No cycle runs meanwhile.
        """
        had = self._last.next if self._last is not None else {}
        self._current = None  # a `read` of the assignment before stops at its next batch
        if not self._started:
            await self._delivery.start()  # 2
            self._started = True
        kept = await in_daemon("recovery", self._keep, partitions, had)  # 3
        self._last = self._current = Assignment(generation, member, kept)
        return self._last

    def _keep(self, partitions: Sequence[Partition], had: Offsets) -> dict[Partition, int]:
        """Step 3, in a thread of its own: the partitions to keep, and the offsets to continue at."""
        ours = self._engine.submit(self._hold, partitions, had).result()
        held = list(ours)
        if not held:
            return {}
        found = led(self._watch, self._changelog.positions, held)
        marks = led(self._watch, self._changelog.marks, list(found))
        return {p: had[p] for p in found if marks.get(p) == ours[p] and found[p].committed == had[p]}

    def _hold(self, partitions: Sequence[Partition], had: Offsets) -> dict[Partition, Mark]:
        """In the engine thread: drop the rows of other partitions. Returns the marks that fit the rows in memory."""
        for lost in set(self._arena.partitions()).difference(partitions):
            self._arena.drop(lost)
        held = self._arena.partitions()
        return {
            p: Mark(had[p], *self._arena.totals(p), self._arena.newest_ms(p), self._arena.kept.get(p, b""))
            for p in partitions
            if p in had and p in held
        }

    async def outcome(self, assignment: Assignment, offsets: Offsets, times: Mapping[Partition, int]) -> Outcome:
        """How an undecided transaction ended that would have committed `offsets`. Call it after `Delivery.restart`.

        Kafka's own offsets say it, or where they stay the `times` in the marks. If the offsets are neither those of the
        transaction nor those before it, another worker has the partitions.
        """
        partitions, before = list(offsets), {p: assignment.next[p] for p in offsets}
        found = await in_daemon("recovery", with_leaders, self._watch, self._changelog.positions, partitions)
        stands = {p: position.next for p, position in found.items()}
        if stands == offsets == before:
            marks = await in_daemon("recovery", with_leaders, self._watch, self._changelog.marks, partitions)
            return Outcome.COMMITTED if {p: m.time_ms for p, m in marks.items()} == times else Outcome.ROLLED_BACK
        if stands == offsets:
            return Outcome.COMMITTED
        return Outcome.ROLLED_BACK if stands == before else Outcome.STALE

    async def read(self, assignment: Assignment, partitions: Sequence[Partition]) -> Offsets | None:
        """Restore the other partitions of an assignment from the changelog. Cycles of the kept ones run meanwhile.

        4. offsets     the group's committed ones; the broker waits for a pending transaction over them
        5. rows        committed ones up to the high watermark of the changelog; not before 4, or rows could be older
                       than the offsets. They go into the arena batch by batch
        6. compare     the mark's offset with the committed one. They differ for a worker that was frozen between 4 and
                       5, or that has lost the partitions. So 4 and 5 are repeated up to AGREE_TRIES times. If the
                       offset moves meanwhile, another worker has the partitions, and a rebalance will follow
        7. check       the rows that were read against the number and the checksum in the mark. If they differ, the
                       offset is read once more: the end of 5 may be in the middle of a transaction, for a worker that
                       was frozen before it and has lost the partitions
        8. begin       a group without an offset may begin elsewhere than at the first click (access.begin). A
                       transaction with this offset and a mark makes it last: after a crash before the first cycle,
                       `latest` would be another offset, and the clicks between would be lost
        9. seek        the caller moves the consumer to the offsets of the result, also where nothing was committed yet;
                       from then on each chunk must begin where the last one ended

        Returns the offsets to continue at, which are also in `next` of the assignment then; None if the partitions
        went to another worker. Raises ConfigError if rows and offsets do not belong together, or if rows are missing.
        """
        began, kept = time.monotonic(), len(assignment.next)
        rest = [p for p in partitions if p not in assignment.next]
        names = ", ".join(map(str, partitions))
        try:
            positions = await in_daemon("recovery", self._restore, assignment, rest) if rest else {}  # 4 to 7
            began_at = None if positions is None else await self._begin_group(assignment, positions)  # 8
        except Exception:
            if self._current is assignment:
                raise
            return None  # whatever failed was read for an assignment that is over
        if positions is None or began_at is None:
            log.warning("recovery overtaken by the group: partitions=[%s] generation=%d", names, assignment.generation)
            return None
        found = {p: began_at.get(p, position.next) for p, position in positions.items()}
        assignment.next.update(found)
        if rest:
            self._meter.observe("recovery", time.monotonic() - began)
        log.info(
            "partitions recovered: partitions=[%s] generation=%d kept=%d users=%d seconds=%.2f",
            names,
            assignment.generation,
            kept,
            len(self._arena),
            time.monotonic() - began,
        )
        return found

    async def _begin_group(self, assignment: Assignment, positions: Mapping[Partition, Position]) -> Offsets | None:
        """Step 8: where the group begins in partitions without an offset. None if another worker has them."""
        fresh = [p for p, position in positions.items() if position.committed is None]
        asked = await in_daemon("recovery", with_leaders, self._watch, self._begin_at, fresh) if fresh else {}
        begins = {p: max(at, positions[p].next) for p, at in asked.items()}  # Kafka may have deleted up to there
        topic = self._changelog.topic
        marks = [Record(topic, POSITION_KEY, Mark(at, 0, 0).encode(), p.number) for p, at in begins.items()]
        for _ in range(BEGIN_TRIES if begins else 0):
            outcome = await self._delivery.commit(marks, begins, assignment.member)
            if outcome is Outcome.COMMITTED:
                offsets = {str(p): offset for p, offset in begins.items()}
                log.info("a new group begins at these offsets and decides no earlier click: offsets=%s", offsets)
                return begins
            if outcome is Outcome.STALE:
                break
        return None if begins else {}

    def _restore(self, assignment: Assignment, partitions: Sequence[Partition]) -> dict[Partition, Position] | None:
        """Steps 4 to 7 of `read`, in a thread of their own. None if another worker has the partitions."""
        wait = partial(with_leaders, self._watch, go_on=partial(self._in_engine, assignment, lambda: None))
        first: Mapping[Partition, Position] | None = None
        for left in reversed(range(AGREE_TRIES)):
            found = wait(self._changelog.positions, partitions)  # 4
            first = first or found
            marks = wait(partial(self._read, assignment), partitions)  # 5
            stands = {p: marks[p].next if p in marks else None for p in partitions}
            apart = next((p for p in partitions if stands[p] != found[p].committed), None)  # 6
            if apart is None:
                break
            committed, position = found[apart].committed, stands[apart]
            if committed != first[apart].committed:
                return None
            if not left:
                raise disagreement(self._changelog.group, apart, committed, position)
            log.warning(
                "offsets and changelog apart, read again: partition=%s committed=%s changelog=%s",
                apart,
                committed,
                position,
            )
            time.sleep(AGREE_PAUSE_S)
        try:
            for partition in partitions:
                self._in_engine(assignment, self._check, partition, marks.get(partition))  # 7
        except ConfigError:
            again = wait(self._changelog.positions, partitions)
            if any(again[p].committed != found[p].committed for p in partitions):
                return None
            raise
        return dict(found)

    def _in_engine(self, assignment: Assignment, call: Callable[..., None], *arguments: Any) -> None:
        """Run a call in the engine thread and wait for it. Raises Abandoned if a new assignment has begun."""

        def unless_abandoned() -> None:
            if self._current is not assignment:
                raise Abandoned
            call(*arguments)

        self._engine.submit(unless_abandoned).result()

    def _read(self, assignment: Assignment, partitions: Sequence[Partition]) -> dict[Partition, Mark]:
        """Step 5. Nothing uses the rows before step 7."""
        for partition in partitions:
            self._in_engine(assignment, self._begin, partition)
        return self._changelog.read(partitions, partial(self._in_engine, assignment, self._load))

    def _begin(self, partition: Partition) -> None:
        self._arena.hold(partition)
        self._broken[partition] = set()

    def _load(self, partition: Partition, rows: Mapping[bytes, bytes | None]) -> None:
        broken = self._arena.load(partition, rows)
        self._meter.count("recovered_rows", len(rows))
        self._broken[partition].difference_update(rows)  # a later row replaces a broken one
        self._broken[partition].update(broken)

    def _check(self, partition: Partition, mark: Mark | None) -> None:
        """Step 7: are these the rows that were written? Raises ConfigError if not.

        A broken row costs its user the history, and nobody else: the user begins again. Rows that are missing or too
        old cannot be named, so the worker does not start with them.
        """
        broken, totals = sorted(self._broken.pop(partition, ())), self._arena.totals(partition)
        written = mark or Mark(0, 0, 0)
        self._arena.kept[partition] = written.kept
        self._arena.advance(partition, written.time_ms)
        most = max(MOST_BROKEN, int(written.users * MOST_BROKEN_SHARE))
        if not written.accounts_for(*totals, len(broken)) or len(broken) > most:
            raise missing_rows(partition, Totals(written.users, written.checksum), totals, broken)
        if broken:
            log.error(
                "broken rows in the changelog, their users begin without history: partition=%s rows=%d first_user=%s",
                partition,
                len(broken),
                hashed(broken[0]),
            )


def missing_rows(partition: Partition, written: Totals, read: Totals, broken: Sequence[bytes]) -> ConfigError:
    """The error for a changelog whose rows are not those that were written. It says what to do."""
    first = f"; {len(broken)} rows are broken, the first one of user {hashed(broken[0])}" if broken else ""
    return ConfigError(
        f"the changelog of partition {partition} lost or changed rows: {written.users} users with checksum "
        f"{written.checksum:016x} were written, {read.users} with {read.checksum:016x} are there{first}. Check that "
        "its topic has cleanup.policy=compact and that nothing else writes to it or deletes its records. Restore the "
        "topic from a copy, or run `eddy topics repair --accept-lost-rows`: users without a row then begin without "
        "history"
    )
