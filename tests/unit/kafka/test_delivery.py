"""The outcomes of a transaction, with a producer that answers as librdkafka does."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.errors import ConfigError, Fenced
from stream.events import Partition
from stream.kafka import delivery
from stream.kafka.delivery import (
    AFTER_BREAK_S,
    FENCED,
    STALE,
    Delivery,
    Outcome,
    Record,
    Undecided,
    group_metadata,
)
from stream.kafka.leaders import Targets

CLICKS = Partition("clicks", 3)
LIMITS = {"recommendations": 1_000_000, "eddy-changelog": 2_000_000}
STEPS = ["begin_transaction", "produce", "send_offsets_to_transaction", "commit_transaction"]


def error(name: str, **what: bool) -> KafkaException:
    """The exception of confluent-kafka for a KafkaError of this name."""
    return KafkaException(KafkaError(getattr(KafkaError, name), name, **what))


class Producer:
    """Replaces confluent_kafka.Producer: records every call, and raises the errors in `fails` for the next calls of a
    method."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.calls: list[tuple[Any, ...]] = []
        self.fails: dict[str, list[Exception]] = {}
        self.meanwhile: Callable[[], None] = lambda: None

    def _call(self, name: str, *arguments: Any) -> None:
        self.calls.append((name, *arguments))
        self.meanwhile()
        if self.fails.get(name):
            raise self.fails[name].pop(0)

    def init_transactions(self, timeout_s: float) -> None:
        self._call("init_transactions", timeout_s)

    def begin_transaction(self) -> None:
        self._call("begin_transaction")

    def produce(self, topic: str, value: bytes | None, key: bytes | None, partition: int, *_: Any) -> None:
        self._call("produce", topic, value, key, partition)

    def poll(self, timeout_s: float) -> None:
        self._call("poll", timeout_s)

    def send_offsets_to_transaction(self, offsets: list[TopicPartition], member: bytes, timeout_s: float) -> None:
        self._call("send_offsets_to_transaction", offsets, member, timeout_s)

    def commit_transaction(self, timeout_s: float) -> None:
        self._call("commit_transaction", timeout_s)

    def abort_transaction(self, timeout_s: float) -> None:
        self._call("abort_transaction", timeout_s)

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> tuple[Delivery, Producer]:
    monkeypatch.setattr(delivery, "Producer", Producer)
    monkeypatch.setattr(delivery.time, "sleep", lambda seconds: None)
    made = Delivery("broker:9092", "eddy-0", 10.0, 5.0, LIMITS)
    return made, made._producer


def commit(made: Delivery, records: list[Record], offset: int = 12) -> Outcome:
    return asyncio.run(made.commit(records, {CLICKS: offset}, b"member"))


RECORDS = [Record("recommendations", b"u", b"{}"), Record("eddy-changelog", b"u", None, 3)]


def test_a_transaction_is_begin_produce_offsets_commit(started: tuple[Delivery, Producer]) -> None:
    """All records, then the source offsets with the membership, then the commit: everything is inside the
    transaction."""
    made, producer = started
    assert commit(made, RECORDS) is Outcome.COMMITTED
    assert producer.names() == ["begin_transaction", "produce", "produce", *STEPS[2:]]
    assert producer.calls[1:3] == [
        ("produce", "recommendations", b"{}", b"u", -1),  # librdkafka chooses the partition by the key
        ("produce", "eddy-changelog", None, b"u", 3),
    ]
    _, offsets, member, _ = producer.calls[3]
    assert [(one.topic, one.partition, one.offset) for one in offsets] == [("clicks", 3, 12)]
    assert member == b"member"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ["INVALID_TXN_STATE", "_TIMED_OUT", "ILLEGAL_GENERATION"])
def test_an_error_that_requires_an_abort_rolls_back(started: tuple[Delivery, Producer], step: str, name: str) -> None:
    """After an error in any step there is one abort and no commit, and the outcome shows if the group has a new
    generation."""
    made, producer = started
    producer.fails[step] = [error(name, txn_requires_abort=True)]
    expected = Outcome.STALE if name in STALE else Outcome.ROLLED_BACK
    assert commit(made, RECORDS) is expected
    assert producer.names()[-1] == "abort_transaction"
    assert producer.names().count("abort_transaction") == 1
    assert producer.names()[-2] == step
    assert commit(made, RECORDS) is Outcome.COMMITTED


def test_a_missing_right_is_a_refusal(started: tuple[Delivery, Producer]) -> None:
    """The same records would be refused for ever; the line says what is lacking, and no restart helps."""
    made, producer = started
    producer.fails["commit_transaction"] = [error("TOPIC_AUTHORIZATION_FAILED", txn_requires_abort=True)]
    with pytest.raises(ConfigError, match=r"lacks a right on one of its topics.*docs/security\.md"):
        commit(made, RECORDS)


@pytest.mark.parametrize("name", sorted(STALE))
def test_a_new_generation_of_the_group_has_its_own_outcome(started: tuple[Delivery, Producer], name: str) -> None:
    """The records may belong to a different worker now, so the caller must not send them again."""
    made, producer = started
    producer.fails["send_offsets_to_transaction"] = [error(name, txn_requires_abort=True)]
    assert commit(made, RECORDS) is Outcome.STALE


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", sorted(FENCED))
def test_a_fenced_worker_writes_nothing_more(started: tuple[Delivery, Producer], step: str, name: str) -> None:
    """If another producer uses the id, there is no abort and no second try, and the error has Kafka's name for it."""
    made, producer = started
    producer.fails[step] = [error(name, fatal=True)]
    with pytest.raises(Fenced, match=name):
        commit(made, RECORDS)
    assert producer.names()[-1] == step


def test_a_record_that_the_topic_refuses_is_an_error_with_the_remedy(started: tuple[Delivery, Producer]) -> None:
    """The same records would be refused again, so the worker ends and prints what to change."""
    made, producer = started
    producer.fails["commit_transaction"] = [error("MSG_SIZE_TOO_LARGE", txn_requires_abort=True)]
    with pytest.raises(ConfigError, match=r"max\.message\.bytes"):
        commit(made, RECORDS)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("INVALID_RECORD", r"cleanup\.policy"), ("INVALID_TIMESTAMP", r"message\.timestamp\.after\.max\.ms.*clock")],
)
def test_a_record_without_a_key_or_with_a_wrong_time_is_an_error_with_the_remedy(
    started: tuple[Delivery, Producer], name: str, remedy: str
) -> None:
    """A compacted topic, and a topic whose limits of time are not those of the source, refuse the same record for
    ever."""
    made, producer = started
    producer.fails["commit_transaction"] = [error(name, txn_requires_abort=True)]
    with pytest.raises(ConfigError, match=remedy):
        commit(made, RECORDS)


def test_a_producer_that_kafka_has_fenced_for_its_age_is_replaced(started: tuple[Delivery, Producer]) -> None:
    """After an outage Kafka itself fences a transaction that is older than its timeout: no other worker is there."""
    made, producer = started
    made._timeout_s = 0.0  # any transaction is older
    producer.fails["commit_transaction"] = [error("_FENCED", fatal=True)]
    with pytest.raises(Undecided, match="_FENCED"):
        commit(made, RECORDS)


@pytest.mark.parametrize("fatal", [True, False])
def test_a_broken_producer_is_replaced(started: tuple[Delivery, Producer], fatal: bool) -> None:
    """An error that an abort cannot repair leaves the outcome open; a new producer fences the broken one and works."""
    made, producer = started
    producer.fails["commit_transaction"] = [error("_STATE", fatal=fatal, txn_requires_abort=fatal)]
    with pytest.raises(Undecided, match="_STATE"):
        commit(made, RECORDS)
    assert "abort_transaction" not in producer.names()
    asyncio.run(made.restart())
    assert made._producer is not producer
    assert made._producer.names() == ["init_transactions"]
    assert commit(made, RECORDS) is Outcome.COMMITTED


def test_an_error_that_no_abort_repairs_is_not_hidden_by_the_abort(started: tuple[Delivery, Producer]) -> None:
    """If the abort fails too, as after an outage, the outcome is open."""
    made, producer = started
    producer.fails["commit_transaction"] = [error("_TIMED_OUT", txn_requires_abort=True)]
    producer.fails["abort_transaction"] = [error("INVALID_TXN_STATE", fatal=True)]
    with pytest.raises(Undecided, match="INVALID_TXN_STATE"):
        commit(made, RECORDS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(times=st.tuples(*[st.integers(0, 3)] * 3), needs_abort=st.booleans())
def test_a_call_that_timed_out_is_repeated_but_not_the_records(
    started: tuple[Delivery, Producer], times: tuple[int, int, int], needs_abort: bool
) -> None:
    """Only the call that timed out is repeated: each record is produced once."""
    made, producer = started
    producer.calls.clear()
    offsets, commits, aborts = times
    timed_out = [error("_TIMED_OUT", retriable=True) for _ in range(3)]
    producer.fails = {
        "send_offsets_to_transaction": timed_out[:offsets],
        "commit_transaction": timed_out[:commits] + [error("_FAIL", txn_requires_abort=True)] * needs_abort,
        "abort_transaction": timed_out[:aborts],
    }
    assert commit(made, RECORDS) is (Outcome.ROLLED_BACK if needs_abort else Outcome.COMMITTED)
    assert producer.names() == [
        "begin_transaction",
        *["produce"] * len(RECORDS),
        *["send_offsets_to_transaction"] * (offsets + 1),
        *["commit_transaction"] * (commits + 1),
        *["abort_transaction"] * (needs_abort * (aborts + 1)),
    ]


def test_a_retriable_error_that_requires_an_abort_is_not_repeated(started: tuple[Delivery, Producer]) -> None:
    """librdkafka refuses every call until the abort: repeating would never end."""
    made, producer = started
    producer.fails["commit_transaction"] = [error("_TIMED_OUT", retriable=True, txn_requires_abort=True)]
    assert commit(made, RECORDS) is Outcome.ROLLED_BACK
    assert producer.names().count("commit_transaction") == 1


def test_producing_waits_while_the_queue_is_full(started: tuple[Delivery, Producer]) -> None:
    """If the queue is full, a record is produced later: none is lost or written twice."""
    made, producer = started
    producer.fails["produce"] = [BufferError(), BufferError()]
    assert commit(made, RECORDS) is Outcome.COMMITTED
    assert producer.names()[1:7] == ["produce", "poll", "produce", "poll", "produce", "produce"]
    assert [call[1] for call in producer.calls if call[0] == "produce"] == ["recommendations"] * 3 + ["eddy-changelog"]


def test_start_fences_the_previous_process_and_is_repeated(started: tuple[Delivery, Producer]) -> None:
    """A broker that is slow when a worker starts delays the worker but does not end it."""
    made, producer = started
    producer.fails["init_transactions"] = [error("_TIMED_OUT", retriable=True)]
    asyncio.run(made.start())
    assert producer.names() == ["init_transactions"] * 2


class Watch:
    """Kafka as a test wants it: `answered_s` moves by `step_s` each time it is read."""

    def __init__(self, step_s: float) -> None:
        self.step_s = step_s
        self.breaks = 0
        self._answered_s = 0.0

    @property
    def answered_s(self) -> float:
        self._answered_s += self.step_s
        return self._answered_s


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Delivery, Watch, threading.Event]]:
    """A started Delivery whose next commit does not return before the event is set. hang_s is 20."""
    monkeypatch.setattr(delivery, "Producer", Producer)
    monkeypatch.setattr(delivery, "CHECK_S", 0.001)
    released, watch = threading.Event(), Watch(0.0)
    made = Delivery("broker:9092", "eddy-0", 10.0, 20.0, LIMITS, watch=watch)
    made._producer.meanwhile = released.wait
    yield made, watch, released
    released.set()


def test_a_call_that_never_returns_is_given_up(hanging: tuple[Delivery, Watch, threading.Event]) -> None:
    """librdkafka #5456: a call that hangs while Kafka answers is given up, and its thread produces nothing later."""
    made, watch, released = hanging
    watch.step_s = 1.0
    old = made._producer
    with pytest.raises(Undecided, match="has not returned in 21 s"):
        commit(made, RECORDS)
    asyncio.run(made.restart())
    new = made._producer
    released.set()
    assert commit(made, RECORDS) is Outcome.COMMITTED
    assert new.names() == ["init_transactions", "begin_transaction", "produce", "produce", *STEPS[2:]]
    assert old is not new


def test_the_thread_of_a_producer_that_was_given_up_ends(hanging: tuple[Delivery, Watch, threading.Event]) -> None:
    """Its calls time out for ever: repeated, each replaced producer would keep its threads and log a line in 10 s."""
    made, watch, released = hanging
    watch.step_s = 1.0
    old, before = made._producer, set(threading.enumerate())
    old.fails["begin_transaction"] = [error("_FAIL", txn_requires_abort=True)]
    old.fails["abort_transaction"] = [error("_TIMED_OUT", retriable=True)] * 1_000
    with pytest.raises(Undecided):
        commit(made, RECORDS)
    (left,) = set(threading.enumerate()) - before
    made._replace()
    released.set()
    left.join(10)
    assert not left.is_alive()
    assert old.names() == ["begin_transaction", "abort_transaction"]


def test_a_call_that_hangs_after_a_broken_connection_is_given_up_soon(
    hanging: tuple[Delivery, Watch, threading.Event],
) -> None:
    """After the restart of a broker librdkafka's calls hang: no need to wait for hang_s."""
    made, watch, _ = hanging
    watch.step_s = 1.0
    made._producer.meanwhile = lambda: (setattr(watch, "breaks", 1), hanging[2].wait())
    with pytest.raises(Undecided, match=f"has not returned in {AFTER_BREAK_S + 1:.0f} s"):
        commit(made, RECORDS)


def test_a_call_waits_as_long_as_an_outage_lasts(hanging: tuple[Delivery, Watch, threading.Event]) -> None:
    """While Kafka does not answer, the clock of the limits stands still."""
    made, _, released = hanging

    async def outage() -> Outcome:
        committing = asyncio.ensure_future(made.commit(RECORDS, {CLICKS: 12}, b"member"))
        done, _ = await asyncio.wait({committing}, timeout=0.1)  # a hundred checks
        assert not done
        released.set()
        return await committing

    assert asyncio.run(outage()) is Outcome.COMMITTED


def test_a_call_is_not_given_up_while_a_partition_has_no_leader(
    hanging: tuple[Delivery, Watch, threading.Event],
) -> None:
    """However long that lasts; then it has its whole time again, because it goes on a moment after the leader is back.
    A producer that is replaced meanwhile can fence its successor later."""
    made, watch, released = hanging
    watch.step_s, asked = 1.0, []

    def list_topics(timeout: float) -> SimpleNamespace:
        asked.append(timeout)
        back = len(asked) > 3
        if back:
            released.set()
        partitions = {0: SimpleNamespace(leader=1 if back else -1)}
        return SimpleNamespace(topics={"recommendations": SimpleNamespace(partitions=partitions)})

    made.targets = Targets(["recommendations"], lambda: SimpleNamespace(list_topics=list_topics))
    assert commit(made, RECORDS) is Outcome.COMMITTED
    assert len(asked) == 4


def test_the_first_commit_after_a_broken_connection_has_a_new_producer(
    started: tuple[Delivery, Producer],
) -> None:
    """A worker without clicks in an outage does not wait for a call that hangs."""
    made, producer = started
    watch = made._watch = Watch(0.0)
    watch.breaks += 1
    assert commit(made, RECORDS) is Outcome.COMMITTED
    assert commit(made, RECORDS) is Outcome.COMMITTED
    assert producer.names() == []
    assert made._producer.names().count("init_transactions") == 1


def test_the_producer_is_set_up_for_its_topics(started: tuple[Delivery, Producer]) -> None:
    """Batches fit the smallest topic, messages the largest; joins by key find Java's partition; one id, one timeout."""
    config = started[1].config
    assert config["transactional.id"] == "eddy-0"
    assert config["transaction.timeout.ms"] == 10_000
    assert config["batch.size"] <= min(LIMITS.values())
    assert config["message.max.bytes"] > max(LIMITS.values())
    assert config["partitioner"] == "murmur2_random"


@given(
    group=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    generation=st.integers(0, 2**31 - 1),
    member=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40),
    instance=st.none() | st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=20),
)
@settings(max_examples=40)
def test_a_membership_can_be_read_back(group: str, generation: int, member: str, instance: str | None) -> None:
    """For any names, the bytes are a mark, four bytes, zero-terminated strings and a flag."""
    data = group_metadata(group, generation, member, instance)
    assert data[:7] == b"CGMDv2:"
    assert int.from_bytes(data[7:11], "little") == generation
    first, second, rest = data[11:].split(b"\0", 2)
    assert (first.decode(), second.decode()) == (group, member)
    assert rest == (b"\x01" if instance is None else b"\0" + instance.encode() + b"\0")


@pytest.mark.parametrize(("generation", "member"), [(-1, ""), (3, ""), (-1, "member")])
def test_offsets_are_never_sent_without_a_membership(generation: int, member: str) -> None:
    """Kafka takes the offsets of a producer that names no member, whoever has the partition."""
    with pytest.raises(Fenced, match="no membership in group shop"):
        group_metadata("shop", generation, member, None)
