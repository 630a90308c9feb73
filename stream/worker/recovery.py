"""Start and rebalance: the arena gets the rows that belong to the group's committed offsets.

Nothing is assigned unless the offset and the rows of every partition belong together and no row is missing.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException

from stream.errors import ConfigError
from stream.events import Partition, hashed
from stream.kafka.changelog import Changelog, Mark, Position, disagreement
from stream.kafka.delivery import Delivery
from stream.state.arena import Arena, Totals

RECOVERY_S = 60.0
AGREE_TRIES, AGREE_PAUSE_S = 20, 0.5
"""A number of tries and not a time limit: a worker that is frozen between the two reads exceeds any limit."""

MOST_BROKEN, MOST_BROKEN_SHARE = 10, 0.01
"""More broken rows in a partition than both are no accident of single rows: the worker does not start."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assignment:
    """What this worker may write until the next rebalance.

    member  the group's generation and member id at the time when the partitions were recovered
    next    partition -> the offset at which the next chunk must begin
    """

    generation: int
    member: bytes
    next: dict[Partition, int]


class Recovery:
    """Restores an arena from the changelog.

    in_engine  runs a call in the engine thread
    """

    def __init__(
        self, delivery: Delivery, changelog: Changelog, arena: Arena, in_engine: Callable[..., Awaitable[Any]]
    ) -> None:
        self._delivery = delivery
        self._changelog = changelog
        self._arena = arena
        self._in_engine = in_engine
        self._started = False
        self._last: Assignment | None = None
        self._broken: dict[Partition, set[bytes]] = {}

    async def recover(self, partitions: Sequence[Partition], generation: int, member: bytes) -> Assignment | None:
        """Restore the arena for the partitions that the group has just given to this worker.

        1. membership  generation and member id, taken by the caller in the same rebalance and kept for the assignment
        2. start       once: the transaction that an earlier process under this id left open is rolled back
        3. offsets     the group's committed ones; the broker waits for a pending transaction over them
        4. keep        of a partition that this worker had before, only the mark at the end of the changelog is read. If
                       offset, number of rows and checksum are those in memory, the rows in memory stay
        5. rows        of each other partition: committed ones up to the high watermark of the changelog; not before 3,
                       or rows could be older than the offsets
        6. compare     the mark's offset with the committed one. They differ for a worker that was frozen between 3 and
                       5, or that has lost the partitions. So 3 to 5 are repeated up to AGREE_TRIES times. If the
                       offset moves meanwhile, another worker has the partitions: the result is None, and a rebalance
                       will follow
        7. check       the rows that were read against the number and the checksum in the mark
        8. seek        the consumer goes to `next` of the assignment, also where nothing was committed yet; from then
                       on each chunk must begin where the last one ended

        Only 2 changes anything in Kafka: after a crash between any two steps the next start begins at 1 and finds what
        this one found. No cycle runs meanwhile. Called in the event loop. Raises ConfigError if rows and offsets do not
        belong together, or if rows are missing.
        """
        began = time.monotonic()
        if not self._started:
            await self._delivery.start()  # 2
            self._started = True
        positions, kept = await self._in_engine(self._restore, partitions)  # 3 to 7
        names = ", ".join(map(str, partitions))
        if positions is None:
            log.warning("recovery overtaken by the group: partitions=[%s] generation=%d", names, generation)
            return None
        self._last = Assignment(generation, member, {p: position.next for p, position in positions.items()})  # for 8
        log.info(
            "partitions recovered: partitions=[%s] generation=%d kept=%d users=%d seconds=%.2f",
            names,
            generation,
            len(kept),
            len(self._arena),
            time.monotonic() - began,
        )
        return self._last

    def _restore(
        self, partitions: Sequence[Partition]
    ) -> tuple[Mapping[Partition, Position] | None, Collection[Partition]]:
        """Steps 3 to 7 of `recover`, in the engine thread.

        Returns the group's positions, None if another worker has the partitions; and the partitions that were kept.
        """
        first: Mapping[Partition, Position] | None = None
        for lost in set(self._arena.partitions()).difference(partitions):
            self._arena.drop(lost)
        for left in reversed(range(AGREE_TRIES)):
            found = _patiently(self._changelog.positions, partitions)  # 3
            first = first or found
            marks = self._unchanged(partitions)  # 4
            kept = list(marks)
            marks |= _patiently(self._read, [p for p in partitions if p not in marks])  # 5
            stands = {p: marks[p].next if p in marks else None for p in partitions}
            apart = next((p for p in partitions if stands[p] != found[p].committed), None)  # 6
            if apart is None:
                break
            committed, position = found[apart].committed, stands[apart]
            if committed != first[apart].committed:
                return None, ()
            if not left:
                raise disagreement(self._changelog.group, apart, committed, position)
            log.warning(
                "offsets and changelog apart, read again: partition=%s committed=%s changelog=%s",
                apart,
                committed,
                position,
            )
            time.sleep(AGREE_PAUSE_S)
        for partition in partitions:
            if partition not in kept:
                self._check(partition, marks.get(partition))  # 7
        return found, kept

    def _unchanged(self, partitions: Sequence[Partition]) -> dict[Partition, Mark]:
        """Step 4: the marks of the partitions whose rows are in memory as the changelog holds them."""
        had = self._last.next if self._last is not None else {}
        held = [p for p in partitions if p in had and p in self._arena.partitions()]
        ours = {p: Mark(had[p], *self._arena.totals(p)) for p in held}
        found: Mapping[Partition, Mark] = _patiently(self._changelog.marks, held) if held else {}
        return {p: mark for p, mark in found.items() if mark == ours[p]}

    def _read(self, partitions: Sequence[Partition]) -> dict[Partition, Mark]:
        """Step 5: rows go into the arena while they are read. Nothing uses them before step 7."""
        for partition in partitions:
            self._arena.hold(partition)
            self._broken[partition] = set()
        return self._changelog.read(partitions, self._load) if partitions else {}

    def _load(self, partition: Partition, rows: Mapping[bytes, bytes | None]) -> None:
        broken = self._arena.load(partition, rows)
        self._broken[partition].difference_update(rows)  # a later row replaces a broken one
        self._broken[partition].update(broken)

    def _check(self, partition: Partition, mark: Mark | None) -> None:
        """Step 7: are these the rows that were written? Raises ConfigError if not.

        A broken row costs its user the history, and nobody else: the user begins again. Rows that are missing or too
        old cannot be named, so the worker does not start with them.
        """
        broken, totals = sorted(self._broken.pop(partition, ())), self._arena.totals(partition)
        users, checksum = (0, 0) if mark is None else (mark.users, mark.checksum)
        most = max(MOST_BROKEN, int(users * MOST_BROKEN_SHARE))
        explained = totals.users <= users <= totals.users + len(broken) if broken else (users, checksum) == totals
        if not explained or len(broken) > most:
            raise missing_rows(partition, Totals(users, checksum), totals, broken)
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
        "topic from a copy, or set another --changelog-topic and --group to begin without history"
    )


def _patiently(read: Callable[[Sequence[Partition]], Any], partitions: Sequence[Partition]) -> Any:
    """Read, and repeat it for up to RECOVERY_S: a broker's restart often causes the rebalance. In the engine thread."""
    deadline = time.monotonic() + RECOVERY_S
    while True:
        try:
            return read(partitions)
        except KafkaException as exc:
            if not (exc.args[0].retriable() or exc.args[0].code() < 0) or time.monotonic() > deadline:
                raise
            log.warning("recovery reads again: error=%s", exc.args[0].name())
            time.sleep(0.2)
