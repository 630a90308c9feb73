"""How many clicks a cycle may have: as many as the worker decides in a part of its session timeout.

At a rebalance the whole group waits for the running cycles of each worker, and nobody decides meanwhile. One that takes
longer than the rebalance timeout ends its worker, which finds a larger backlog when it starts again: two such workers
end each other without end. How long a cycle takes depends on the machine, the model and the clicks, so it is measured.
"""

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from stream.kafka.consumer.fetch import CYCLE_BYTES, Chunk, Fetch, split

PART = 4
"""A cycle may take this part of the session timeout: two can run at a time, and the next one can be slower."""

LEAST = 100
"""Clicks of a cycle at least, and of the first one, about which nothing is known. A worker that is ended in its first
cycle knows as little when it starts again: with a larger one it would be ended again and again."""

log = logging.getLogger(__name__)


class CycleSize:
    """The size of a worker's cycles.

    most       clicks of a cycle at most
    session_s  the session timeout
    clicks     (attribute) clicks of the next cycle at most
    """

    def __init__(self, most: int, session_s: float) -> None:
        self._most, self._limit_s = most, session_s / PART
        self._few_s = 0.0  # how long the transaction of few clicks takes
        self.clicks = min(most, LEAST)

    def take(self, pending: deque[Any]) -> list[Any]:
        """Remove events with fetches for one cycle, in their order; at least one if there is one."""
        taken: list[Any] = []
        clicks = size = 0
        while pending:
            fetch: Fetch = pending[0].value
            clicks += fetch.records
            size += fetch.size
            if taken and (clicks > self.clicks or size > CYCLE_BYTES):
                break
            taken.append(pending.popleft())
        return taken

    def cut(self, chunks: Sequence[Chunk]) -> tuple[list[Chunk], list[Chunk]]:
        """The chunks of one cycle, and those of later ones. A fetch can have more clicks than a cycle may."""
        left = self.clicks
        for number, chunk in enumerate(chunks):
            if len(chunk.records) > left:
                if not left:
                    return list(chunks[:number]), list(chunks[number:])
                first, rest = split(chunk, left)
                return [*chunks[:number], first], [rest, *chunks[number + 1 :]]
            left -= len(chunk.records)
        return list(chunks), []

    def took(self, chunks: Sequence[Chunk], s: float, kafka_s: float = 0.0) -> None:
        """Note how long the work on these chunks took, and their transaction; both in seconds.

        Of the transaction only what it takes longer than one of few clicks has to do with their number: Kafka may take
        few bytes a second (a quota, a slow line or disk), and rolls back what takes longer than the session timeout.
        Where it answers late, smaller cycles would only be more.
        """
        clicks = sum(len(chunk.records) for chunk in chunks)
        if not clicks:
            return
        if clicks <= LEAST and kafka_s:
            self._few_s = min(kafka_s, self._limit_s)  # it may have been an outage
        s += max(0.0, kafka_s - self._few_s)
        if s > self._limit_s:
            fit = int(min(clicks, self.clicks) * self._limit_s / s)
            smaller = min(self._most, max(LEAST, fit))
            if smaller < self.clicks:
                log.info(
                    "a cycle took long, so they become smaller: clicks=%d s=%.1f most=%d",
                    clicks,
                    s,
                    smaller,
                )
            self.clicks = smaller
        elif 2 * clicks >= self.clicks and 2 * self.clicks * s < clicks * self._limit_s:
            self.clicks = min(self._most, 2 * self.clicks)
