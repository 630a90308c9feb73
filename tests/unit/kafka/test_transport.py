"""At a rebalance the consumer waits for the running cycle, for as long as the session timeout."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver

from stream.kafka.consumer import transport
from stream.kafka.consumer.transport import BatchConsumer


def waited(monkeypatch: pytest.MonkeyPatch, clock_s: Callable[[], float], limit_s: float, cycle_s: float) -> list[Any]:
    """The errors that end the process while a cycle takes `cycle_s`. clock_s: what the watch's clock says"""
    ended: list[Any] = []

    class Watch:
        @property
        def answered_s(self) -> float:
            return clock_s()

    async def cycle(self: Any) -> None:
        await asyncio.sleep(cycle_s)

    monkeypatch.setattr(driver.Consumer, "wait_empty", cycle)
    monkeypatch.setattr(transport, "end_app", lambda app, error: ended.append(error))
    consumer = BatchConsumer.__new__(BatchConsumer)
    consumer.app = SimpleNamespace(should_stop=False, conf=SimpleNamespace(broker_session_timeout=limit_s))
    consumer.transport = SimpleNamespace(release=list, watch=Watch())
    asyncio.run(consumer.wait_empty())
    return ended


def test_a_slow_answer_is_no_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch's clock moves on by seconds at once when an answer comes, which ended workers in a rebalance."""
    readings = iter([100.0, *[107.0] * 9])
    assert not waited(monkeypatch, lambda: next(readings), limit_s=6.0, cycle_s=0.7)


def test_a_cycle_that_does_not_end_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """By both clocks it takes longer than the limit."""
    readings = iter([100.0, *[107.0] * 9])
    (error,) = waited(monkeypatch, lambda: next(readings), limit_s=0.3, cycle_s=0.7)
    assert "a cycle has not ended within the session timeout of 0.3 s" in str(error)


def test_an_outage_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch's clock stands still while Kafka does not answer."""
    assert not waited(monkeypatch, lambda: 100.0, limit_s=0.3, cycle_s=0.7)
