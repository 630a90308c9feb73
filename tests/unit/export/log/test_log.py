"""How `eddy train`, `evaluate` and `replay` read logs."""

import gzip
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.dataset.cooccurrence import NEW_SESSION
from export.log.log import GAP_EDGES_MS, HOUR, Log, log_clicks, read_log
from export.log.reader import ColumnNames
from export.log.synthetic_times import session_begins
from export.log.times import LATEST_MS, parse_time
from stream.errors import ConfigError
from stream.events import Click
from stream.model.gaps import gap_bucket
from stream.wire.fields import LOST_DIGITS

HEADER = "user_id,item_id,event_type,timestamp\n"


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_formats_agree(tmp_path: Path) -> None:
    """The same clicks as CSV, gzipped CSV and JSON lines are the same log."""
    text = HEADER + "ann,shoe,view,1700000000\nbob,hat,cart,1700000005\nann,hat,view,1700000002\n"
    lines = "".join(
        f'{{"user_id": "{u}", "item_id": "{i}", "event_type": "{e}", "timestamp": {t}}}\n'
        for u, i, e, t in (line.split(",") for line in text.splitlines()[1:])
    )
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(text.encode()))
    paths = [written(tmp_path / "a.csv", text), tmp_path / "b.csv.gz", written(tmp_path / "c.jsonl", lines)]
    for log in map(read_log, paths):
        clicks = [
            (log.users[u], log.items[i], log.event_types[e], int(t))
            for u, i, e, t in zip(log.user, log.item, log.event_type, log.time_ms, strict=True)
        ]
        assert clicks == [
            ("ann", "shoe", "view", 1_700_000_000_000),
            ("ann", "hat", "view", 1_700_000_002_000),
            ("bob", "hat", "cart", 1_700_000_005_000),
        ]
        assert log.notes == ["the rows were not in time order: sorted by user and time"]


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("1700000000", 1_700_000_000_000),
        ("1700000000123", 1_700_000_000_123),
        ("1700000000.5", 1_700_000_000_500),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-14T22:13:20.250", 1_700_000_000_250),
        ("2023-11-15T00:13:20+02:00", 1_700_000_000_000),
        ("2023-11-14 22:13:20", 1_700_000_000_000),
        ("2023-11-14 22:13:20 UTC", 1_700_000_000_000),
        ("2023/11/14 22:13:20", 1_700_000_000_000),
        ("1700000000000000", 1_700_000_000_000),
        ("1700000000123456789", 1_700_000_000_123),
    ],
)
def test_times_are_read(tmp_path: Path, text: str, ms: int) -> None:
    """Seconds, milliseconds and ISO strings with and without a zone are read correctly, in a log and in an option."""
    log = read_log(written(tmp_path / "a.csv", HEADER + f"u,i,view,{text}\n"))
    assert log.time_ms.tolist() == [ms]
    assert parse_time(text) == ms


def test_bad_rows_are_dropped_and_counted(tmp_path: Path) -> None:
    """Each reason for dropped rows is reported once, with their number."""
    rows = ["u,i,view,1700000000", ",i,view,1700000000", "u,,view,1700000000", "u,i,view,soon", "u,i,view,-5"]
    log = read_log(written(tmp_path / "a.csv", HEADER + "\n".join(rows) + "\n"))
    assert len(log) == 1
    assert log.notes == [
        "dropped 1 row: no user",
        "dropped 1 row: no item",
        "dropped 1 row: no time in a known format (2024-12-01T15:30:00Z, ms since 1970), such as 'soon'",
        "dropped 1 row: a time before 1970 or after 2100, such as '-5'",
    ]


def test_a_header_between_rows_is_no_click(tmp_path: Path) -> None:
    """Without times nothing else of the row is wrong; an item of the same name is an item."""
    rows = "user_id,item_id\nu,i\nu,item_id\n"
    log = read_log(written(tmp_path / "a.csv", rows + rows), in_order=True)
    assert (log.users, log.items, len(log)) == (["u"], ["i", "item_id"], 4)
    assert log.notes[0] == "dropped 1 row: the header again, as between files that were put together"


def test_repeats_are_dropped_only_when_asked(tmp_path: Path) -> None:
    """Two equal rows are two clicks, unless --drop-repeats is given."""
    path = written(tmp_path / "a.csv", HEADER + "u,i,view,1700000000\n" * 2)
    assert len(read_log(path)) == 2
    assert len(read_log(path, drop_repeats=True)) == 1


def test_columns_are_mapped_and_defaulted(tmp_path: Path) -> None:
    """Columns may have other names; without event types all clicks are views; without users the sessions are the
    users."""
    path = written(tmp_path / "a.csv", "visit,article,when\ns1,a,1700000000\ns2,b,1700000001\n")
    log = read_log(path, ColumnNames(item="article", time="when", session="visit"))
    assert log.users == ["s1", "s2"]
    assert log.event_types == ["view"]
    assert "no users in the log" in log.notes[0]


@pytest.mark.parametrize(("gap_ms", "parted"), [(1_799_999, False), (1_800_000, True), (1_800_001, True)])
def test_half_an_hour_separates_sessions_for_the_log_and_for_the_graphs(
    tmp_path: Path, gap_ms: int, parted: bool
) -> None:
    """Without session ids a gap of 30 minutes or more starts a session, as its gap bucket does."""
    start = 1_700_000_000_000
    path = written(tmp_path / "a.csv", HEADER + f"u,a,view,{start}\nu,b,view,{start + gap_ms}\n")
    log = read_log(path)
    assert log.next_in_session().tolist() == ([-1, -1] if parted else [1, -1])
    assert (log.gaps(GAP_EDGES_MS)[1] >= NEW_SESSION) == parted
    assert (gap_bucket(np.array([gap_ms]), np.array([False]), GAP_EDGES_MS)[0] >= NEW_SESSION) == parted


def test_interleaved_sessions_are_separate(tmp_path: Path) -> None:
    """With session ids the next click is the next of that session, and the id belongs to its user alone."""
    rows = "u,a,x,1700000000\nu,b,y,1700000001\nu,c,x,1700000002\nv,d,x,1700000003\n"
    log = read_log(written(tmp_path / "a.csv", "user_id,item_id,session_id,timestamp\n" + rows))
    assert log.next_in_session().tolist() == [2, -1, -1, -1]
    assert [log.sessions[s] for s in log.session] == ["x", "y", "x", "x"]
    assert log.notes == ["1 session id belongs to several users: each of these users has a separate session"]


@pytest.mark.parametrize(
    ("ids", "fragment"),
    [
        (["", "a", ""], "2 rows have no session: those of one user are one session"),
        ([float("nan"), 1.0, None], "2 rows have no session: those of one user are one session"),
        (["", None, ""], "the session column is empty: half an hour without a click ends a session"),
    ],
)
def test_clicks_without_a_session_are_reported(tmp_path: Path, ids: list[object], fragment: str) -> None:
    """An empty id, pandas' NaN and null are no session."""
    columns = {"user_id": ["u", "u", "v"], "item_id": ["i", "j", "k"], "timestamp": [1_700_000_000] * 3}
    pl.DataFrame({**columns, "session_id": ids}).write_parquet(tmp_path / "a.parquet")
    assert read_log(tmp_path / "a.parquet").notes == [fragment]


def test_bytes_of_parquet_are_text(tmp_path: Path) -> None:
    """Spark and Hive can write text without its type; bytes that are no text are no id, and the row is counted."""
    columns = {"user_id": [b"u", b"u"], "item_id": [b"\xff", b"17.0"], "timestamp": [b"7", b"1700000000"]}
    pl.DataFrame({**columns, "price": [b"", b"9.5"]}).write_parquet(tmp_path / "log.parquet")
    log = read_log(tmp_path / "log.parquet")
    [(click, _)] = log_clicks(log)
    assert click == Click("u", "17", 1_700_000_000_000, "view", price=9.5)
    assert log.notes == ["dropped 1 row: the item is neither text nor a whole number, such as \"b'\\\\xff'\""]


def test_files_of_a_log_with_different_columns_are_reported(tmp_path: Path) -> None:
    """A file without a column that others have is named, and its rows count as those without a session."""
    written(tmp_path / "1.csv", "user_id,item_id,timestamp,session_id,price\nu,i,1700000000,s,5\n")
    written(tmp_path / "2.csv", "user_id,item_id,timestamp,price\nu,i,1700000001,5\n")
    written(tmp_path / "3.csv", "user_id,item_id,timestamp\nu,i,1700000002\n")
    assert read_log(tmp_path).notes == [
        f"1 file has no column 'price', which others have, such as {tmp_path}/3.csv",
        f"2 files have no column 'session_id', which others have, such as {tmp_path}/2.csv",
        "2 rows have no session: those of one user are one session",
    ]


def test_gap_buckets_are_those_of_the_engine(tmp_path: Path) -> None:
    """0 for a user's first click, else one more than the number of edges up to the gap."""
    log = read_log(
        written(tmp_path / "a.csv", HEADER + "u,a,view,1700000000\nu,b,view,1700000010\nv,c,view,1700000011\n")
    )
    assert log.gaps((10_000, 60_000)).tolist() == [0, 2, 0]


@pytest.mark.parametrize(
    ("name", "content", "fragment"),
    [
        ("a.xlsx", b"", "must end in"),
        ("missing.csv", None, "no such file"),
        ("a.csv", b"", "the file is empty"),
        ("a.parquet", b"no parquet", "this is not a Parquet file"),
        ("a.csv", b"user_id,item_id\nu,i\n", "no column 'timestamp'.*--time-col.*--in-order"),
        ("a.csv", b"item_id,timestamp\ni,1700000000\n", "no column 'user_id'.*--user-col"),
        ("a.csv", HEADER.encode(), "a header and no rows"),
        ("a.csv", HEADER.encode() + b"u,i,view,never\n", "no clicks in 1 row; dropped 1 row: no time"),
    ],
)
def test_an_unusable_log_has_an_error_with_the_reason(
    tmp_path: Path, name: str, content: bytes | None, fragment: str
) -> None:
    """One line has the problem and the expected value."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=fragment) as raised:
        read_log(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_cut_outside_the_log_is_an_error_with_its_period(tmp_path: Path) -> None:
    """An empty slice is refused with the log's own period."""
    log = read_log(written(tmp_path / "a.csv", HEADER + "u,a,view,1700000000\n"))
    first, second = parse_time("2024-01-01"), parse_time("2024-02-01")
    for start, end, words in (
        (first, None, r"from 2024-01-01 00:00:00\+00:00 on; the log covers 2023-11-14 22:13:20"),
        (None, parse_time("2023-01-01"), r"before 2023-01-01 00:00:00\+00:00; the log"),
        (first, second, r"from 2024-01-01 00:00:00\+00:00 on and before 2024-02-01 00:00:00\+00:00; the log"),
    ):
        with pytest.raises(ConfigError, match="no click is " + words):
            log.between(start, end)
    assert np.array_equal(log.between(None, parse_time("2024-01-01")).time_ms, log.time_ms)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_ids_stay_as_they_are_written(tmp_path: Path, ending: str) -> None:
    """Leading zeros are kept, and a letter after many numbers is no surprise."""
    ids = ["00234853", *(str(i) for i in range(10_100)), "SKU-1"]
    frame = pl.DataFrame({"user_id": ids, "item_id": ids, "timestamp": range(1_700_000_000, 1_700_000_000 + len(ids))})
    path = tmp_path / f"a.{ending}"
    frame.write_csv(path) if ending == "csv" else frame.write_ndjson(path)
    log = read_log(path)
    assert sorted(log.items) == sorted(log.users) == sorted(ids)


def test_whole_floats_are_integers(tmp_path: Path) -> None:
    """Integer ids that pandas made floats, because one is missing, are read as the integers they were."""
    users, items = [7.0, float("nan"), None, 8.5, 1e300], [1, 2, 3, 4, 5]
    pl.DataFrame({"user_id": users, "item_id": items, "timestamp": [1_700_000_000.0] * 5}).write_parquet(
        tmp_path / "a.parquet"
    )
    log = read_log(tmp_path / "a.parquet")
    assert log.users == ["7"]
    assert log.notes == [
        "dropped 2 rows: no user",
        "dropped 1 row: the user is neither text nor a whole number, such as '8.5'",
        f"dropped 1 row: the user is {LOST_DIGITS}, such as '1e+300'",
    ]


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}])
@pytest.mark.parametrize("column", ["user_id", "item_id", "timestamp"])
def test_a_nested_column_is_refused_by_name(tmp_path: Path, column: str, value: object) -> None:
    """A list or a struct where one value belongs ends in one line that names the column."""
    row = {"user_id": "u", "item_id": "i", "timestamp": 1_700_000_000, column: value}
    pl.DataFrame([row]).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=f"column '{column}' has the type (List|Struct)") as raised:
        read_log(tmp_path / "a.parquet")
    assert "\n" not in str(raised.value)


def test_json_ids_may_be_numbers_first(tmp_path: Path) -> None:
    """A string after any number of numeric ids leaves the file readable."""
    rows = [f'{{"user_id": {i}, "item_id": "i", "timestamp": 1700000000}}\n' for i in range(10_100)]
    rows.append('{"user_id": "SKU-1", "item_id": "i", "timestamp": 1700000000}\n')
    assert {"7", "SKU-1"} < set(read_log(written(tmp_path / "a.jsonl", "".join(rows))).users)


def in_order(tmp_path: Path, text: str) -> Log:
    return read_log(written(tmp_path / "a.csv", text), in_order=True)


def test_rows_in_order_need_no_times(tmp_path: Path) -> None:
    """Sessions one after the other keep the order of their rows, at pauses of one bucket."""
    log = in_order(tmp_path, "session_id,item_id\n9,c\n9,a\n9,c\n4,b\n4,a\n")
    order = log.in_time_order()
    assert [log.items[i] for i in log.item[order]] == ["c", "a", "c", "b", "a"]
    assert np.unique(np.diff(log.time_ms[order])).tolist() == [30_000]
    assert sorted(log.gaps(GAP_EDGES_MS)) == [0, 0, 2, 2, 2]


def test_rows_in_order_ignore_a_time_column(tmp_path: Path) -> None:
    """--in-order wins over times, so a column of garbage in their place drops no row."""
    log = in_order(tmp_path, "session_id,item_id,timestamp\n1,a,\n1,b,soon\n1,c,5\n")
    assert [log.items[i] for i in log.item] == ["a", "b", "c"]


def test_the_next_session_in_order_begins_an_hour_later(tmp_path: Path) -> None:
    """Between two sessions of one user lies an hour, whether the rows between them are few or many."""
    log = in_order(tmp_path, "user_id,session_id,item_id\n" + "u,1,a\nu,1,b\nu,2,c\n" + "v,3,d\n" * 200 + "u,4,e\n")
    gaps = np.diff(log.time_ms[[log.users[u] == "u" for u in log.user]])
    assert gaps.tolist() == [30_000, HOUR, 201 * 30_000]


def test_scattered_users_in_order_pause_for_half_a_minute(tmp_path: Path) -> None:
    """Without sessions the clock goes by row, and its pace makes the usual pause of a user half a minute."""
    rows = "".join(f"u{i % 100},i{i % 7}\n" for i in range(1000))
    log = in_order(tmp_path, "user_id,item_id\n" + rows)
    assert (np.diff(log.time_ms[log.in_time_order()]) == 300).all()
    assert set(log.gaps(GAP_EDGES_MS)) == {0, 2}


def test_rows_in_order_cannot_be_repeats(tmp_path: Path) -> None:
    """Without times a second click on an item and a row written twice look the same."""
    path = written(tmp_path / "a.csv", "session_id,item_id\n1,a\n")
    with pytest.raises(ConfigError, match="--drop-repeats needs times"):
        read_log(path, drop_repeats=True, in_order=True)


@settings(deadline=None)  # it reads files: a busy machine takes its time
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_made_up_times_keep_sessions_together_and_apart(pairs: list[tuple[int, int]]) -> None:
    """Whatever the rows' order: a session keeps its own, pauses alike, and no two sessions of a user meet."""
    with TemporaryDirectory() as directory:
        rows = "".join(f"u{user},s{session},{row}\n" for row, (user, session) in enumerate(pairs))
        log = in_order(Path(directory), "user_id,session_id,item_id\n" + rows)
    assert ((log.time_ms > 0) & (log.time_ms < LATEST_MS)).all()
    order = log.in_time_order()
    assert (np.diff(log.time_ms[order]) > 0).all()
    closed_up = [row for pair in dict.fromkeys(pairs) for row, other in enumerate(pairs) if other == pair]
    assert [int(log.items[i]) for i in log.item[order]] == closed_up
    for session in range(len(log.sessions)):
        assert (np.diff(log.time_ms[log.session == session]) == 30_000).all()
    for user in range(len(log.users)):
        mine = log.user == user
        assert (np.diff(log.time_ms[mine]) >= HOUR).sum() == len(np.unique(log.session[mine])) - 1


def test_made_up_times_of_a_huge_log_end_before_2100() -> None:
    """Where the rows or the sessions are too many for the calendar, their pauses shrink."""
    twice = np.full(400_000, 2)
    begins, pause_ms = session_begins(np.zeros(400_000, np.int32), twice)
    assert begins.max() + pause_ms < LATEST_MS
    assert (np.diff(begins) > pause_ms).all()
    assert session_begins(np.arange(2, dtype=np.int32), np.array([1, 10**9]))[1] == 1261
