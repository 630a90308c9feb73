"""Clicks that another application writes in its own transactions: only committed clicks are decided, once each."""

import signal
from collections import Counter

import msgspec
from confluent_kafka import Producer

from stream.events import Recommendation
from tests.kafka.lane import Lane, clicks, wait_until
from tests.kafka.scrape import free_port, scrape

Messages = list[tuple[bytes | None, bytes | None]]

READ_S = 0.5
"""The interval of reading the whole topic of decisions."""


def write(producer: Producer, topic: str, messages: Messages) -> None:
    """Begin a transaction, write clicks, and leave it open."""
    producer.begin_transaction()
    for key, value in messages:
        producer.produce(topic, value, key)
    assert producer.flush(30) == 0


def timestamps(messages: Messages) -> Counter[int]:
    """The timestamps of the clicks; each click has a different one."""
    return Counter(msgspec.json.decode(value or b"")["timestamp"] for _, value in messages)


def decided(lane: Lane) -> Counter[int]:
    """Timestamp of a click -> number of its decisions."""
    found = lane.read(lane.topics.recommendations)
    return Counter(msgspec.json.decode(message.value(), type=Recommendation).timestamp for message in found)


def test_only_committed_clicks_are_decided_and_a_retry_counts_once(lane: Lane) -> None:
    """A rolled-back transaction that is sent again gives one decision per click; an open one gives none yet."""
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
    wait_until(lambda: decided(lane).total() >= want.total(), "committed clicks decided", every_s=READ_S)
    lane.wait_for_clicks()  # the markers are passed, too: the group's lag comes down to the open transaction
    assert decided(lane) == want
    upstream.commit_transaction(30)
    lane.wait_for_clicks()
    assert decided(lane) == want + timestamps(late)
    assert "lost" not in worker.log
    lane.assert_as_if_nothing_had_happened()


def test_what_waits_behind_an_open_transaction_is_in_the_lag(lane: Lane) -> None:
    """An application that hangs in its transaction holds back the clicks of all others: the lag has them and does not
    say that nothing waits."""
    port, upstream = free_port(), lane.upstream()
    worker = lane.start(http_port=port)
    worker.wait_for("partitions recovered")
    write(upstream, lane.topics.clicks, clicks(100, seed=1))
    lane.produce(clicks(200, seed=2))

    def lag() -> float:
        return sum(value for (name, _), value in scrape(port).items() if name == "eddy_lag")

    wait_until(lambda: lag() == 300, lambda: f"a lag of 300: {lag()}", 15)
    upstream.commit_transaction(30)
    lane.wait_for_clicks()
    wait_until(lambda: lag() == 0, lambda: f"no lag: {lag()}", 15)
    assert worker.end(signal.SIGTERM) == 0, worker.log


def test_worker_that_starts_during_an_open_transaction_continues_after_it(lane: Lane) -> None:
    """A worker that is restarted while another application's transaction is open recovers and waits for it."""
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
    wait_until(lambda: decided(lane).total() >= 450, "all clicks decided", every_s=READ_S)
    lane.wait_for_clicks()
    lane.assert_as_if_nothing_had_happened()
