"""When a worker asks Kafka for clicks.

A worker that is not behind asks when it has decided the clicks that it has. So a cycle begins with all clicks that came
before it. A fetch that runs beside a cycle finds some that wait for the next one; later ones wait for the end of the
fetch and then for a cycle. A worker that is behind fetches ahead of its cycles, in large steps.

Source: aiokafka/consumer/fetcher.py.
"""

import asyncio
from contextlib import suppress
from typing import Any

FETCH_WAIT_S, FETCH_BYTES = 0.025, 65_536
"""A worker that is behind: the broker answers when it has so many bytes, or after this time with what it has. Else this
is the shortest time between two fetches, and so between two cycles: more of them would cost more than they save."""

AHEAD_RECORDS = 500
"""A worker is behind if a fetch finds so many."""

UNDECIDED_S = 0.25
"""A cycle that takes longer does not hold back the next fetch."""

TOGETHER_S = 0.01
"""How long what one broker has answered waits for the other brokers, so that one cycle has the clicks of all."""

IDLE_WAIT_S = 0.1
"""How long the broker may wait for the first click after a fetch that found nothing. The demo's broker is no Kafka and
always waits to the end, so there this is latency."""


class Pace:
    """Sends aiokafka's fetches at the right time. Used in the consumer thread.

    fetcher  an aiokafka Fetcher; its `_proc_fetch_request` is replaced
    decided  set if all clicks that were fetched are decided
    """

    def __init__(self, fetcher: Any) -> None:
        self._fetch = fetcher._proc_fetch_request
        fetcher._proc_fetch_request = self._paced
        self.decided = asyncio.Event()
        self._behind = False
        self._found_s: dict[int, float] = {}  # node whose latest fetch has found clicks -> when that was sent
        self._asked: set[int] = set()  # those of these nodes that have not answered yet
        self._answered = asyncio.Event()  # set if there are none

    def read(self, records: int) -> None:
        """Note how many records were taken from the fetcher at once."""
        self._behind = records >= AHEAD_RECORDS
        if self._behind:
            self.decided.set()

    async def _paced(self, assignment: Any, node: int, request: Any) -> bool:
        """The fetch of one node. Returns whether it has found clicks; aiokafka then hands them on.

        As aiokafka's own, it returns False if it is cancelled: `Fetcher.close` would raise, and close no connection.
        """
        try:
            return await self._turn(assignment, node, request)
        except asyncio.CancelledError:
            return False

    async def _turn(self, assignment: Any, node: int, request: Any) -> bool:
        clock, found_s = asyncio.get_running_loop().time, self._found_s.pop(node, None)
        if found_s is not None:
            await _wait(self.decided, UNDECIDED_S)
            if not self._behind:
                await asyncio.sleep(found_s + FETCH_WAIT_S - clock())
            self._asked.add(node)
            self._answered.clear()
        request._max_wait_ms = int(1000 * (IDLE_WAIT_S if found_s is None else FETCH_WAIT_S))
        request._min_bytes = FETCH_BYTES if self._behind else 1
        sent_s = clock()
        try:
            found: bool = await self._fetch(assignment, node, request)
        finally:
            self._asked.discard(node)
            if not self._asked:
                self._answered.set()
        if found:
            self._found_s[node] = sent_s
            self.decided.clear()
            if self._asked and not self._behind:
                await _wait(self._answered, TOGETHER_S)
        return found


async def _wait(event: asyncio.Event, s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(s):  # wait_for of Python 3.11 can lose a cancel that comes with the event
            await event.wait()
