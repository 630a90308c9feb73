"""Where a snapshot may be restored, and at which offsets reading begins. tests/kafka/test_snapshot.py writes one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import POSITION_KEY, Mark
from stream.settings import Topics
from stream.snapshot import restore
from stream.snapshot.cluster import Cluster
from stream.snapshot.files import read_headers
from stream.snapshot.restore import SAME_TOPIC, SNAPSHOT, import_states
from stream.state.checksum import intact
from stream.state.row import Head
from tests.unit.snapshot.rows import mark_of, users, written

PARTITIONS = [Partition("clicks", number) for number in range(3)]


class States:
    """A changelog and the group's offsets."""

    group = "eddy"

    def __init__(self, rows: Mapping[bytes, bytes] | None = None, offset: int | None = None, end: int = 40) -> None:
        self._rows, self._offset, self._end = rows, offset, end

    def read_raw(self, partitions: list[Partition], take: Any) -> None:
        if self._rows is not None:
            take(partitions[1], self._rows)

    def committed(self, partitions: list[Partition]) -> dict[Partition, int | None]:
        return {**dict.fromkeys(partitions), partitions[2]: self._offset}

    def ends(self, partitions: list[Partition]) -> dict[Partition, tuple[int, int]]:
        return dict.fromkeys(partitions, (30, self._end))


def cluster(states: States, clicks_id: str = "a") -> Cluster:
    none: Any = None
    changelog: Any = states
    return Cluster("b:1", none, none, Topics(), changelog, PARTITIONS, clicks_id)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A snapshot of a partition with rows, one that nobody has read, and one without users."""
    return written(tmp_path / "states", [users(5), None, {}])


def test_another_number_of_partitions_is_refused_before_kafka_is_asked(tmp_path: Path) -> None:
    """Users would be in other partitions than their clicks."""
    directory = written(tmp_path, [users(3)])
    with pytest.raises(ConfigError, match=r"has 1 partitions.*have 3.*create topics with 1"):
        import_states(cluster(States()), directory, read_headers(directory), SAME_TOPIC, lambda _: None)


@pytest.mark.parametrize(
    ("states", "words"),
    [
        (States({b"u": b"row"}), r"has states already \(clicks-1\); give another --group and --changelog-topic"),
        (States({POSITION_KEY: b"5 0 0 0"}), "has states already"),
        (States(offset=7), "has committed offset 7 on clicks-2 already; give another --group"),
    ],
)
def test_only_an_empty_changelog_and_a_new_group_are_taken(states: States, words: str) -> None:
    """Anything else would be mixed with the snapshot, or skip clicks."""
    with pytest.raises(ConfigError, match=words):
        restore._check_empty(cluster(states))


def test_reading_begins_where_the_states_end(directory: Path) -> None:
    """In the partitions that somebody had read, also if Kafka has deleted clicks meanwhile; and if all offsets fit."""
    headers, read = read_headers(directory), {PARTITIONS[0]: 40, PARTITIONS[2]: 40}
    assert restore._begins(cluster(States()), headers, SAME_TOPIC) == read
    assert restore._begins(cluster(States(), "b"), headers, SNAPSHOT) == read
    with pytest.raises(ConfigError, match=r"not the one of which.*--start-at earliest, latest or a time.*snapshot"):
        restore._begins(cluster(States(), "b"), headers, SAME_TOPIC)
    for start_at in (SAME_TOPIC, SNAPSHOT):
        with pytest.raises(ConfigError, match="continues at offset 40 of clicks-0, which ends at 39"):
            restore._begins(cluster(States(end=39)), headers, start_at)


def test_elsewhere_reading_begins_in_all_partitions(directory: Path) -> None:
    """A partition that nobody had read, too: its users' clicks are at other offsets now."""
    assert restore._begins(cluster(States(), "b"), read_headers(directory), "earliest") == dict.fromkeys(PARTITIONS, 30)


@pytest.mark.parametrize("kept", [True, False])
def test_the_records_of_a_partition_end_with_a_mark_that_fits_them(directory: Path, kept: bool) -> None:
    """A worker refuses rows that do not add up to the mark."""
    begins = {PARTITIONS[0]: 33, PARTITIONS[1]: 34}
    records = list(restore._records(directory, read_headers(directory), begins, kept, lambda _: None))
    *rows, (key, mark, number) = records[:-1]
    assert {partition for *_, partition in rows} == {number} == {0}
    values = {user: row for user, row, _ in rows if row is not None}
    assert values.keys() == users(5).keys()
    assert all(intact(*each) for each in values.items())
    assert [Head.of(row).source_offset for row in values.values()] == ([0, 1, 2, 3, 4] if kept else [-1] * 5)
    assert (key, mark) == (POSITION_KEY, mark_of(values)._replace(next=33).encode())
    assert records[-1] == (POSITION_KEY, Mark(34, 0, 0).encode(), 1)
