"""Where a new group begins: it decides no click a second time unless it is asked to, and loses none."""

import signal
from collections import Counter
from datetime import UTC, datetime

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from stream.access.begin import begin, metadata
from stream.events import Partition
from stream.kafka.topics import create_topics
from stream.kafka_config import PLAINTEXT
from tests.kafka.lane import Lane, Worker, click_id, clicks, wait_until

AFTER = "a new group begins at these offsets and decides no earlier click"


def decided(lane: Lane) -> Counter[str]:
    """How often each click has a decision."""
    return Counter(click_id(message) for message in lane.read(lane.topics.recommendations))


def start_new(lane: Lane, name: str, **options: object) -> Worker:
    """A worker of a new group, with a changelog of its own and the same topics of results, as for a new model."""
    changelog = f"{lane.topics.changelog}-{name}"
    create_topics(lane.broker, msgspec.structs.replace(lane.topics, changelog=changelog), lane.partitions, 1)
    return lane.start(group=f"{lane.name}-{name}", changelog_topic=changelog, **options)


def wait_for_decisions(lane: Lane, count: int) -> None:
    wait_until(lambda: decided(lane).total() >= count, f"{count} decisions", every_s=0.2)


def test_a_new_group_continues_after_the_clicks_of_the_group_before(lane: Lane) -> None:
    """A new model's group decides the clicks that came after the last worker ended, and no earlier one."""
    lane.produce(clicks(800))
    first = lane.start()
    lane.wait_for_clicks()
    assert first.end(signal.SIGTERM) == 0
    lane.produce(clicks(200, seed=1))
    worker = start_new(lane, "new")
    wait_for_decisions(lane, 1_000)
    assert worker.log.count("another group has decided clicks") == lane.partitions
    assert AFTER in worker.log
    lane.produce(clicks(100, seed=2))
    wait_for_decisions(lane, 1_100)
    assert set(decided(lane).values()) == {1}


def test_another_groups_results_are_no_reason_to_skip_a_click(lane: Lane) -> None:
    """A group that writes its recommendations to another topic decides all clicks."""
    lane.produce(clicks(300))
    first = lane.start()
    lane.wait_for_clicks()
    assert first.end(signal.SIGTERM) == 0
    other = msgspec.structs.replace(lane.topics, recommendations=f"{lane.topics.recommendations}-2")
    create_topics(lane.broker, other, lane.partitions, 1)
    start_new(lane, "other", recommendations_topic=other.recommendations)
    wait_until(lambda: len(lane.read(other.recommendations)) == 300, "all clicks are decided there", every_s=0.2)


def test_a_click_after_the_begin_is_not_lost_if_the_worker_is_killed_before_its_first_cycle(lane: Lane) -> None:
    """`latest` is the end of the topic at the first start of the group, not at a later one."""
    lane.produce(clicks(300))
    worker = start_new(lane, "late", start_at="latest")
    worker.wait_for("partitions recovered")
    assert AFTER in worker.log
    worker.end(signal.SIGKILL)
    lane.produce(clicks(200, seed=1))
    again = start_new(lane, "late", start_at="latest")
    wait_for_decisions(lane, 200)
    assert AFTER not in again.log
    assert decided(lane).total() == 200


def test_latest_of_an_empty_topic_is_its_beginning(lane: Lane) -> None:
    """Clicks that come while no worker runs, after the first start of the group, are decided."""
    worker = start_new(lane, "late", start_at="latest")
    worker.wait_for("partitions recovered")
    assert worker.end(signal.SIGTERM) == 0
    lane.produce(clicks(100))
    start_new(lane, "late", start_at="latest")
    wait_for_decisions(lane, 100)


def test_a_group_that_has_decided_nothing_takes_no_click_from_others(lane: Lane) -> None:
    """It began at the end of the topic, and ended before a click came."""
    lane.produce(clicks(200))
    worker = start_new(lane, "late", start_at="latest")
    worker.wait_for(AFTER)
    assert worker.end(signal.SIGTERM) == 0
    start_new(lane, "new")
    wait_for_decisions(lane, 200)


def test_a_pending_commit_of_the_group_before_is_waited_for(lane: Lane) -> None:
    """While a transaction over its offsets is open, nobody can know which clicks it has decided."""
    lane.produce(clicks(200))
    partitions = [Partition(lane.topics.clicks, number) for number in range(lane.partitions)]
    begin_at = begin(lane.broker, PLAINTEXT, lane.topics.recommendations, "undecided")
    before = {"bootstrap.servers": lane.broker, "group.id": f"{lane.name}-before"}
    consumer = Consumer({**before, "auto.offset.reset": "earliest"})
    consumer.subscribe([lane.topics.clicks])
    wait_until(
        lambda: len(consumer.assignment()) == lane.partitions or (bool(consumer.poll(0.1)) and False), "it joined"
    )
    producer = Producer({"bootstrap.servers": lane.broker, "transactional.id": lane.name})
    producer.init_transactions()
    producer.begin_transaction()
    ours = metadata(lane.topics.recommendations)
    offsets = [TopicPartition(*partition, 7, ours) for partition in partitions]
    producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
    with pytest.raises(KafkaException) as pending:
        begin_at(partitions)
    assert pending.value.args[0].retriable()
    producer.commit_transaction()
    assert begin_at(partitions) == dict.fromkeys(partitions, 7)
    consumer.close()


@pytest.mark.parametrize("how", ["earliest", "time"])
def test_a_group_begins_where_it_is_asked_to(lane: Lane, how: str) -> None:
    """`earliest` decides all clicks again; a time decides those that Kafka got from then on."""
    lane.produce(clicks(300))
    first = lane.start()
    lane.wait_for_clicks()
    assert first.end(signal.SIGTERM) == 0
    newest_ms = max(message.timestamp()[1] for message in lane.read(lane.topics.clicks))
    wait_until(lambda: datetime.now(UTC).timestamp() * 1000 > newest_ms + 2, "the clock has moved on")
    now = datetime.now(UTC).isoformat()
    lane.produce(clicks(100, seed=1))
    start_new(lane, how, start_at="earliest" if how == "earliest" else now)
    wait_for_decisions(lane, 700 if how == "earliest" else 400)
    twice = sum(times == 2 for times in decided(lane).values())
    assert twice == (300 if how == "earliest" else 0)
