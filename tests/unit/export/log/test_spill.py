"""A log larger than memory: small batches, chunks and runs give the same result as one large one."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.log.log import Log, read_log
from export.log.spill import ROW, Column, Spool, part
from stream.errors import ConfigError


def small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("export.files.cells.BATCH", 7)
    patch.setattr("export.log.spill.RUN", 16)
    patch.setattr("export.log.spill.CHUNK", 5)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=120))
def test_rows_are_returned_by_user_in_their_order(users: list[int]) -> None:
    """For any size, runs have whole users in index order, and can be read twice."""
    rows = np.zeros(len(users), ROW)
    rows["user"] = users
    rows["time_ms"] = np.arange(len(users))
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        spool = Spool()
        for piece in np.array_split(rows, 1 + len(rows) // 4):
            spool.add(piece)
        for _ in range(2):
            runs = list(spool.by_user())
            whole = np.concatenate(runs)
            assert len(whole) == len(rows)
            assert len({user for run in runs for user in set(run["user"].tolist())}) == sum(
                len(set(run["user"].tolist())) for run in runs
            )
            again = whole[np.argsort(whole["user"], kind="stable")]
            assert again.tolist() == rows[np.argsort(rows["user"], kind="stable")].tolist()


def random_log(path: Path, sessions: bool) -> Path:
    rng = np.random.default_rng(0)
    lines = ["user_id,item_id,timestamp,category,price" + ",session_id" * sessions]
    for i in range(400):
        user, item = rng.integers(0, 12), rng.integers(0, 30)
        line = f"u{user},i{item},{1_700_000_000 + i // 3 * 700},c{item % 4 or ''},{item / 4}"
        lines.append(line + f",s{rng.integers(0, 4)}" * sessions)
    path.write_text("\n".join([*lines, *lines[1:40]]))
    return path


def columns(log: Log) -> dict[str, object]:
    plain = {field.name: getattr(log, field.name) for field in fields(log)}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in plain.items()}


@pytest.mark.parametrize("sessions", [False, True])
@pytest.mark.parametrize("option", ["", "in_order", "drop_repeats"])
def test_a_log_in_many_runs_is_the_same_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sessions: bool, option: str
) -> None:
    """The ends of batches, chunks and runs change no column, note or name."""
    path = random_log(tmp_path / "log.csv", sessions)
    options = {option: True} if option else {}
    whole = columns(read_log(path, **options))
    small(monkeypatch)
    assert columns(read_log(path, **options)) == whole


def test_category_and_price_are_there_if_the_log_has_them(tmp_path: Path) -> None:
    """Categories become codes and prices become numbers; a missing or invalid value is none."""
    path = tmp_path / "log.csv"
    path.write_text(
        "user_id,item_id,timestamp,category,price\nu,a,1,shoes,9.5\nu,b,2,,\nu,c,3,hats,free\nu,d,4,shoes,-1\n"
    )
    log = read_log(path)
    assert log.categories == ["shoes", "hats"]
    assert log.category is not None
    assert log.price is not None
    assert log.category.tolist() == [0, -1, 1, 0]
    assert np.array_equal(log.price, [9.5, np.nan, np.nan, np.nan], equal_nan=True)
    assert "price is not a number >= 0 in 2 rows, such as 'free': left out" in log.notes
    pl.DataFrame(
        {"user_id": ["u"] * 3, "item_id": ["a"] * 3, "timestamp": [1, 2, 3], "price": [1.0, np.nan, None]}
    ).write_parquet(tmp_path / "log.parquet")
    assert not any("price" in note for note in read_log(tmp_path / "log.parquet").notes), (
        "NaN is no price, not a bad one"
    )
    kept = log.where(log.time_ms > 2000)
    assert kept.category is not None
    assert kept.category.tolist() == [1, 0]
    path.write_text("user_id,item_id,timestamp\nu,a,1\n")
    assert read_log(path).category is read_log(path).price is None


def test_a_part_of_a_column_is_on_disk_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result chunk by chunk equals the result at once, also for an empty part."""
    small(monkeypatch)
    column, keep = np.arange(23, dtype=np.int32), np.arange(23) % 3 > 0
    assert part(column, keep).tolist() == column[keep].tolist()
    assert part(column, keep & False).tolist() == []


def test_a_column_outlives_its_writer() -> None:
    """The array keeps its unnamed file open; no file remains."""
    column = Column(np.int64)
    for start in range(0, 10, 5):
        column.append(np.arange(start, start + 5))
    array = column.array()
    del column
    assert array.tolist() == list(range(10))


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the columns the error has the directory and the way to choose a different one."""

    def full(self: Spool, rows: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "add", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*set TMPDIR to a larger disk"):
        read_log(random_log(tmp_path / "log.csv", sessions=False))
