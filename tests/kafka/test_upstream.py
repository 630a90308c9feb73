"""Clicks that another application writes in transactions of its own: only what it has committed is decided, once."""

import signal
from collections import Counter

import msgspec
from confluent_kafka import Producer

from stream.events import Recommendation
from tests.kafka.lane import Lane, clicks, wait_until

Messages = list[tuple[bytes | None, bytes | None]]


def write(producer: Producer, topic: str, messages: Messages) -> None:
    """Begin a transaction and write into it; it is left open."""
    producer.begin_transaction()
    for key, value in messages:
        producer.produce(topic, value, key)
    assert producer.flush(30) == 0


def timestamps(messages: Messages) -> Counter[int]:
    """Of clicks, which have each another one."""
    return Counter(msgspec.json.decode(value or b"")["timestamp"] for _, value in messages)


def decided(lane: Lane) -> Counter[int]:
    """How many decisions there are on the click of each timestamp."""
    found = lane.read(lane.topics.recommendations)
    return Counter(msgspec.json.decode(message.value(), type=Recommendation).timestamp for message in found)


def test_only_committed_clicks_are_decided_and_a_retry_counts_once(lane: Lane) -> None:
    """A transaction rolled back and tried again gives one decision per click, one that is open gives none yet."""
    first, retried, rolled_back, late = (clicks(200, seed=seed) for seed in range(4))
    upstream = lane.upstream()
    worker = lane.start()
    write(upstream, lane.topics.clicks, first)
    upstream.commit_transaction(30)
    write(upstream, lane.topics.clicks, retried)
    upstream.abort_transaction(30)
    write(upstream, lane.topics.clicks, retried)
    upstream.commit_transaction(30)
    write(upstream, lane.topics.clicks, rolled_back)
    upstream.abort_transaction(30)
    write(upstream, lane.topics.clicks, late)
    want = timestamps(first) + timestamps(retried)
    wait_until(lambda: decided(lane).total() >= want.total(), "committed clicks decided")
    lane.wait_for_clicks()  # the markers are passed, too: the group's lag comes down to the open transaction
    assert decided(lane) == want
    upstream.commit_transaction(30)
    lane.wait_for_clicks()
    assert decided(lane) == want + timestamps(late)
    assert "lost" not in worker.log
    lane.assert_as_if_nothing_had_happened()


def test_worker_that_starts_inside_an_open_transaction_goes_on_behind_it(lane: Lane) -> None:
    """Killed and started again while another application's transaction is open, a worker recovers and waits for it."""
    before, inside = clicks(200), clicks(200, seed=1)
    lane.produce(before)
    upstream = lane.upstream()
    first = lane.start()
    lane.wait_for_clicks()
    write(upstream, lane.topics.clicks, inside)
    lane.produce(clicks(50, seed=2))  # others write behind it: they are committed, but have to wait
    first.end(signal.SIGKILL)
    second = lane.start()
    second.wait_for("partitions recovered")
    assert decided(lane) == timestamps(before)
    upstream.commit_transaction(30)
    wait_until(lambda: decided(lane).total() >= 450, "all clicks decided")
    lane.wait_for_clicks()
    lane.assert_as_if_nothing_had_happened()
