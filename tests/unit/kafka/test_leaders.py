"""A partition without a leader is waited for, and the log names it once; who need not wait goes on without it."""

import logging
from asyncio import run
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from stream.events import Partition
from stream.kafka import leaders
from stream.kafka.delivery import Record
from stream.kafka.leaders import Leaders, Targets, check_leaders, led, watermarks, with_leaders
from stream.kafka.waiting import REMIND_S, NoLeader, NoWatch

ZERO, ONE, TWO = (Partition("states", number) for number in range(3))
CLICKS = [Partition("clicks", number) for number in range(3)]


class Consumer:
    """The leader of each partition of the topic `states`, -1 for none."""

    def __init__(self, *of: int) -> None:
        self.of, self.asked = of, 0
        self.answers = True

    def list_topics(self, topic: str, timeout: float) -> SimpleNamespace:
        self.asked += 1
        if not self.answers:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        found = {number: SimpleNamespace(leader=leader) for number, leader in enumerate(self.of)}
        return SimpleNamespace(topics={topic: SimpleNamespace(partitions=found)})

    def get_watermark_offsets(self, partition: SimpleNamespace, timeout: float) -> tuple[int, int]:
        if self.of[partition.partition] < 0:
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
        return 0, 7


class Reading:
    """Reads that fail without a leader until `left` is 0, on a clock in s that each of them moves."""

    def __init__(self, left: int, *without: Partition) -> None:
        self.left, self.without, self.now_s = left, without, 1000.0

    def __call__(self, partitions: Sequence[Partition]) -> list[Partition]:
        self.now_s += 10
        self.left -= 1
        if self.left >= 0:
            raise NoLeader(self.without)
        return list(partitions)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(leaders, "PAUSE_S", 0.0)
    caplog.set_level(logging.INFO)


def test_an_end_that_cannot_be_read_names_the_partitions_without_a_leader() -> None:
    """librdkafka's own error is that there is no such partition."""
    assert watermarks(Consumer(1, 1, 2), [ZERO, TWO], 1.0) == {ZERO: (0, 7), TWO: (0, 7)}
    with pytest.raises(NoLeader, match="states-0, states-2 have no leader") as raised:
        watermarks(Consumer(-1, 1, -1), [ZERO, ONE, TWO], 1.0)
    assert raised.value.partitions == [ZERO, TWO]


def test_without_an_answer_of_kafka_the_error_stays_what_it_was() -> None:
    """An outage is no missing leader, and the watch on Kafka logs it."""
    consumer = Consumer(-1)
    consumer.answers = False
    with pytest.raises(KafkaException, match="_UNKNOWN_PARTITION"):
        watermarks(consumer, [ZERO], 1.0)
    check_leaders(Consumer(1), [ZERO, ONE])  # ONE is not in the topic


def test_a_read_without_messages_looks_for_leaders_every_5_s() -> None:
    """A leader that is lost in the middle of a read is noticed, and a healthy read asks nothing more."""
    now_s, consumer = [100.0], Consumer(1, -1)
    look = Leaders(consumer, "states", lambda: now_s[0])
    look.check([1])
    assert consumer.asked == 0
    now_s[0] += 5.1
    look.check([0])
    look.check([0])
    assert consumer.asked == 1
    now_s[0] += 5.1
    with pytest.raises(NoLeader, match="states-1 has no leader"):
        look.check([0, 1])


def test_a_leader_is_waited_for_longer_than_any_limit_with_a_line_now_and_then(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An hour here. The line comes at once, then about every 30 s; one more line when it is over."""
    reading = Reading(360, ONE)
    assert with_leaders(NoWatch(), reading, CLICKS, clock_s=lambda: reading.now_s) == CLICKS
    waits, goes_on = caplog.messages[:-1], caplog.messages[-1]
    assert len(waits) == pytest.approx(3600 / (REMIND_S + 5), abs=1)
    assert all("no leader, Eddy waits for one: partitions=[states-1] waited_s=" in line for line in waits)
    assert goes_on == "partitions have leaders again: partitions=[states-1] waited_s=3600"


def test_who_waits_for_a_leader_can_be_called_off() -> None:
    """A new assignment makes the read of the one before needless."""

    def over() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        with_leaders(NoWatch(), Reading(2, ONE), CLICKS, over)


def test_partitions_with_leaders_need_not_wait_for_the_others(caplog: pytest.LogCaptureFixture) -> None:
    """Partition 1 of the clicks goes with partition 1 of the changelog."""

    def read(partitions: Sequence[Partition]) -> dict[Partition, int]:
        if CLICKS[1] in partitions:
            raise NoLeader([ONE])
        return dict.fromkeys(partitions, 7)

    assert led(NoWatch(), read, CLICKS) == {CLICKS[0]: 7, CLICKS[2]: 7}
    assert led(NoWatch(), read, [CLICKS[1]]) == {}
    assert caplog.messages == []


class Cluster:
    """The leaders of all topics, -1 for none."""

    def __init__(self, topics: dict[str, list[int]]) -> None:
        self.topics, self.asked = topics, 0

    def list_topics(self, timeout: float) -> SimpleNamespace:
        self.asked += 1
        found = {
            name: SimpleNamespace(partitions={n: SimpleNamespace(leader=leader) for n, leader in enumerate(leaders)})
            for name, leaders in self.topics.items()
        }
        return SimpleNamespace(topics=found)


def test_records_wait_for_the_partitions_that_they_go_to(caplog: pytest.LogCaptureFixture) -> None:
    """Those of other topics, and other partitions, are no reason; the start of a producer waits for all of them."""
    targets = Targets(["states", "gone"], lambda: Cluster({"states": [1, -1], "others": [-1]}))
    assert run(targets.missing([Record("states", b"k", b"v", 1)]))
    assert not run(targets.missing([Record("states", b"k", b"v", 0), Record("gone", b"k", b"v", None)]))
    assert run(targets.missing(None))
    assert not run(Targets().missing(None))
    targets.goes_on()
    assert [line.partition(":")[0] for line in caplog.messages] == [
        "partitions have no leader, Eddy waits for one",
        "partitions have leaders again",
    ]


def test_a_question_without_an_answer_is_asked_again_with_a_new_client() -> None:
    """One that has seen brokers go and come again may never answer any more. One that answers is kept."""

    def silent(timeout: float) -> None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    answers = Cluster({"states": [-1]})
    clients: list[Any] = [SimpleNamespace(list_topics=silent), answers]
    targets = Targets(["states"], lambda: clients.pop(0))
    assert [run(targets.missing(None)) for _ in range(3)] == [False, True, True]
    assert (clients, answers.asked) == ([], 2)


def test_a_record_without_a_partition_goes_where_its_key_belongs() -> None:
    """By murmur2, as the producer sends it: the hashes of these keys are those of Kafka's own test of it."""
    for key, murmur2 in ((b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)):
        partition = (murmur2 & 0x7FFFFFFF) % 3
        for number in range(3):
            leaders = [-1 if n == number else 1 for n in range(3)]
            targets = Targets(["lists"], lambda leaders=leaders: Cluster({"lists": leaders}))  # type: ignore[misc]
            assert run(targets.missing([Record("lists", key, b"v", None)])) == (number == partition)


def test_after_a_roll_back_a_batch_waits_until_its_partitions_have_leaders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And says whether a missing leader was the reason: then the batch itself is no bad one. A new assignment ends the
    waiting."""
    monkeypatch.setattr(leaders, "LOOK_AGAIN_S", 0.0)
    cluster = Cluster({"states": [1, -1]})
    targets, records = Targets(["states"], lambda: cluster), [Record("states", b"k", b"v", 1)]

    def current() -> bool:
        if cluster.asked == 3:
            cluster.topics["states"][1] = 1
        return True

    assert run(targets.led(records, current))
    assert cluster.asked == 4
    assert not run(targets.led(records, current))
    cluster.topics["states"][1] = -1
    assert run(targets.led(records, lambda: cluster.asked < 7))
    assert cluster.asked == 7
    assert run(targets.led([Record("states", b"k", b"v", 0)], current))
