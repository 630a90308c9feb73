"""The consumer thread starts and stops also while the broker is away."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataResponse_v1
from faust.transport.drivers import aiokafka as driver

from stream.kafka.consumer import fetch, pace
from stream.kafka.consumer.fetch import FetchThread


class Fetcher:
    """aiokafka's fetcher, as far as the thread uses it."""

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: Any) -> bool:
        return False


class Consumer:
    """A consumer that counts how often it was stopped."""

    stops = 0

    def __init__(self) -> None:
        self._fetcher = Fetcher()

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


def test_a_cluster_without_a_broker_is_one_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that has just started names no broker, not even itself. aiokafka looked for the group's coordinator
    there, and an assertion of it ended the worker with a stack trace."""
    named = [[], [(1, "broker", 9092, None)]]

    async def bootstrap(self: AIOKafkaClient) -> None:
        self.cluster.update_metadata(MetadataResponse_v1(named.pop(0), 1, []))

    async def story() -> None:
        client = AIOKafkaClient(bootstrap_servers="127.0.0.1:9")
        consumer = SimpleNamespace(_client=client)
        monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_create_worker_consumer", lambda *_: consumer)
        assert FetchThread._create_worker_consumer(FetchThread.__new__(FetchThread), None) is consumer
        with pytest.raises(KafkaConnectionError, match="no broker at the moment"):
            await client.bootstrap()
        await client.bootstrap()
        assert client.get_random_node() == 1
        await client.close()

    monkeypatch.setattr(AIOKafkaClient, "bootstrap", bootstrap)
    asyncio.run(story())


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


def test_the_fetches_know_what_was_read_and_what_is_decided(thread: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a worker that is behind would not fetch ahead, and another one would wait for each fetch."""

    async def on_start(self: Any) -> None:
        pass

    async def records(self: Any, *_: Any) -> dict[str, list[int]]:
        return {"a": [1] * pace.AHEAD_RECORDS, "b": []}

    async def story() -> None:
        await thread.on_start()
        thread.thread_loop, its = asyncio.get_running_loop(), thread._pace
        assert thread._consumer._fetcher._proc_fetch_request == its._paced
        await thread._fetch_records(thread._consumer, None)
        assert its.decided.is_set()
        its.decided.clear()
        await asyncio.to_thread(thread.decided)
        await asyncio.wait_for(its.decided.wait(), 10)

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "on_start", on_start)
    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_fetch_records", records)
    monkeypatch.setattr(fetch, "positions", lambda consumer: {})
    asyncio.run(story())


def test_a_thread_that_has_ended_needs_to_know_nothing(thread: Any) -> None:
    """The last clicks may be decided after the end of the consumer thread, or before it is connected."""
    thread._pace = None
    thread.decided()
    loop = asyncio.new_event_loop()
    loop.close()
    thread.thread_loop, thread._pace = loop, SimpleNamespace(decided=asyncio.Event())
    thread.decided()
