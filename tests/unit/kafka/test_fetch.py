"""The consumer thread starts and stops also while the broker is away."""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from faust.transport.drivers import aiokafka as driver

from stream.kafka.consumer import fetch
from stream.kafka.consumer.fetch import FetchThread


class Fetcher:
    """aiokafka's fetcher, as far as the thread uses it."""

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: Any) -> bool:
        return False


class Consumer:
    """A consumer that counts how often it was stopped."""

    stops = 0
    _fetcher = Fetcher()

    async def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def thread(monkeypatch: pytest.MonkeyPatch) -> FetchThread:
    """A consumer thread that does not run."""
    monkeypatch.setattr(FetchThread, "should_stop", False)
    thread = FetchThread.__new__(FetchThread)
    thread._consumer = Consumer()
    return thread


def test_a_consumer_that_cannot_connect_tries_again(thread: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that goes away just after the worker has asked it does not end the worker."""
    failures = [KafkaConnectionError("gone"), KafkaConnectionError("gone")]

    async def on_start(self: Any) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "on_start", on_start)
    monkeypatch.setattr(fetch, "CONNECT_AGAIN_S", 0.0)
    asyncio.run(thread.on_start())
    assert failures == []
    assert thread._consumer.stops == 2


def test_a_cancel_that_escapes_from_the_consumer_does_not_stop_the_end(
    thread: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an outage aiokafka's fetcher raises CancelledError; SIGTERM then had no effect at all."""

    async def on_thread_stop(self: Any) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "on_thread_stop", on_thread_stop)
    asyncio.run(thread.on_thread_stop())


def test_a_worker_that_cannot_connect_ends_when_it_is_asked_to(thread: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first connection is tried again and again; a stop must not wait for one that comes about."""

    async def on_start(self: Any) -> None:
        raise KafkaConnectionError("no")

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "on_start", on_start)
    monkeypatch.setattr(FetchThread, "should_stop", property(lambda self: self._consumer.stops >= 3))
    monkeypatch.setattr(fetch, "CONNECT_AGAIN_S", 0.0)
    asyncio.run(asyncio.wait_for(thread.on_start(), 10))
    assert thread._consumer.stops == 3
