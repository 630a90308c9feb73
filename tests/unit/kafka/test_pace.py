"""A worker asks Kafka for clicks when it has decided those that it has; a worker that is behind asks earlier."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stream.kafka.consumer import pace
from stream.kafka.consumer.pace import Pace

AT_ONCE = 0.0005


class Request:
    """aiokafka's fetch request, as far as it is changed."""

    _max_wait_ms = _min_bytes = 0


class Fetcher:
    """aiokafka's fetcher. `asked` has what each fetch has asked for, `at_s` when.

    after_s  node -> after which time it answers from its second fetch on; the others answer at once
    """

    def __init__(self, *found: bool, after_s: dict[int, float] | None = None) -> None:
        self._found, self._after_s = list(found), after_s or {}
        self.asked: list[tuple[int, int, int]] = []
        self.at_s: list[float] = []

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: Any) -> bool:
        self.asked.append((node_id, request._max_wait_ms, request._min_bytes))
        self.at_s.append(asyncio.get_running_loop().time())
        if [node for node, _, _ in self.asked].count(node_id) > 1:
            await asyncio.sleep(self._after_s.get(node_id, 0.0))
        return self._found.pop(0)


class Clock:
    """The time of an event loop: it moves on when the loop has nothing to do but to wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.now_s, selector = 0.0, loop._selector  # type: ignore[attr-defined]
        loop.time = lambda: self.now_s  # type: ignore[method-assign]
        select = selector.select

        def waited(timeout: float | None = None) -> Any:
            ready = select(0)
            if not ready and timeout:
                self.now_s += timeout
            return ready

        selector.select = waited


def run(story: Callable[[], Awaitable[None]]) -> None:
    """Run a story in an event loop whose time is not that of the machine."""
    loop = asyncio.SelectorEventLoop()
    Clock(loop)
    try:
        loop.run_until_complete(asyncio.wait_for(story(), 60))
    finally:
        loop.close()


def fetch(fetcher: Any, node: int = 0) -> "asyncio.Task[bool]":
    return asyncio.ensure_future(fetcher._proc_fetch_request(None, node, Request()))


async def waits(task: "asyncio.Task[bool]", s: float) -> bool:
    """Whether a fetch is not answered for `s` seconds."""
    return not (await asyncio.wait({task}, timeout=s))[0]


def test_the_next_fetch_waits_until_the_clicks_of_the_last_one_are_decided() -> None:
    """It then finds all clicks that came meanwhile, however few: the broker has to wait for none."""

    async def story() -> None:
        fetcher = Fetcher(True, True)
        its = Pace(fetcher)
        assert await fetch(fetcher)
        second = fetch(fetcher)
        assert await waits(second, 0.1)
        its.decided.set()
        assert not await waits(second, AT_ONCE)
        assert fetcher.asked[1] == (0, 25, 1)

    run(story)


def test_clicks_that_are_decided_fast_do_not_make_more_fetches() -> None:
    """Each fetch that finds clicks makes a cycle, and a cycle with one click costs nearly as much as one with fifty."""

    async def story() -> None:
        fetcher = Fetcher(True, True, True)
        its = Pace(fetcher)
        for _ in range(3):
            await fetch(fetcher)
            its.decided.set()
        assert [round(s, 3) for s in fetcher.at_s] == [0.0, 0.025, 0.05]

    run(story)


def test_an_idle_worker_asks_at_once_and_is_answered_at_the_first_click() -> None:
    """It asks seldom and loses no time; nothing that was fetched is undecided."""

    async def story() -> None:
        fetcher = Fetcher(False, False, True)
        Pace(fetcher)
        for _ in range(3):
            await fetch(fetcher)
        assert fetcher.at_s == [0.0, 0.0, 0.0]
        assert fetcher.asked == [(0, 100, 1)] * 3

    run(story)


@pytest.mark.parametrize("before", [False, True], ids=["while it waits", "before it waits"])
def test_a_worker_that_is_behind_fetches_ahead_in_large_steps(before: bool) -> None:
    """Its next clicks are there when the cycle ends, and it asks for no small fetches."""

    async def story() -> None:
        fetcher = Fetcher(True, True)
        its = Pace(fetcher)
        await fetch(fetcher)
        if before:
            its.read(pace.AHEAD_RECORDS)
        second = fetch(fetcher)
        if not before:
            assert await waits(second, 0.1)
            its.read(pace.AHEAD_RECORDS)
        assert not await waits(second, AT_ONCE)
        assert fetcher.asked[1] == (0, 25, pace.FETCH_BYTES)

    run(story)


def test_a_worker_that_has_caught_up_waits_again() -> None:
    """One large fetch does not let it fetch beside its cycles for ever."""

    async def story() -> None:
        fetcher = Fetcher(True, True, True)
        its = Pace(fetcher)
        await fetch(fetcher)
        its.read(pace.AHEAD_RECORDS)
        await fetch(fetcher)
        its.read(1)
        third = fetch(fetcher)
        assert await waits(third, 0.1)
        its.decided.set()
        assert not await waits(third, AT_ONCE)
        assert fetcher.asked[2] == (0, 25, 1)

    run(story)


def test_a_cycle_that_takes_long_does_not_hold_back_the_fetch() -> None:
    """Nor does one whose end nobody tells, as of clicks that a rebalance has dropped."""

    async def story() -> None:
        fetcher = Fetcher(True, True)
        Pace(fetcher)
        await fetch(fetcher)
        assert not await waits(fetch(fetcher), pace.UNDECIDED_S + AT_ONCE)

    run(story)


def test_a_broker_without_clicks_does_not_wait_for_those_of_another_one() -> None:
    """Each broker of a cluster has a fetch of its own."""

    async def story() -> None:
        fetcher = Fetcher(True, False, True)
        Pace(fetcher)
        await fetch(fetcher, 1)
        await fetch(fetcher, 2)
        assert not await waits(fetch(fetcher, 2), AT_ONCE)
        assert fetcher.asked[1:] == [(2, 100, 1), (2, 100, 1)]

    run(story)


def test_a_cycle_has_the_clicks_of_all_brokers() -> None:
    """They are asked at the same time, and what one answers waits for the others; not for one that has no clicks."""

    async def story() -> None:
        slow = Fetcher(True, True, True, True, after_s={2: 0.004})
        its = Pace(slow)
        await fetch(slow, 1), await fetch(slow, 2)
        its.decided.set()
        first, second = fetch(slow, 1), fetch(slow, 2)
        assert await waits(first, 0.025 + 0.003)
        assert slow.at_s[2] == slow.at_s[3]
        assert not await waits(second, 0.001)
        assert not await waits(first, AT_ONCE)

    run(story)


def test_a_broker_that_does_not_answer_does_not_hold_back_the_clicks_of_others() -> None:
    """It may be gone."""

    async def story() -> None:
        slow = Fetcher(True, True, True, True, after_s={2: 5.0})
        its = Pace(slow)
        await fetch(slow, 1), await fetch(slow, 2)
        its.decided.set()
        first, second = fetch(slow, 1), fetch(slow, 2)
        assert not await waits(first, pace.FETCH_WAIT_S + pace.TOGETHER_S + AT_ONCE)
        assert not second.done()

    run(story)


@pytest.mark.parametrize("when", ["before it is sent", "while it is sent", "while it waits for others"])
def test_a_fetch_that_is_cancelled_has_found_nothing(when: str) -> None:
    """aiokafka cancels fetches to end them, and awaits them: an error there would leave its connections open."""

    async def story() -> None:
        fetcher = Fetcher(True, True, True, True, after_s={2: 5.0})
        its = Pace(fetcher)
        await fetch(fetcher, 1), await fetch(fetcher, 2)
        if when != "before it is sent":
            its.decided.set()
        first, second = fetch(fetcher, 1), fetch(fetcher, 2)
        await asyncio.sleep(pace.FETCH_WAIT_S + AT_ONCE)
        cancelled = second if when == "while it is sent" else first
        cancelled.cancel()
        assert await cancelled is False
        second.cancel()

    run(story)
