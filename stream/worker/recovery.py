"""Start and rebalance: offsets and rows as of the last decided transaction.

Only if offset and rows of each partition belong together is anything assigned.
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


class Recovery:
    """Makes an arena stand where Kafka stands.

    clicks     the topic whose offsets are committed
    in_engine  runs a call in the engine's thread
    """

    def __init__(
        self,
        delivery: Delivery,
        changelog: Changelog,
        arena: Arena,
        clicks: str,
        in_engine: Callable[..., Awaitable[Any]],
    ) -> None:
        self._delivery = delivery
        self._changelog = changelog
        self._arena = arena
        self._clicks = clicks
        self._in_engine = in_engine
        self._started = False

    async def recover(self, partitions: Sequence[int], generation: int, member: bytes) -> Assignment | None:
        """Make the arena stand where Kafka stands, for the partitions this worker has just been given.

        1. init_transactions, once: what a former process under this id left open is rolled back
        2. generation and member id: taken once by the caller, never again under this assignment
        3. committed offsets with read_committed: a pending transaction over them is waited for
        4. changelog rows, read_committed, up to the high watermark: not before 3, so that no row is older than it
        5. the position that the changelog holds must be the committed offset: a worker that was frozen between 3 and 4,
           or overtaken by the group, sees them apart, so both are read again AGREE_TRIES times. If the offset moves
           meanwhile, another worker has the partitions: nothing is assigned (None), a rebalance is on its way
        6. the consumer seeks to `positions`, also where nothing was committed yet; each chunk is checked against them

        Every partition is read anew, also one that was kept: what a frozen worker remembers may be old. Raises
        ConfigError if rows and offsets do not belong together.
        """
        began = time.monotonic()
        if not self._started:
            await self._delivery.start()
            self._started = True
        positions, rows = await self._in_engine(self._restore, partitions)
        if positions is None:
            log.warning("recovery overtaken by the group: partitions=%s generation=%d", partitions, generation)
            return None
        assignment = Assignment(generation, member, {p: position.next for p, position in positions.items()})
        log.info(
            "partitions recovered: partitions=%s generation=%d users=%d rows_read=%d seconds=%.2f",
            partitions,
            generation,
            len(self._arena),
            rows,
            time.monotonic() - began,
        )
        return assignment

    def _restore(self, partitions: Sequence[int]) -> tuple[dict[int, Position] | None, int]:
        """Steps 3 to 5 of `recover`, in the engine's thread.

        Where each partition stands, None if overtaken, and how many rows were read.
        """
        first: dict[int, Position] | None = None
        for left in reversed(range(AGREE_TRIES)):
            found = _patiently(self._changelog.positions, partitions)
            first = first or found
            rows = _patiently(self._changelog.read, partitions)
            marks = {p: rows[p].pop(POSITION_KEY, None) for p in partitions}
            stands = {p: None if mark is None else int(mark) for p, mark in marks.items()}
            apart = next((p for p in partitions if stands[p] != found[p].committed), None)
            if apart is None:
                break
            committed, position = found[apart].committed, stands[apart]
            if committed != first[apart].committed:
                return None, 0
            if not left:
                raise disagreement(self._changelog.group, self._clicks, apart, committed, position)
            log.warning(
                "offsets and changelog apart, read again: partition=%d committed=%s changelog=%s",
                apart,
                committed,
                position,
            )
            time.sleep(AGREE_PAUSE_S)
        for held in self._arena.partitions():
            self._arena.drop(held)
        for partition in partitions:
            self._arena.restore(Partition(self._clicks, partition), rows[partition])
        return found, sum(map(len, rows.values()))


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
