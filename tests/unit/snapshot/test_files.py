"""The files of a snapshot give back what was written, or say which file does not."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.errors import ConfigError
from stream.snapshot import files
from stream.snapshot.files import check_rows, file_of, read_headers, read_rows
from stream.snapshot.tables import Layout
from tests.unit.snapshot.rows import LAYOUT, mark_of, row_of, users, written

BOOTS, SOCKS, NONE, UNKNOWN = 0, 1, -1, 3


def read(directory: Path, layout: Layout = LAYOUT) -> list[dict[bytes, bytes]]:
    """The rows of each partition, after all checks."""
    headers = read_headers(directory)
    check_rows(directory, headers, layout, lambda _: None)
    return [dict(read_rows(file_of(directory, header.partition))) for header in headers]


def refusal(directory: Path, layout: Layout = LAYOUT) -> str:
    with pytest.raises(ConfigError) as refused:
        read(directory, layout)
    assert "\n" not in str(refused.value)
    return str(refused.value)


bits = st.binary(min_size=LAYOUT.dtype["h"].itemsize, max_size=LAYOUT.dtype["h"].itemsize)
event_ids = st.lists(st.binary(min_size=8, max_size=8), max_size=16).map(b"".join)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.none() | st.dictionaries(st.text(max_size=12).map(str.encode), st.tuples(bits, event_ids), max_size=9),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, 4),
)
def test_rows_and_marks_come_back_byte_for_byte(
    partitions: list[dict[bytes, tuple[bytes, bytes]] | None], rows_at_a_time: int
) -> None:
    """Any user ids, any bits of a state (also NaN), any number of event ids, partitions that nobody has read."""
    made = [
        None if one is None else {u: row_of(u, rest, h=np.frombuffer(h, "<f4")) for u, (h, rest) in one.items()}
        for one in partitions
    ]
    with TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "ROWS", rows_at_a_time)
        written(Path(directory), made)
        assert read(Path(directory)) == [one or {} for one in made]
        marks = [header.decoded for header in read_headers(Path(directory))]
        assert marks == [None if one is None else mark_of(one) for one in made]


def test_a_person_reads_the_columns_with_another_program(tmp_path: Path) -> None:
    """Ids instead of item numbers, timestamps instead of numbers, and the tensors as lists."""
    rows = {
        b"new": row_of(b"new"),
        "Zoë".encode(): row_of(
            "Zoë".encode(),
            clicks=3,
            last_ms=1_760_000_000_000,
            recent=[SOCKS, UNKNOWN, BOOTS],
            held=[BOOTS, NONE, NONE],
            session_start_ms=1_759_999_000_000,
            session_types=[1, 0, 2],
            h=[0.5, 1, 2, 3],
            c=[[0, 1, 2], [3, 4, 5]],
            source_offset=39,
        ),
    }
    written(tmp_path, [rows])
    zoe, new = pl.read_parquet(tmp_path / "*.parquet").sort("clicks", descending=True).to_dicts()
    assert (zoe["user_id"], zoe["last_item"], zoe["recent_items"]) == ("Zoë", "socks", ["socks", None, "boots"])
    assert (zoe["held_items"], zoe["clicks"], zoe["source_offset"]) == (["boots"], 3, 39)
    assert zoe["last_click"].isoformat() == "2025-10-09T08:53:20+00:00"
    assert zoe["session_start"].isoformat() == "2025-10-09T08:36:40+00:00"
    assert (list(zoe["session_types"]), list(zoe["state_h"])) == ([1, 0, 2], [0.5, 1, 2, 3])
    assert (list(zoe["state_c"]), zoe["partition"]) == ([0, 1, 2, 3, 4, 5], 0)
    assert (new["last_item"], new["recent_items"], new["last_click"], new["session_start"]) == (None, [], None, None)
    assert dict(zip(["Zoë", "new"], [zoe["row"], new["row"]], strict=True)) == {u.decode(): r for u, r in rows.items()}


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    """No file, one missing, one of another snapshot, one renamed, one too many."""
    assert "state-NUMBER.parquet" in refusal(tmp_path)
    assert "cannot be read" in refusal(tmp_path / "nowhere")
    one = written(tmp_path / "one", [users(3), users(3, 10), users(3, 20)])
    other = written(tmp_path / "other", [users(3), users(3, 10), users(3, 20)], "two")
    middle = file_of(one, 1)
    kept = middle.read_bytes()
    middle.unlink()
    assert "lacks 1 of 3 files of the snapshot, the first one is state-00001.parquet" in refusal(one)
    middle.write_bytes(file_of(other, 1).read_bytes())
    assert "state-00001.parquet and state-00000.parquet" in refusal(one)
    middle.write_bytes(file_of(one, 2).read_bytes())
    assert "state-00001.parquet" in refusal(one)
    middle.write_bytes(kept)
    assert len(read(one)) == 3
    pl.DataFrame({"user_id": ["u"], "row": [b"r"]}).write_parquet(middle)
    assert "was not written by `eddy state export`" in refusal(one)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """Cut, not Parquet, a row that was changed, a row under another user, a row that is missing."""
    rows = users(50)
    directory = written(tmp_path, [users(2, 100), rows])
    path = file_of(directory, 1)
    whole = path.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"PAR1 no PAR1"):
        path.write_bytes(damage)
        assert f"{path} is damaged" in refusal(directory)
    path.write_bytes(whole)
    good = pq.read_table(path)
    one = bytearray(good["row"][7].as_py())
    one[-1] ^= 1
    names = good["user_id"].to_pylist()
    values = good["row"].to_pylist()
    for changed in (
        {"row": [*values[:7], bytes(one), *values[8:]]},
        {"user_id": [names[1], names[0], *names[2:]]},
        {"user_id": names[1:], "row": values[1:]},
        {"user_id": [None, *names[1:]]},
    ):
        columns = {"user_id": names, "row": values} | changed
        pq.write_table(pa.table(columns).replace_schema_metadata(good.schema.metadata), path)
        assert f"{path} is damaged" in refusal(directory)


def test_another_model_or_format_is_refused_before_the_rows_are_read(tmp_path: Path) -> None:
    """A state of another model, layout or key of pseudonyms; a file of a later Eddy."""
    directory = written(tmp_path / "one", [users(3)])
    assert "--model m/1, this version or --pseudonymise is another one" in refusal(directory, LAYOUT._replace(mark=8))
    later = written(tmp_path / "later", [users(3)], format=2)
    assert "has format 2, and this Eddy reads 1" in refusal(later)
