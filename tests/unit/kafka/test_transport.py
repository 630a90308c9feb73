"""At a rebalance the consumer waits for the running cycle, for as long as the group does."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.drivers import aiokafka as driver

from stream.kafka.consumer import transport
from stream.kafka.consumer.transport import BatchConsumer

LONG_S = 1_000.0


def waited(
    monkeypatch: pytest.MonkeyPatch,
    clock_s: Callable[[], float],
    cycle_s: float,
    session_s: float = LONG_S,
    rebalance_s: float = LONG_S,
    stops: bool = False,
) -> list[Any]:
    """The errors that end the process while a cycle takes `cycle_s`.

    clock_s                 what the watch's clock says
    session_s, rebalance_s  the timeouts of the group
    stops                   the worker was asked to end
    """
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
    conf = SimpleNamespace(broker_session_timeout=session_s, broker_rebalance_timeout=rebalance_s)
    consumer.app = SimpleNamespace(should_stop=stops, conf=conf)
    consumer.transport = SimpleNamespace(release=list, watch=Watch())
    asyncio.run(consumer.wait_empty())
    return ended


def test_a_slow_answer_is_no_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch's clock moves on by seconds at once when an answer comes, which ended workers in a rebalance."""
    readings = iter([100.0, *[107.0] * 9])
    assert not waited(monkeypatch, lambda: next(readings), cycle_s=0.7, rebalance_s=6.0)


def test_a_cycle_that_does_not_end_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """By both clocks it takes longer than the group waits."""
    readings = iter([100.0, *[107.0] * 9])
    (error,) = waited(monkeypatch, lambda: next(readings), cycle_s=0.7, rebalance_s=0.3)
    assert "a cycle has not ended 0 s after the partitions were revoked; lower --max-cycle-clicks" in str(error)


def test_a_cycle_longer_than_the_session_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """This member still sends heartbeats. If it ended, it would begin the same clicks again when it has started."""
    readings = iter([100.0, *[107.0] * 9])
    assert not waited(monkeypatch, lambda: next(readings), cycle_s=0.7, session_s=0.3)


def test_a_worker_that_stops_waits_for_the_session_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops it does not wait for a minute, and Kafka may be away."""
    (error,) = waited(monkeypatch, lambda: 100.0, cycle_s=0.7, session_s=0.3, stops=True)
    assert "lower --max-cycle-clicks" in str(error)


def test_an_outage_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch's clock stands still while Kafka does not answer."""
    assert not waited(monkeypatch, lambda: 100.0, cycle_s=0.7, rebalance_s=0.3)
