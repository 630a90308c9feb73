"""Faulty logs in `eddy train`: one clear line, or a valid model."""

import bz2
import gzip
import lzma
import math
import os
import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fastavro
import numpy as np
import polars as pl
import pytest
from aiokafka import codec
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from export.cli import train
from export.files import json_lines
from export.log.log import Log, read_log
from stream.errors import ConfigError
from stream.manifest import read_manifest

pytestmark = pytest.mark.usefixtures("hurried")

HEADER = "user_id,item_id,event_type,timestamp\n"
START = 1_700_000_000
NOISE = (HEADER + "".join(f"u{random.Random(n).random()},i,view,{START}\n" for n in range(3_000))).encode()


def same(i: int) -> int:
    return i


def clicks(
    count: int = 300,
    user: Callable[[int], int] = lambda i: i // 6,
    item: Callable[[int], int] = lambda i: i % 40,
    time: Callable[[int], int] = lambda i: START + 20 * i,
) -> str:
    return HEADER + "".join(f"u{user(i)},i{item(i)},view,{time(i)}\n" for i in range(count))


def parquet(**columns: object) -> Callable[[Path], object]:
    return lambda path: pl.DataFrame(columns).write_parquet(path)


def truncated(path: Path) -> None:
    pl.DataFrame({"user_id": range(1000)}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-500])


def corrupt(path: Path) -> None:
    pl.DataFrame({"user_id": range(1000), "item_id": range(1000), "timestamp": range(1000)}).write_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:50] + bytes(100) + whole[150:])


def avro(schema: Any, rows: list[Any], damage: Callable[[bytes], bytes] = bytes) -> Callable[[Path], None]:
    """Write a file in Avro, and damage its bytes."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            fastavro.writer(file, schema, rows, sync_interval=1000)
        path.write_bytes(damage(path.read_bytes()))

    return write


CLICK: dict[str, Any] = {
    "name": "Click",
    "type": "record",
    "fields": [{"name": name, "type": "string"} for name in ("user_id", "item_id", "timestamp")],
}
LOOP = {**CLICK, "fields": [{"name": "next", "type": ["null", "Click"]}]}
ROWS = [{"user_id": f"user {n}", "item_id": "i", "timestamp": "7"} for n in range(1000)]


def empty_directory(path: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("no log")


def dangling(path: Path) -> None:
    path.symlink_to("moved/away.csv")


def in_a_directory(second: Callable[[Path], object]) -> Callable[[Path], None]:
    """A directory with a log and with the second file."""

    def write(path: Path) -> None:
        path.mkdir()
        (path / "1.csv").write_text(clicks())
        second(path / "2.csv")

    return write


def half_a_gzip(path: Path) -> None:
    whole = gzip.compress((HEADER + "".join(f"u{random.random()},i,view,{START}\n" for _ in range(20_000))).encode())
    path.write_bytes(whole[: len(whole) // 2])


TOO_BAD = [
    ("empty.csv", "", "the file is empty"),
    ("empty.csv.gz", "", "the file is empty"),
    ("empty.parquet", "", "the file is empty"),
    ("empty.jsonl", "", "the file is empty"),
    ("blank.csv", "\n\n", "no column 'user_id'|the file is empty"),
    ("header.csv", HEADER, "header.csv: the log has a header and no rows$"),
    ("headerless.csv", clicks().removeprefix(HEADER), "no column 'user_id'; its columns are u0, i0, view, 1700000000"),
    ("no_users.csv", "item_id,timestamp\ni,1\n", "no column 'user_id'; .* --user-col"),
    ("no_items.csv", "user_id,timestamp\nu,1\n", "no column 'item_id'; .* --item-col"),
    ("no_times.csv", "user_id,item_id\nu,i\n", "no column 'timestamp'; .* --time-col, or give --in-order"),
    (
        "german_dates.csv",
        HEADER + "u,i,view,14.11.2023\n",
        "dropped 1 row: no time in a known format \\(2024-12-01T15:30:00Z, ms since 1970\\), such as '14",
    ),
    (
        "rounded_times.csv",
        HEADER + "u,i,view,1.73301E+12\n",
        "dropped 1 row: the time is rounded in scientific notation",
    ),
    (
        "far_times.csv",
        HEADER + "u,i,view,9.0000000e18\nu,i,view,-1\n",
        "dropped 2 rows: a time before 1970 or after 2100, such as '9.0000000e18'",
    ),
    ("nulls.csv", HEADER + ",,,\n,,,\n", "no clicks in 2 rows; dropped 2 rows: no user"),
    ("long_ids.csv", HEADER + f"u,{'i' * 300},view,{START}\n", "the item is longer than 256 characters"),
    ("one_item.csv", clicks(item=lambda i: 0), "a single item"),
    ("single_clicks.csv", clicks(user=same), "no user of the log has two clicks"),
    ("one_time.csv", clicks(time=lambda i: START), "all clicks of the log have the same time.* --in-order"),
    ("short.csv", clicks(50), "50 clicks; at least 200"),
    ("twice.csv", "user_id,item_id,item_id,timestamp\nu,i,j,1\n", "two columns have the name 'item_id'"),
    ("empty.jsonl.gz", gzip.compress(b""), "the file is empty"),
    (
        "ragged.csv",
        HEADER + 'u,"a\ni",view,1\nu,i,view,1,extra\n',
        "line 4 has 5 fields, but the header has 4: is a sep",
    ),
    ("ragged.csv.gz", gzip.compress(b"user_id;item_id;timestamp\nu;i;1\nu;i;1;x\n"), "line 3 has 4 fields"),
    (
        "ragged.csv.zst",
        codec.zstd_encode(clicks().encode() + b"u,i,view,1,x\n"),
        ": a line has more fields than the head",
    ),
    (
        "open_quote.csv.zst",
        codec.zstd_encode(clicks().encode() + b'u,"i,view,1\n'),
        ": a quote is opened and not closed",
    ),
    ("open_quote.csv", HEADER + '"u,i,view,1\nv,i,view,1\n', "line 2: a quote is opened and not closed"),
    ("late_quote.csv", HEADER + "u,i,view,1\n" * 3 + 'u,"i,view,1\n' + "u,i,view,1\n" * 3, "line 5: a quote is opened"),
    ("text_after_quote.csv", HEADER + 'u,"a\ni",view,1\nu,"i"x,view,1\n', "line 4: text follows a closing quote"),
    ("open_quote.csv.gz", gzip.compress((HEADER + 'u,"i,view,1\n').encode()), "line 2: a quote is opened"),
    (
        "inches.csv",
        HEADER + 'u,"a\n ""b""",view,1\nu,5" pipe,view,1\n' + "u,i,view,1\n" * 9,
        "line 4: a quote inside a field; put the field in quotes",
    ),
    ("macintosh.csv", HEADER.replace("\n", "\r") + "u,i,view,1\r" * 9, "end with a carriage return alone"),
    ("wide.csv", ",".join(f"c{i}" for i in range(500)) + "\n", "c19, 480 more. Give a column"),
    (
        "array.csv",
        '[{"user_id": 1}, ' + '{"user_id": 1}, ' * 70_000,
        "no line ends in its first 1,048,576 bytes; a CSV has",
    ),
    ("array.csv.gz", gzip.compress(b'{"user_id": 1}, ' * 70_000), "no line ends in its first 1,048,576 bytes"),
    ("utf16.csv", clicks().encode("utf-16"), "UTF-16"),
    ("sheet.csv", b"PK\x03\x04" + bytes(50), "a zip file or a spreadsheet"),
    ("noise.csv", bytes(range(256)) * 9, "not a text file; a .csv file must be text"),
    ("packed_noise.csv.gz", gzip.compress(random.Random(0).randbytes(9_000)), "not a text file"),
    ("picture.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\2\0" + random.Random(0).randbytes(900), "not a text file"),
    ("packed.csv", bz2.compress(clicks().encode()), "packed by bzip2; unpack it, or pack it with gzip"),
    ("packed.csv.gz", lzma.compress(clicks().encode()), "packed by xz; unpack it, or"),
    ("packed.jsonl.zst", codec.zstd_encode(b"{}"), "packed by Zstandard; unpack it, or"),
    ("half.csv.zst", codec.zstd_encode(clicks().encode())[:-9], "its end is missing"),
    ("packed.parquet.gz", gzip.compress(b"PAR1"), "packed by gzip; unpack it$"),
    ("noise.csv.gz", b"\x1f\x8b" + bytes(range(256)), "its packed bytes are damaged"),
    ("noise.parquet", bytes(range(256)), "this is not a Parquet file; give the name the ending"),
    ("text.parquet", HEADER, "this is not a Parquet file; give the name the ending"),
    ("noise.jsonl", bytes(range(256)), "not a text file; a .jsonl file must be text"),
    ("half.csv.gz", half_a_gzip, "its end is missing"),
    ("text.jsonl", "not json\n", "line 1 is not a JSON object: not json. Correct"),
    ("arrays.jsonl", "[1, 2]\n", r"line 1 is not a JSON object: \[1, 2\]"),
    (
        "one_array.jsonl",
        '[\n{"user_id": 1},\n',
        r"line 1 is not a JSON object: \[. The file must have one object a line",
    ),
    ("commas.jsonl", '{"user_id": 1},\n', "must have one object a line, without commas between them: `jq -c "),
    ("pretty.jsonl", '{\n  "user_id": 1\n}\n', "line 1 is not a JSON object: {. The file must have one object a line"),
    ("cut.jsonl", '{"user_id": 1}\n\n{"user_id": 2, "it', 'line 3 is not a JSON object: {"user_id": 2, "it'),
    ("cut.jsonl.gz", gzip.compress(b'{"user_id": 1}\n{"user_'), "line 2 is not a JSON object"),
    ("scalars.jsonl", '{"user_id": 1}\n7\n', "line 2 is not a JSON object: 7|no column"),
    ("truncated.parquet", truncated, "its end is missing .*: write it or copy it again"),
    ("short.csv.gz", gzip.compress(NOISE)[:-9_000], "its end is missing"),
    ("short.jsonl.gz", gzip.compress(b'{"user_id": 1}\n' * 9)[:-9], "its end is missing"),
    ("short.csv.zst", codec.zstd_encode(NOISE)[:-9_000], "its end is missing"),
    ("more.csv.gz", gzip.compress(NOISE) + b"more and more", "or others follow them .*; pack it again"),
    ("more.jsonl.gz", gzip.compress(b'{"user_id": 1}\n' * 9) + b"more and more", "or others follow them"),
    ("more.csv.zst", codec.zstd_encode(NOISE) + b"more and more", "or others follow them"),
    ("corrupt.parquet", corrupt, "not readable"),
    ("renamed.csv", parquet(user_id=[1]), "this is a Parquet file"),
    ("renamed.jsonl", avro(CLICK, ROWS), "this is an Avro file; name it .avro"),
    ("empty.avro", "", "the file is empty"),
    ("noise.avro", bytes(range(256)), "this is not an Avro file; give the name the ending"),
    ("text.avro", HEADER, "this is not an Avro file; give the name the ending"),
    ("half_a_header.avro", avro(CLICK, ROWS, lambda whole: whole[:40]), "not readable after 0 records"),
    ("cut.avro", avro(CLICK, ROWS, lambda whole: whole[:-3]), r"not readable after 9\d\d records \(exp"),
    (
        "no_items.avro",
        avro({**CLICK, "fields": CLICK["fields"][:1]}, ROWS),
        "no column 'item_id'; its columns are user",
    ),
    ("loop.avro", avro(LOOP, [{"next": None}]), "the type Click contains itself"),
    ("texts.avro", avro("string", ["a"]), "its schema is not that of a record with fields"),
    ("nothing.avro", avro({**CLICK, "fields": []}, [{}]), "its schema is not that of a record with fields"),
    ("empty_frame.parquet", parquet(user_id=[], item_id=[], timestamp=[]), "the log has a header and no rows"),
    ("nested.parquet", parquet(user_id=[[1]], item_id=[1], timestamp=[1]), "column 'user_id' has the type List"),
    ("pause.parquet", parquet(user_id=[1], item_id=[1], timestamp=[timedelta(seconds=5)]), "has the type Duration"),
    (
        "all_null.parquet",
        parquet(user_id=[None] * 3, item_id=[1, 2, 3], timestamp=[1, 2, 3]),
        "dropped 3 rows: no user",
    ),
    ("log.xlsx", "", "the name must end in"),
    ("log.json", "", "one JSON object a line, rename it to .jsonl; `jq -c '.\\[\\]'` writes such lines"),
    ("a_directory", empty_directory, r"no files that end in .*such as '.*a_directory/\*\*/\*.parquet', finds those"),
    ("nothing-*.csv", None, "no file matches this pattern"),
    ("missing.csv", None, "no such file"),
    ("link.csv", dangling, "link.csv: no such file, its link leads nowhere"),
    ("loop.csv", lambda path: path.symlink_to(path.name), "loop.csv: no such file, its link leads nowhere"),
    ("pipe.csv", os.mkfifo, "pipe.csv: not a regular file; write its rows to a file first"),
    ("with_a_link", in_a_directory(dangling), "with_a_link/2.csv: no such file, its link leads nowhere"),
    ("with_a_pipe", in_a_directory(os.mkfifo), "with_a_pipe/2.csv: not a regular file"),
    (f"{'long' * 64}.csv", None, "not readable .*File name too long"),
]


def put(path: Path, content: object) -> None:
    if callable(content):
        content(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content)


def trained(log: Path, *options: str) -> Result:
    arguments = [str(log), "--out", str(log.parent / "model" / "1"), "--epochs", "1", "--hidden", "16", *options]
    return CliRunner().invoke(train, arguments)


@pytest.mark.parametrize(("name", "content", "fragment"), TOO_BAD, ids=[name for name, *_ in TOO_BAD])
def test_a_log_that_teaches_nothing_is_refused_in_one_line(
    tmp_path: Path, name: str, content: object, fragment: str
) -> None:
    """The line has the log, the problem and the remedy; no model is written."""
    put(tmp_path / name, content)
    with pytest.raises(ConfigError, match=fragment) as raised:
        raise trained(tmp_path / name).exception or AssertionError("a model was written")
    line = str(raised.value)
    assert line.isprintable()
    assert len(line) < 1000
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", ["array.jsonl", "array.jsonl.gz"])
def test_a_file_of_one_endless_line_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An array of all events in one line may not fit into memory; rows up to the limit are read."""
    event = '{"user_id": "u", "item_id": "i", "timestamp": 1700000000}'
    monkeypatch.setattr(json_lines, "LONGEST_LINE", len(event) + 2)
    put(tmp_path / "rows.jsonl", f"{event}\n{event}\n")
    assert len(read_log(tmp_path / "rows.jsonl")) == 2
    text = f"{event}\n[{event}, {event}]\n".encode()
    put(tmp_path / name, gzip.compress(text) if name.endswith(".gz") else text)
    with pytest.raises(ConfigError, match=r"line 2 has 59 characters or more\. The file must have one object a line"):
        read_log(tmp_path / name)


def rewritten(text: str) -> list[tuple[str, object, str]]:
    """The same log as other programs write it, and the loader's notes."""
    rows = text.removeprefix(HEADER).splitlines()
    units = (1, 10**3, 10**6, 10**9)
    mixed = [f"{row[: row.rindex(',')]},{(START + 20 * i) * units[i % 4]}" for i, row in enumerate(rows)]
    shuffled = random.Random(0).sample(rows, len(rows))
    lines = [dict(zip(HEADER.strip().split(","), row.split(","), strict=True)) for row in rows]

    def two_files(path: Path) -> None:
        path.mkdir()
        (path / "1.csv").write_text(HEADER + "\n".join(rows[:100]) + "\n")
        (path / "2.parquet").write_bytes(b"")
        pl.DataFrame(lines[100:]).with_columns(pl.col("timestamp").cast(pl.Int64)).write_parquet(path / "2.parquet")
        for name in ("_SUCCESS", "._1.csv", ".1.csv.crc"):  # of Spark and of macOS
            (path / name).write_bytes(b"" if name == "_SUCCESS" else bytes(9))

    def with_others(path: Path) -> None:
        two_files(path)
        (path / "3.csv.bz2").write_bytes(bz2.compress(text.encode()))
        (path / "date=2024-12-01").mkdir()
        (path / "readme").symlink_to("moved/away")

    return [
        ("bom.csv", b"\xef\xbb\xbf" + text.encode(), ""),
        ("crlf.csv", text.replace("\n", "\r\n").encode(), ""),
        ("no_last_newline.csv", text.rstrip("\n"), ""),
        ("semicolons.csv", text.replace(",", ";"), ""),
        ("tabs.tsv", text.replace(",", "\t"), ""),
        ("quoted.csv", "\n".join('"' + row.replace(",", '","') + '"' for row in text.splitlines()), ""),
        ("plain.csv.gz", text, ""),  # a name that promises gzip
        ("packed.csv.gz", gzip.compress(text.encode()), ""),
        ("packed.csv.zst", codec.zstd_encode(text.encode()), ""),
        ("packed.csv", codec.zstd_encode(text.encode()), ""),
        ("blanks.csv", text.replace("\n", "\n\n"), ""),
        ("mixed_units.csv", HEADER + "\n".join(mixed), "units of the times, by their size: 75 in"),
        ("shuffled.csv", HEADER + "\n".join(shuffled), "the rows were not in time order: sorted by user and time"),
        ("holes.csv", text + f",i,view,{START}\nu,,view,{START}\nu,i,view,\n", "dropped 1 row: no time"),
        ("more_columns.csv", "\n".join(row + ",x,y" for row in text.splitlines()), ""),
        ("a_directory", two_files, ""),
        ("mixed", with_others, "not read: 3 other files and directories (3.csv.bz2, date=2024-12-01/, readme)"),
    ]


def test_bytes_that_are_not_utf8_are_reported(tmp_path: Path) -> None:
    """A Latin-1 log is read, its broken ids counted."""
    put(tmp_path / "latin1.csv", clicks().replace("i3,", "caf\xe9,").encode("latin-1"))
    log = read_log(tmp_path / "latin1.csv")
    assert "caf\ufffd" in log.items
    assert log.notes == ["1 id has bytes that are not UTF-8, read as \ufffd: save the log as UTF-8"]


def as_text(log: Log) -> set[tuple[str, str, str, int]]:
    columns = zip(log.user, log.item, log.event_type, log.time_ms, strict=True)
    return {(log.users[u], log.items[i], log.event_types[e], int(t)) for u, i, e, t in columns}


@pytest.mark.parametrize(("name", "content", "fragment"), rewritten(clicks()), ids=[n for n, *_ in rewritten(clicks())])
def test_the_same_clicks_in_a_different_form_are_the_same_log(
    tmp_path: Path, name: str, content: object, fragment: str
) -> None:
    """For every form of the rows, the log equals that of the clean file, and the deviations are reported."""
    put(tmp_path / "clean.csv", clicks())
    put(tmp_path / name, content)
    log = read_log(tmp_path / name)
    assert as_text(log) == as_text(read_log(tmp_path / "clean.csv"))
    assert len(log) == 300
    assert fragment in "; ".join(log.notes)


SOUND = [
    ("one_user.csv", clicks(user=lambda i: 0), ""),
    ("half_once.csv", clicks(item=lambda i: 20 + i // 15 if i % 15 == 0 else i % 20), ""),
    ("repeats.csv", clicks() + clicks().removeprefix(HEADER) * 3, "900 rows repeat an earlier row (75.0%)"),
]


@pytest.mark.parametrize(("name", "content", "fragment"), SOUND, ids=[name for name, *_ in SOUND])
def test_a_faulty_log_gives_a_valid_model(tmp_path: Path, name: str, content: object, fragment: str) -> None:
    """Usable rows are learned: the model is complete, its figures are finite, and the deviations are reported."""
    put(tmp_path / name, content)
    result = trained(tmp_path / name)
    assert result.exit_code == 0, result.exception
    assert fragment in result.output
    manifest = read_manifest(tmp_path / "model" / "1")
    assert manifest.items >= 2
    assert all(math.isfinite(figure) for figure in manifest.quality.values())


GARBAGE = st.one_of(
    st.text(max_size=400),
    st.lists(
        st.lists(
            st.sampled_from(["u", "i", "", "1700000000", "1e400", "-1", "\ufffd", '"', "2023-11-14", ";", "\x00"])
        ),
        max_size=8,
    ).map(lambda rows: HEADER + "\n".join(",".join(row) for row in rows)),
)


@settings(max_examples=150, deadline=None)
@given(GARBAGE, st.sampled_from([".csv", ".csv.gz", ".jsonl", ".parquet"]), st.booleans())
def test_any_bytes_are_a_log_or_a_config_error(text: str, ending: str, in_order: bool) -> None:
    """Any bytes give a ConfigError or a log in time order with values in range."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / f"log{ending}"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        log, refusal = None, ""
        try:
            log = read_log(path, in_order=in_order)
        except ConfigError as exc:
            refusal = str(exc)
    assert "\n" not in refusal
    if log is None:
        return
    assert len(log) > 0
    assert (np.diff(log.user) >= 0).all()
    assert ((log.time_ms > 0) & (log.time_ms < 4_102_444_800_000)).all()
    for column, names in ((log.user, log.users), (log.item, log.items), (log.event_type, log.event_types)):
        assert ((column >= 0) & (column < len(names))).all()
