"""A source whose partitions a consumer group divides, on a real Kafka: what another process reads, and from where."""

import math
import time
from collections.abc import Callable, Iterator
from threading import Event as Flag

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition

from stream.events import Partition
from stream.kafka_config import KafkaConfig
from stream.sinks.group import GroupSource
from tests.kafka.lane import Lane, wait_until
from tests.kafka.test_webhook import produce

pytestmark = pytest.mark.real_kafka

Start = Callable[[], GroupSource]


@pytest.fixture
def start(lane: Lane) -> Iterator[Start]:
    """Starts a process's source; a new group begins at offset 1. Each partition has three messages."""
    produce(lane, 3 * lane.partitions)
    wait_until(lambda: coordinated(lane), "the group's coordinator answers")
    started: list[GroupSource] = []

    def one() -> GroupSource:
        topics, begin = [lane.topics.anomalies], lambda partitions: dict.fromkeys(partitions, 1)
        started.append(GroupSource(lane.broker, topics, KafkaConfig(), Flag(), lane.name, begin))
        return started[-1]

    yield one
    for source in started:
        source.close()


def coordinated(lane: Lane) -> bool:
    """Not on a broker that has just started. The loop of the sink asks again; these tests have none."""
    try:
        committed(lane)
    except KafkaException:
        return False
    return True


def committed(lane: Lane) -> dict[int, int]:
    reader = Consumer({"bootstrap.servers": lane.broker, "group.id": lane.name})
    asked = [TopicPartition(lane.topics.anomalies, number) for number in range(lane.partitions)]
    found = {of.partition: of.offset for of in reader.committed(asked, timeout=10)}
    reader.close()
    return found


def read(source: GroupSource, messages: int) -> dict[Partition, int]:
    """Take so many messages; the lowest offset of each partition."""
    found: list[Partition] = []
    lowest: dict[Partition, float] = {}

    def enough() -> bool:
        if source.stale:
            source.resume()
        for message in source.take(1, 0.1):
            partition = Partition(message.topic(), message.partition())
            lowest[partition] = min(message.offset(), lowest.get(partition, math.inf))
            found.append(partition)
        return len(found) >= messages

    wait_until(enough, "messages come")
    return {partition: int(offset) for partition, offset in lowest.items()}


def test_a_process_reads_on_where_the_one_before_was_done(lane: Lane, start: Start) -> None:
    """What is done is committed when a partition goes, without a call of `commit`. Later, the process that had the
    partition does not set its offset back."""
    first, second = start(), start()
    assert read(first, 8) == {Partition(lane.topics.anomalies, number): 1 for number in range(4)}
    for partition in first.partitions:
        first.done(partition, 2)
    assert committed(lane) == dict.fromkeys(range(4), 1)  # a new group commits where it begins

    def divided() -> bool:
        if not second.partitions and second.stale:
            second.resume()
        second.take(1, 0.1)
        first.take(1, 0.1)
        return len(first.partitions) == len(second.partitions) == 2

    wait_until(divided, "each source has two partitions")
    assert committed(lane) == dict.fromkeys(range(4), 2)
    assert read(second, 2) == dict.fromkeys(second.partitions, 2)
    for partition in second.partitions:
        second.done(partition, 3)
    second.commit()
    first.resume()
    moved = {partition.number for partition in second.partitions}
    assert committed(lane) == {number: 3 if number in moved else 2 for number in range(4)}


def test_the_end_of_a_process_commits_what_is_done(lane: Lane, start: Start) -> None:
    """Then it has no partitions."""
    source = start()
    read(source, 8)
    source.done(source.partitions[0], 3)
    source.close()
    assert committed(lane) == {0: 3, 1: 1, 2: 1, 3: 1}
    assert source.partitions == []


def test_a_message_that_came_in_a_pause_is_read_again(
    lane: Lane, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message should come then. Without one, reading goes on after the pause as if there had been none."""
    source = start()
    first = next(iter(read(source, 1)))
    began_s = time.monotonic()
    source.pause(0.6)
    assert time.monotonic() - began_s >= 0.6
    assert not source.stale
    read(source, 7)
    with monkeypatch.context() as patch:
        patch.setattr(source, "take", lambda most, timeout_s: [object()])
        source.pause(0.01)
    assert source.stale
    assert read(source, 8)[first] == 1
