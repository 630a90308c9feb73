"""Start and rebalance: the arena gets the rows that belong to the group's committed offsets.

Nothing is assigned unless the offset and the rows of every partition belong together.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException

from stream.events import Partition
from stream.kafka.changelog import POSITION_KEY, Changelog, Position, disagreement
from stream.kafka.delivery import Delivery
from stream.state.arena import Arena

RECOVERY_S = 60.0
AGREE_TRIES, AGREE_PAUSE_S = 20, 0.5
"""A number of tries and not a time limit: a worker that is frozen between the two reads exceeds any limit."""

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

    async def recover(self, partitions: Sequence[Partition], generation: int, member: bytes) -> Assignment | None:
        """Restore the arena for the partitions that the group has just given to this worker.

        1. membership  generation and member id, taken by the caller in the same rebalance and kept for the assignment
        2. start       once: the transaction that an earlier process under this id left open is rolled back
        3. offsets     the group's committed ones; the broker waits for a pending transaction over them
        4. rows        of the changelog, committed ones up to its high watermark; not before 3, or rows could be older
                       than the offsets
        5. compare     the changelog's own position with the committed offset. They differ for a worker that was frozen
                       between 3 and 4, or that has lost the partitions. So 3 and 4 are repeated up to AGREE_TRIES
                       times. If the offset moves meanwhile, another worker has the partitions: the result is None,
                       and a rebalance will follow
        6. restore     the arena's rows, all at once
        7. seek        the consumer goes to `next` of the assignment, also where nothing was committed yet; from then
                       on each chunk must begin where the last one ended

        Only 2 changes anything in Kafka: after a crash between any two steps the next start begins at 1 and finds what
        this one found. Until 6 the arena holds the rows of the assignment before, and no cycle runs.

        Every partition is read again, also one that this worker had before: after a freeze its rows may be old. Called
        in the event loop. Raises ConfigError if rows and offsets do not belong together.
        """
        began = time.monotonic()
        if not self._started:
            await self._delivery.start()  # 2
            self._started = True
        positions, rows = await self._in_engine(self._restore, partitions)  # 3 to 6
        names = ", ".join(map(str, partitions))
        if positions is None:
            log.warning("recovery overtaken by the group: partitions=[%s] generation=%d", names, generation)
            return None
        assignment = Assignment(generation, member, {p: position.next for p, position in positions.items()})  # for 7
        log.info(
            "partitions recovered: partitions=[%s] generation=%d users=%d rows_read=%d seconds=%.2f",
            names,
            generation,
            len(self._arena),
            rows,
            time.monotonic() - began,
        )
        return assignment

    def _restore(self, partitions: Sequence[Partition]) -> tuple[dict[Partition, Position] | None, int]:
        """Steps 3 to 6 of `recover`, in the engine thread.

        Returns the group's positions, None if another worker has the partitions, and how many rows were read.
        """
        first: dict[Partition, Position] | None = None
        for left in reversed(range(AGREE_TRIES)):
            found = _patiently(self._changelog.positions, partitions)  # 3
            first = first or found
            rows = _patiently(self._changelog.read, partitions)  # 4
            marks = {p: rows[p].pop(POSITION_KEY, None) for p in partitions}  # 5
            stands = {p: None if mark is None else int(mark) for p, mark in marks.items()}
            apart = next((p for p in partitions if stands[p] != found[p].committed), None)
            if apart is None:
                break
            committed, position = found[apart].committed, stands[apart]
            if committed != first[apart].committed:
                return None, 0
            if not left:
                raise disagreement(self._changelog.group, apart, committed, position)
            log.warning(
                "offsets and changelog apart, read again: partition=%s committed=%s changelog=%s",
                apart,
                committed,
                position,
            )
            time.sleep(AGREE_PAUSE_S)
        for kept in self._arena.partitions():  # 6
            self._arena.drop(kept)
        for partition in partitions:
            self._arena.restore(partition, rows[partition])
        return found, sum(map(len, rows.values()))


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
