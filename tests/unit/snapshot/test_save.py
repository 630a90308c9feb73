"""What an export takes from a changelog that workers go on writing: the rows and the mark of one transaction.

The changelog answers as a read_committed consumer of librdkafka does. tests/kafka/test_snapshot.py has a real one.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka import changelog
from stream.kafka.changelog import POSITION_KEY, Changelog, Mark
from stream.settings import Topics
from stream.snapshot import save
from stream.snapshot.cluster import Cluster
from stream.snapshot.save import States, export_states, read_states
from tests.unit.snapshot.rows import LAYOUT, Rows, mark_of, row_of, users

CLICKS = Partition("clicks", 0)
Record = tuple[bytes, bytes | None]


def record(offset: int, key: bytes, value: bytes | None) -> Any:
    return SimpleNamespace(offset=lambda: offset, key=lambda: key, value=lambda: value, error=lambda: None)


def end_at(offset: int) -> Any:
    return SimpleNamespace(offset=lambda: offset, error=lambda: KafkaError(KafkaError._PARTITION_EOF))


class Log:
    """The committed records of one partition of a changelog. All consumers of the test read it.

    high  the high watermark that is answered; None = the end
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *transactions: Sequence[Record], high: int | None = None
    ) -> None:
        self.records = [each for transaction in transactions for each in transaction]
        self.high = len(self.records) if high is None else high
        self.reads = 0
        monkeypatch.setattr(changelog, "Consumer", lambda _: Reader(self))


class Reader:
    """A consumer that gives three records at a time, and the end after the last one."""

    def __init__(self, log: Log) -> None:
        self._log, self._at = log, 0

    def get_watermark_offsets(self, partition: Any, timeout: float) -> tuple[int, int]:
        return 0, self._log.high

    def assign(self, partitions: list[Any]) -> None:
        self._log.reads += 1

    def consume(self, most: int, timeout: float) -> list[Any]:
        some = self._log.records[self._at : self._at + 3]
        found = [record(self._at + n, *each) for n, each in enumerate(some)]
        self._at += len(some)
        return found if len(some) == 3 else [*found, end_at(self._at)]

    def close(self) -> None:
        pass


def transaction(rows: Rows, changed: Rows, next_: int, *removed: bytes) -> list[Record]:
    """The records of a transaction after which a partition has `rows`, with its mark at the end."""
    gone: list[Record] = [(user, None) for user in removed]
    return [*changed.items(), *gone, (POSITION_KEY, mark_of(rows, next_).encode())]


def taken() -> States:
    return read_states(Changelog("b:1", "g", "eddy-changelog"), CLICKS, LAYOUT, lambda _: None)


def test_the_rows_are_those_of_the_last_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later rows replace earlier ones, and a tombstone removes a row."""
    before, changed = users(5), {b"user1": row_of(b"user1", clicks=9)}
    after = {**before, **changed}
    del after[b"user4"]
    Log(monkeypatch, transaction(before, before, 10), transaction(after, changed, 20, b"user4"))
    assert taken() == States(mark_of(after, 20), after, 0)


@pytest.mark.parametrize("high", range(1, 9))
def test_an_end_within_a_transaction_is_read_on_to_its_mark(monkeypatch: pytest.MonkeyPatch, high: int) -> None:
    """Wherever the high watermark was, rows and mark are of one transaction, and of none that began after it."""
    first, second = users(2), users(4)
    third = {**second, b"user0": row_of(b"user0", clicks=77)}
    log = Log(monkeypatch, transaction(first, first, 2), transaction(second, second, 6), transaction(third, third, 7))
    log.high = high
    rows, next_ = (first, 2) if high <= 3 else (second, 6)
    assert taken() == States(mark_of(rows, next_), rows, 0)


def test_a_partition_that_nobody_has_read_has_no_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no error: a group may be new."""
    Log(monkeypatch)
    assert taken() == States(None, {}, 0)


def test_a_partition_that_is_compacted_meanwhile_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row whose newer version is behind the end was removed: the next reading finds the newer one."""
    rows, newer = users(3), {b"user0": row_of(b"user0", clicks=50)}
    whole = [*transaction(rows, rows, 5), *transaction({**rows, **newer}, newer, 6)]
    log = Log(monkeypatch, whole[1:], high=3)
    monkeypatch.setattr(Reader, "close", lambda self: setattr(log, "high", len(log.records)))
    assert taken() == States(mark_of({**rows, **newer}, 6), {**rows, **newer}, 0)
    assert log.reads == 2


def test_rows_that_are_missing_or_of_another_model_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot without a user's row would be taken for a whole one."""
    rows = users(3)
    Log(monkeypatch, transaction(rows, users(2), 5))
    with pytest.raises(ConfigError, match="lost or changed rows: 3 users"):
        taken()
    other = {b"u": row_of(b"u", layout=LAYOUT._replace(mark=8))}
    Log(monkeypatch, transaction(other, other, 5))
    with pytest.raises(ConfigError, match="another model, Eddy version or key of --pseudonymise"):
        taken()


def test_a_broken_row_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker lets its user begin again. The mark is that of the rows that are left."""
    rows = users(3)
    broken = {**rows, b"user1": rows[b"user1"][:-1] + b"\xff"}
    Log(monkeypatch, transaction(rows, broken, 5))
    left = {user: row for user, row in rows.items() if user != b"user1"}
    assert taken() == States(mark_of(left, 5), left, 1)


def cluster(changelog_: Any) -> Cluster:
    none: Any = None
    return Cluster("b:1", none, none, Topics(), changelog_, [CLICKS], "id")


def test_an_export_leaves_a_whole_directory_or_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It overwrites nothing, removes what it had written when it fails, and does not disturb another one."""
    out, unfinished = tmp_path / "deep" / "states", tmp_path / "deep" / "states.unfinished"
    of_cluster = cluster(Changelog("b:1", "g", "eddy-changelog"))
    rows = users(3)
    Log(monkeypatch, transaction(rows, users(2), 5))
    with pytest.raises(ConfigError, match="lost or changed rows"):
        export_states(of_cluster, LAYOUT, out, lambda _: None)
    assert list(out.parent.iterdir()) == []
    Log(monkeypatch, transaction(rows, rows, 5))
    done = export_states(of_cluster, LAYOUT, out, lambda _: None)
    assert [path.name for path in out.parent.iterdir()] == ["states"]
    assert done["partitions"]["clicks-0"] | {"bytes": 0} == {"users": 3, "offset": 5, "broken": 0, "bytes": 0}
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        export_states(of_cluster, LAYOUT, out, lambda _: None)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    out.rename(unfinished)
    with pytest.raises(ConfigError, match=r"states\.unfinished is there"):
        export_states(of_cluster, LAYOUT, out, lambda _: None)
    assert unfinished.is_dir()


def test_a_disk_that_is_full_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And nothing is left."""
    Log(monkeypatch)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save, "write_file", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        export_states(cluster(Changelog("b:1", "g", "eddy-changelog")), LAYOUT, tmp_path / "x", lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_progress_adds_up_to_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar that ends at another place than at its end would say that something was left out."""
    rows = users(7)
    log = Log(monkeypatch, transaction(rows, rows, 9), transaction(rows, {}, 10))
    steps: list[int] = []
    states = read_states(Changelog("b:1", "g", "eddy-changelog"), CLICKS, LAYOUT, steps.append)
    assert states.mark == Mark(10, *mark_of(rows)[1:])
    assert log.high - 1 <= sum(steps) <= log.high
    assert min(steps) >= 0
