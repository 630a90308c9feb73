"""Reading offsets and rows, with a consumer that answers as librdkafka does."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, TopicPartition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka import changelog
from stream.kafka.changelog import POSITION_KEY, Changelog, Mark, Position, disagreement

ONE, TWO = Partition("clicks", 0), Partition("clicks", 1)


class Kafka:
    """Partitions with their ends, a group's offsets and the changelog's messages. Its consumers replace
    confluent_kafka.Consumer."""

    def __init__(self) -> None:
        self.ends: dict[tuple[str, int], tuple[int, int]] = {}
        self.committed: list[Callable[[], dict[tuple[str, int], int]]] = []
        self.batches: list[list[Any]] = []
        self.opened: list[dict[str, Any]] = []
        self.closed = 0
        self.assigned: list[TopicPartition] = []

    def consumer(self, config: dict[str, Any]) -> "Consumer":
        self.opened.append(config)
        return Consumer(self)


class Consumer:
    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka

    def get_watermark_offsets(self, partition: TopicPartition, timeout: float) -> tuple[int, int]:
        return self.kafka.ends[partition.topic, partition.partition]

    def committed(self, asked: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        offsets = self.kafka.committed.pop(0)()
        return [
            TopicPartition(p.topic, p.partition, offsets.get((p.topic, p.partition), OFFSET_INVALID)) for p in asked
        ]

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.kafka.assigned = partitions

    def consume(self, most: int, timeout: float) -> list[Any]:
        return self.kafka.batches.pop(0) if self.kafka.batches else []

    def close(self) -> None:
        self.kafka.closed += 1


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    made = Kafka()
    monkeypatch.setattr(changelog, "Consumer", made.consumer)
    return made


def message(partition: int, offset: int, key: bytes, value: bytes | None) -> Any:
    return SimpleNamespace(
        partition=lambda: partition, offset=lambda: offset, key=lambda: key, value=lambda: value, error=lambda: None
    )


def end_of(partition: int, offset: int, code: int = KafkaError._PARTITION_EOF) -> Any:
    """The end-of-partition event of a consumer; with a different code, an error."""
    return SimpleNamespace(partition=lambda: partition, offset=lambda: offset, error=lambda: KafkaError(code))


def pending() -> dict[tuple[str, int], int]:
    raise KafkaException(KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT))


def reader() -> Changelog:
    return Changelog("broker:9092", "shop", "eddy-changelog")


def read(partitions: list[Partition]) -> tuple[dict[Partition, dict[bytes, bytes]], dict[Partition, Mark]]:
    """The rows that the changelog's reader gives, put together as its user must; and the marks."""
    found: dict[Partition, dict[bytes, bytes | None]] = {partition: {} for partition in partitions}
    marks = reader().read(partitions, lambda partition, rows: found[partition].update(rows))
    return {p: {key: row for key, row in rows.items() if row is not None} for p, rows in found.items()}, marks


def test_a_group_continues_at_its_commit_or_begins_at_the_first_offset(kafka: Kafka) -> None:
    """A partition without a committed offset is read from the oldest click that Kafka still has."""
    kafka.committed = [lambda: {ONE: 25}]
    kafka.ends = {ONE: (10, 90), TWO: (7, 9)}
    assert reader().positions([ONE, TWO]) == {ONE: Position(25, 25), TWO: Position(None, 7)}
    assert len(kafka.opened) == kafka.closed


def test_an_offset_whose_clicks_kafka_has_deleted_is_kept(kafka: Kafka) -> None:
    """The fetch finds and counts the loss. Starting at the first existing click would hide it."""
    kafka.committed = [lambda: {ONE: 3}]
    kafka.ends = {ONE: (10, 90)}
    assert reader().positions([ONE]) == {ONE: Position(3, 3)}


@pytest.mark.parametrize(("offset", "fits"), [(90, True), (91, False)])
def test_an_offset_beyond_the_end_is_refused(kafka: Kafka, offset: int, fits: bool) -> None:
    """A topic that was created again has new clicks at old offsets: the error has the remedy."""
    kafka.committed = [lambda: {ONE: offset}]
    kafka.ends = {ONE: (0, 90)}
    if fits:
        assert reader().positions([ONE])[ONE].next == 90
        return
    with pytest.raises(ConfigError, match=r"offset 91 on clicks-0, which ends at 90.*--group and --changelog-topic"):
        reader().positions([ONE])


def test_reading_waits_for_a_pending_transaction(kafka: Kafka) -> None:
    """An offset that is read before a dead worker's transaction has ended would repeat its decisions."""
    kafka.committed = [pending, pending, lambda: {ONE: 5}]
    kafka.ends = {ONE: (0, 9)}
    assert reader().positions([ONE]) == {ONE: Position(5, 5)}


def test_a_transaction_that_never_ends_is_an_error(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the longest possible time of a transaction, Kafka's own error is raised."""
    monkeypatch.setattr(changelog, "STABLE_S", -1.0)
    kafka.committed = [pending]
    with pytest.raises(KafkaException, match="UNSTABLE_OFFSET_COMMIT"):
        reader().positions([ONE])
    assert len(kafka.opened) == kafka.closed


def test_offsets_wait_for_transactions_and_ends_do_not(kafka: Kafka) -> None:
    """Offsets are read with read_committed, ends with read_uncommitted: the last stable offset would hide rows."""
    kafka.committed = [dict]
    kafka.ends = {ONE: (0, 0)}
    reader().positions([ONE])
    assert [config["isolation.level"] for config in kafka.opened] == ["read_committed", "read_uncommitted"]
    assert all(config["group.id"] == "shop" and not config["enable.auto.commit"] for config in kafka.opened)


ROWS = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([b"a", b"b", b"c"]), st.none() | st.binary(max_size=4))
    | st.tuples(st.integers(0, 1), st.just(POSITION_KEY), st.builds(Mark, *[st.integers(0, 2**64 - 1)] * 4)),
    max_size=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(written=ROWS, batch=st.integers(1, 5), markers=st.lists(st.integers(1, 3), min_size=2, max_size=2))
def test_rows_are_the_newest_of_each_user(
    kafka: Kafka, written: list[tuple[int, bytes, bytes | Mark | None]], batch: int, markers: list[int]
) -> None:
    """In every split into batches, the last value of a key counts, and a tombstone removes the key."""
    expected: dict[int, dict[bytes, bytes]] = {0: {}, 1: {}}
    expected_marks: dict[int, Mark] = {}
    offsets, messages = [0, 0], []
    for number, key, value in written:
        messages.append(message(number, offsets[number], key, value.encode() if isinstance(value, Mark) else value))
        offsets[number] += 1
        if isinstance(value, Mark):
            expected_marks[number] = value
        elif value is None:
            expected[number].pop(key, None)
        else:
            expected[number][key] = value
    ends = [offset + marker for offset, marker in zip(offsets, markers, strict=True)]  # behind it a commit's marker
    messages += [end_of(number, end) for number, end in enumerate(ends)]
    kafka.ends = {("eddy-changelog", number): (0, end) for number, end in enumerate(ends)}
    kafka.batches = [messages[at : at + batch] for at in range(0, len(messages), batch)]
    rows, marks = read([ONE, TWO])
    assert rows == {ONE: expected[0], TWO: expected[1]}
    assert marks == {(ONE, TWO)[number]: mark for number, mark in expected_marks.items()}
    assert kafka.batches == []


def test_an_end_before_the_high_watermark_is_not_the_end(kafka: Kafka) -> None:
    """While a dead worker's transaction is open, a read_committed consumer stops before it; the rows after it are read,
    too."""
    kafka.ends = {("eddy-changelog", 0): (0, 3)}
    kafka.batches = [[message(0, 0, b"a", b"old"), end_of(0, 1)], [], [message(0, 1, b"a", b"new"), end_of(0, 3)]]
    assert read([ONE])[0] == {ONE: {b"a": b"new"}}


def test_an_empty_changelog_needs_no_waiting(kafka: Kafka) -> None:
    """A new group, or a partition that compaction emptied, has no rows, and reading returns at once."""
    kafka.ends = {("eddy-changelog", 0): (0, 0), ("eddy-changelog", 1): (8, 8)}
    assert read([ONE, TWO]) == ({ONE: {}, TWO: {}}, {})


def test_a_changelog_that_cannot_be_read_to_its_end_is_an_error(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    """Incomplete rows are never used; the error names the incomplete partitions."""
    monkeypatch.setattr(changelog, "STABLE_S", -1.0)
    kafka.ends = {("eddy-changelog", 0): (0, 1), ("eddy-changelog", 1): (0, 5)}
    kafka.batches = [[message(0, 0, b"a", b"1"), message(1, 0, b"b", b"2")]]
    with pytest.raises(TimeoutError, match=r"partitions \[1\]"):
        read([ONE, TWO])
    assert len(kafka.opened) == kafka.closed


def test_an_error_of_the_consumer_is_raised(kafka: Kafka) -> None:
    """A deleted segment or a missing permission does not count as the end of the changelog."""
    kafka.ends = {("eddy-changelog", 0): (0, 5)}
    kafka.batches = [[end_of(0, 2, KafkaError.TOPIC_AUTHORIZATION_FAILED)]]
    with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
        read([ONE])
    assert len(kafka.opened) == kafka.closed


def test_a_mark_is_looked_for_at_the_end_only(kafka: Kafka) -> None:
    """A kept partition costs a few records, however long its changelog is; without a mark there it is left out."""
    kafka.ends = {("eddy-changelog", 0): (0, 5_000), ("eddy-changelog", 1): (4_990, 5_000)}
    mark = Mark(7, 2, 2**64 - 1)
    tails = [message(0, 4_997, b"a", b"row"), message(0, 4_998, POSITION_KEY, mark.encode()), end_of(0, 5_000)]
    kafka.batches = [[*tails, message(1, 4_998, b"b", b"row"), end_of(1, 5_000)]]
    assert reader().marks([ONE, TWO]) == {ONE: mark}
    assert {p.partition: p.offset for p in kafka.assigned} == {0: 4_984, 1: 4_990}


@pytest.mark.parametrize("kept", [b"", b"\n", b" ", b"a b\x00\xff"])
def test_what_is_kept_of_a_partition_is_any_bytes(kept: bytes) -> None:
    """The mark has it behind the numbers."""
    mark = Mark(7, 2, 3, 1_700_000_000_000, kept)
    assert Mark.decode(mark.encode(), ONE) == mark


def test_mark_of_another_version_is_refused(kafka: Kafka) -> None:
    """Until now it was an offset alone: those rows have no checksums, and the message names the way out."""
    kafka.ends = {("eddy-changelog", 0): (0, 2)}
    kafka.batches = [[message(0, 0, POSITION_KEY, b"17"), end_of(0, 2)]]
    with pytest.raises(ConfigError, match=r"clicks-0 was written with another Eddy version.*--changelog-topic"):
        read([ONE])


def test_no_user_has_the_position_as_key() -> None:
    """The key of the position row is not UTF-8, so it cannot be a user id."""
    with pytest.raises(UnicodeDecodeError):
        POSITION_KEY.decode()


@pytest.mark.parametrize(
    ("committed", "position", "words"),
    [
        (
            None,
            7,
            [
                "at offset 7",
                "no committed offset",
                "another clicks topic",
                "--group that",
                "--changelog-topic (",
                "repair",
            ],
        ),
        (
            9,
            None,
            [
                *("is at offset 9", "no rows of that partition", "--changelog-topic of this group"),
                *("another --group if this one is another application's", "--accept-lost-rows"),
            ],
        ),
        (9, 7, ["at offset 7", "is at 9", "topics repair", "another --group and --changelog-topic"]),
    ],
)
def test_offsets_and_rows_that_disagree_are_an_error_with_the_remedy(
    committed: int | None, position: int | None, words: list[str]
) -> None:
    """The error of each case names group, partition, both offsets and the options to change."""
    text = str(disagreement("shop", ONE, committed, position))
    assert [word for word in ["group shop", "clicks-0", *words] if word not in text] == []


def test_the_newest_rows_are_read_without_waiting_for_a_pending_transaction(kafka: Kafka) -> None:
    """The end of a partition comes before its high watermark then. A process that starts must not wait for another's
    transaction only to see which model wrote the rows."""
    kafka.ends = {("eddy-changelog", 0): (0, 100), ("eddy-changelog", 1): (0, 5)}
    mark = Mark(7, 1, 2).encode()
    kafka.batches = [[message(0, 90, b"u", b"row"), message(0, 91, POSITION_KEY, mark), end_of(0, 93), end_of(1, 2)]]
    found: dict[Partition, dict[bytes, bytes | None]] = {}
    reader().newest([ONE, TWO], lambda partition, rows: found.update({partition: rows}))
    assert found == {ONE: {b"u": b"row"}}
    assert {(each.partition, each.offset) for each in kafka.assigned} == {(0, 84), (1, 0)}
