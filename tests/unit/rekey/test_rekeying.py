"""Where the copying goes on after an assignment and after a transaction that was not committed."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from stream.errors import ConfigError, Fenced
from stream.events import Partition
from stream.kafka.delivery import Outcome, Undecided
from stream.kafka.waiting import NoWatch
from stream.meter import Meter
from stream.rekey import rekeying as module
from stream.rekey.rekeying import QUICK_S, ROLL_BACKS, Rekeying
from stream.wire.json import JsonCodec

ZERO, ONE = Partition("clicks", 0), Partition("clicks", 1)


class Consumer:
    """A consumer that gives what it has; a rebalance may come with it."""

    def __init__(self) -> None:
        self.at: dict[Partition, int] = {}
        self.messages: list[Any] = []
        self.meanwhile: Any = None

    def assign(self, partitions: Sequence[TopicPartition]) -> None:
        self.at = {Partition(p.topic, p.partition): p.offset for p in partitions}

    def consumer_group_metadata(self) -> bytes:
        return b"member"

    def consume(self, most: int, wait_s: float) -> list[Any]:
        given, self.messages = self.messages[:most], self.messages[most:]
        if self.meanwhile is not None:
            self.meanwhile()
        return given


class Delivery:
    """Ends each transaction as the test says."""

    def __init__(self) -> None:
        self.outcome: Outcome | None = Outcome.COMMITTED
        self.restarted = 0

    async def commit(self, *_: Any) -> Outcome:
        if self.outcome is None:
            raise Undecided("hangs")
        return self.outcome

    async def restart(self) -> None:
        self.restarted += 1


def rekeying(committed: Mapping[Partition, int | None], ends: Mapping[Partition, tuple[int, int]]) -> Any:
    """A Rekeying whose partitions were just given; `begin_at` is offset 7."""
    offsets = SimpleNamespace(
        committed=lambda of: {p: committed[p] for p in of}, ends=lambda of: {p: ends[p] for p in of}
    )
    stubs: Any = (offsets, Delivery(), lambda of: dict.fromkeys(of, 7))
    made: Any = Rekeying(
        "clicks", "by-user", 9_000, JsonCodec(1_000, 1_000), lambda: Consumer(), *stubs, NoWatch(), Meter()
    )
    made._consumer = Consumer()
    given = [TopicPartition(*partition) for partition in committed]
    made._assigned(made._consumer, given)
    return made


def message(offset: int, partition: int = 0, code: int | None = None) -> Any:
    error = None if code is None else KafkaError(code)
    fields = {"offset": offset, "partition": partition, "topic": "clicks", "error": error}
    fields |= {"key": None, "value": b"{", "headers": None, "timestamp": (1, 5)}
    return SimpleNamespace(**{name: (lambda value=value: value) for name, value in fields.items()})


def test_it_reads_on_at_the_committed_offsets_and_else_where_the_group_begins() -> None:
    """Nothing that was read before the offsets were known is copied: it comes again."""
    made = rekeying({ZERO: 40, ONE: None}, {ZERO: (0, 90), ONE: (0, 90)})
    made._consumer.messages = [message(3)]
    assert made._read() == ([], {})
    assert made._consumer.at == {ZERO: 40, ONE: 7}
    made._consumer.messages = [message(40), message(41), message(7, 1)]
    records, offsets = made._read()
    assert (len(records), offsets) == (3, {ZERO: 42, ONE: 8})


def test_messages_that_were_read_before_a_rebalance_are_not_copied() -> None:
    """Another worker may have their partition, and this worker's new membership would be accepted for them."""
    made = rekeying({ZERO: 0, ONE: 0}, {ZERO: (0, 90), ONE: (0, 90)})
    made._read()
    made._consumer.messages = [message(0), message(1)]
    made._consumer.meanwhile = lambda: made._assigned(made._consumer, [TopicPartition("clicks", 1)])
    assert made._read() == ([], {})
    assert made._consumer.at == {ONE: 0}
    made._consumer.messages, made._consumer.meanwhile = [message(0, 1)], lambda: made._revoked(None, [])
    assert made._read() == ([], {})
    assert made._member is None


def test_what_kafka_deleted_before_it_was_copied_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    """At the start, and while it runs: then the consumer has an error."""
    made = rekeying({ZERO: 40}, {ZERO: (50, 90)})
    made._read()
    assert (made._consumer.at, made._meter.snapshot().count("clicks_lost")) == ({ZERO: 50}, 10)
    assert "partition=clicks-0 from=40 to=50 lost=10" in caplog.text
    made._consumer.messages = [message(0, code=KafkaError._AUTO_OFFSET_RESET)]
    assert made._read() == ([], {})
    made._read()
    assert made._meter.snapshot().count("clicks_lost") == 20


def test_the_end_of_a_partition_counts_the_markers_before_it() -> None:
    """Else the lag of a topic whose producers use transactions would never be 0."""
    made = rekeying({ZERO: 0}, {ZERO: (0, 2)})
    made._read()
    made._consumer.messages = [message(0), message(2, code=KafkaError._PARTITION_EOF)]
    records, offsets = made._read()
    assert (len(records), offsets) == (1, {ZERO: 2})


def test_a_source_that_was_created_again_is_refused() -> None:
    """The line says what to delete."""
    made = rekeying({ZERO: 40}, {ZERO: (0, 12)})
    with pytest.raises(ConfigError, match=r"ends at 12: the topic was created again.*--delete --group by-user"):
        made._read()


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, ConfigError),
        (KafkaError.FENCED_INSTANCE_ID, Fenced),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Exception),
    ],
)
def test_an_error_that_does_not_pass_ends_the_worker(code: int, error: type[Exception]) -> None:
    made = rekeying({ZERO: 0}, {ZERO: (0, 2)})
    made._read()
    made._consumer.messages = [message(0, code=code)]
    with pytest.raises(error):
        made._read()


@pytest.mark.parametrize("outcome", [Outcome.STALE, Outcome.ROLLED_BACK, None])
def test_after_a_transaction_that_is_not_known_as_committed_the_offsets_are_read_again(outcome: Outcome | None) -> None:
    """A hanging producer is replaced before. A member of an old generation waits for the group."""
    made = rekeying({ZERO: 0}, {ZERO: (0, 90)})
    made._read()
    asyncio.run(made._write([], {ZERO: 5}, b"member"))
    assert made._next == {ZERO: 5}
    made._delivery.outcome = outcome
    asyncio.run(made._write([], {ZERO: 9}, b"member"))
    assert made._next == {}
    assert made._delivery.restarted == (outcome is None)
    assert (made._member is None) == (outcome is Outcome.STALE)
    made._read()
    assert made._next == ({} if outcome is Outcome.STALE else {ZERO: 0})


def test_after_a_transaction_that_failed_the_next_ones_are_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka rolls back what takes longer than the session timeout: else the same messages are rolled back for ever.
    They become larger again when it is quick."""
    made = rekeying({ZERO: 0}, {ZERO: (0, 9_000)})
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    def copy(outcome: Outcome) -> int:
        while not made._next:
            made._read()
        made._consumer.messages, made._delivery.outcome = [message(n) for n in range(9_000)], outcome
        records, offsets = made._read()
        asyncio.run(made._write(records, offsets, b"member"))
        return len(records)

    for outcome, took_s, sizes in (
        (Outcome.ROLLED_BACK, 9.0, [5_000, 2_500, 1_250]),
        (Outcome.COMMITTED, QUICK_S + 0.1, [625, 625]),
        (Outcome.COMMITTED, QUICK_S, [625, 1_250, 2_500, 5_000, 5_000]),
    ):
        clock = itertools.count(0.0, took_s)
        assert [copy(outcome) for _ in sizes] == sizes


def test_a_batch_that_is_rolled_back_again_and_again_ends_the_worker() -> None:
    """Else it would repeat it for ever, without a line that says so."""
    made = rekeying({ZERO: 0}, {ZERO: (0, 90)})
    made._delivery.outcome = Outcome.ROLLED_BACK
    for _ in range(ROLL_BACKS - 1):
        asyncio.run(made._write([], {ZERO: 9}, b"member"))
    with pytest.raises(RuntimeError, match="rolled back"):
        asyncio.run(made._write([], {ZERO: 9}, b"member"))
