"""With a mapping, a row of a log and a message of the topic are one click: for every value, in every format."""

import csv
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fastavro
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.log.log import log_clicks, read_log
from export.log.notes import ReadStats
from export.log.reader import USUAL_NAMES, ColumnNames, batches
from export.log.times import LATEST_MS
from stream.errors import BadClick, ConfigError
from stream.events import Click
from stream.mapping.mapping import MappingFile
from stream.mapping.parse import parse_mapping
from stream.mapping.shape import message_shape
from stream.wire.fields import FIRST_CLICK_MS
from stream.wire.json import JsonCodec
from tests.unit.export.log.test_one_reader import ANY, FLOATS, INTEGERS, TEXT

NOW_MS = 1_700_000_000_000
FLAT = """
[fields]
user_id = ["user", "visitor"]
item_id = "sku"
timestamp = ["at", "seen"]
event_type = "what"
session_id = "visit"
price = "price"
category = "row"

[event_types]
buy = "purchase"
1 = "cart"

[events]
drop = ["ping"]
drop_without = ["item_id"]

[defaults]
event_type = "seen"
"""
NESTED = """
[fields]
user_id = ["who.user", "who.visitor"]
item_id = "what[0].sku"
timestamp = ["at", "seen"]
event_type = "data.what"
session_id = "who.visit"
price = "what[0].price"
category = "row"

[event_types]
buy = "purchase"
1 = "cart"

[events]
drop = ["ping"]
drop_without = ["item_id"]

[defaults]
event_type = "seen"
"""
COLUMNS = ("user", "visitor", "sku", "at", "seen", "what", "visit", "price")
Row = dict[str, Any]


def mapped(text: str) -> MappingFile:
    return MappingFile("shop.toml", text, parse_mapping(text, "shop.toml"))


def flat(column: str, value: Any, row: int) -> Row:
    whole = {"user": "u", "visitor": "v", "sku": "i", "at": NOW_MS, "seen": NOW_MS + 5, "what": "buy", "visit": "s"}
    return {**whole, "price": None, column: value, "row": f"row-{row}"}


def nested(column: str, value: Any, row: int) -> Row:
    found = flat(column, value, row)
    who = {name: found[name] for name in ("user", "visitor", "visit")}
    what = [{name: found[name] for name in ("sku", "price")}, {"sku": None, "price": None}]
    return {
        "who": who,
        "what": what,
        "at": found["at"],
        "seen": found["seen"],
        "data": {"what": found["what"]},
        "row": found["row"],
    }


def on_the_topic(row: Row, text: str, user: Any) -> Any:
    """The click's fields, or "no click"."""
    codec = JsonCodec(10**6, 0, message_shape(parse_mapping(text, "x").of_topic()))
    sent = json.dumps(row).encode()
    try:
        click = codec.decode(None, sent, LATEST_MS - 1)
    except BadClick as exc:
        return exc.reason if exc.reason == "bad_timestamp" else "no click"
    return (click.user_id, click.item_id, click.timestamp, click.event_type, click.session_id, click.price)


def in_the_log(path: Path, text: str, count: int) -> list[Any]:
    names = ("user", "item", "time_ms", "event_type", "session", "price")
    found: dict[str, Any] = {}
    for batch in batches(path, USUAL_NAMES, False, ReadStats(), mapped(text)):
        for row in batch.iter_rows(named=True):
            found[row["category"]] = tuple(row[name] for name in names)
    return [found.get(f"row-{row}", "no click") for row in range(count)]


def agree(
    column: str,
    values: list[Any],
    make: Callable[..., Row],
    text: str,
    name: str,
    write: Callable[[Path, list[Row]], None],
) -> None:
    rows = [make(column, value, number) for number, value in enumerate(values)]
    with TemporaryDirectory() as directory:
        path = Path(directory) / name
        write(path, rows)
        logged = in_the_log(path, text, len(rows))
    for value, row, got in zip(values, rows, logged, strict=True):
        live = on_the_topic(row, text, value if column == "user" else "u")
        if live == "bad_timestamp":
            assert got == "no click" or got[2] < FIRST_CLICK_MS, value
        else:
            assert got == live, value


def write_jsonl(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_csv(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: list[Row]) -> None:
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(path)


@pytest.mark.parametrize("column", COLUMNS)
@settings(deadline=None, max_examples=25)
@given(values=st.lists(ANY, min_size=1, max_size=20))
def test_a_nested_line_of_json_is_the_same_click_in_a_log(column: str, values: list[Any]) -> None:
    """Any JSON value at each of the paths, also lists, objects, NaN and halves of surrogate pairs."""
    agree(column, values, nested, NESTED, "log.jsonl", write_jsonl)


@pytest.mark.parametrize("column", COLUMNS)
@settings(deadline=None, max_examples=15)
@given(values=st.lists(TEXT.filter(lambda text: "\x00" not in text and "\r" not in text), min_size=1, max_size=20))
def test_a_csv_cell_is_the_same_as_text_on_the_topic(column: str, values: list[str]) -> None:
    """Every cell of a CSV is text, and an empty one is no value."""
    agree(column, values, flat, FLAT, "log.csv", write_csv)


@pytest.mark.parametrize("make", [flat, nested])
@pytest.mark.parametrize("column", COLUMNS)
@settings(deadline=None, max_examples=10)
@given(
    values=st.lists(st.none() | TEXT, min_size=1, max_size=20)
    | st.lists(st.none() | INTEGERS, min_size=1, max_size=20)
    | st.lists(st.none() | FLOATS, min_size=1, max_size=20)
    | st.lists(st.none() | st.booleans(), min_size=1, max_size=20)
)
def test_a_parquet_cell_is_the_same_as_its_value_on_the_topic(
    make: Callable[..., Row], column: str, values: list[Any]
) -> None:
    """In columns, and in columns of structs and lists."""
    agree(column, values, make, FLAT if make is flat else NESTED, "log.parquet", write_parquet)


ONE = ["null", "string", "long", "double", "boolean"]
"""The type of a value in Avro that may be of any of these."""


def record(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": key, "type": kind} for key, kind in fields.items()]}


AVRO = record(
    "Nested",
    who=record("Who", user=ONE, visitor=ONE, visit=ONE),
    what={"type": "array", "items": record("What", sku=ONE, price=ONE)},
    at=ONE,
    seen=ONE,
    data=record("Data", what=ONE),
    row=ONE,
)


def write_avro(path: Path, rows: list[Row]) -> None:
    with path.open("wb") as file:
        fastavro.writer(file, AVRO, rows, sync_interval=200)  # several blocks


@pytest.mark.parametrize("column", COLUMNS)
@settings(deadline=None, max_examples=10)
@given(values=st.lists(st.none() | TEXT | INTEGERS | FLOATS | st.booleans(), min_size=1, max_size=20))
def test_a_nested_value_of_avro_is_the_same_as_on_the_topic(column: str, values: list[Any]) -> None:
    """In a union each value has its own type."""
    agree(column, values, nested, NESTED, "log.avro", write_avro)


@pytest.mark.parametrize("codec", ["null", "deflate", "snappy", "bzip2", "xz"])
def test_logical_types_of_avro_are_read(tmp_path: Path, codec: str) -> None:
    """As in a message in Avro: times are numbers of their unit, decimals numbers, enums their symbols, bytes text."""
    when, decimal = datetime(2025, 3, 4, 9, 0, 0, 250_000, tzinfo=UTC), {"logicalType": "decimal", "precision": 9}
    schema = record(
        "Click",
        user="bytes",
        sku="string",
        at={"type": "long", "logicalType": "timestamp-micros"},
        what={"type": "enum", "name": "Kind", "symbols": ["view", "buy"]},
        price={"type": "bytes", "scale": 2, **decimal},
        row="string",
    )
    row = {"user": b"u", "sku": "i", "at": when, "what": "buy", "price": Decimal("9.50"), "row": "r"}
    with (tmp_path / "log.avro").open("wb") as file:
        fastavro.writer(file, schema, [row, {**row, "user": b"\xff", "row": "no text"}], codec=codec)
    [(click, _)] = log_clicks(read_log(tmp_path / "log.avro", mapping=mapped(FLAT)))
    assert click == Click("u", "i", 1_741_078_800_250, "purchase", price=9.5, category="r")


def test_dates_and_decimals_of_parquet_are_read(tmp_path: Path) -> None:
    """A column of dates is a time, and whole decimals are ids, of any size; bytes are text."""
    path = tmp_path / "log.parquet"
    when = datetime(2025, 3, 4, 9, 0, 0, 250_000, tzinfo=UTC)
    large = Decimal("1234567890123456789.00")
    frame = pl.DataFrame({"user": [b"u"], "sku": [large], "at": [when], "row": ["r"], "price": [Decimal("9.50")]})
    frame.write_parquet(path)
    [(click, _)] = log_clicks(read_log(path, mapping=mapped(FLAT)))
    assert click == Click("u", "1234567890123456789", 1_741_078_800_250, "seen", price=9.5, category="r")


def test_two_columns_with_a_name_of_the_mapping_are_refused(tmp_path: Path) -> None:
    """Which one is meant is not known; a column that the mapping does not name may be there twice."""
    (tmp_path / "log.csv").write_text("user,sku,sku,at,row,x,x\nu,i,j,1700000000,r,1,2\n")
    with pytest.raises(ConfigError, match="two columns have the name 'sku'; rename one"):
        read_log(tmp_path / "log.csv", mapping=mapped(FLAT))
    (tmp_path / "log.csv").write_text("user,sku,at,row,x,x\nu,i,1700000000,r,1,2\n")
    assert read_log(tmp_path / "log.csv", mapping=mapped(FLAT)).items == ["i"]


def test_what_the_mapping_leaves_out_is_counted(tmp_path: Path) -> None:
    """Each reason is a line with its number of rows; the clicks stay."""
    path = tmp_path / "log.jsonl"
    rows = [flat("what", theirs, n) for n, theirs in enumerate(["buy", "ping", "ping", 1])]
    write_jsonl(path, [*rows, flat("sku", "", 9)])
    log = read_log(path, mapping=mapped(FLAT))
    assert [click.event_type for click, _ in log_clicks(log)] == ["purchase", "cart"]
    assert [note for note in log.notes if note.startswith("dropped")] == [
        "dropped 2 rows: the mapping leaves out events of this type",
        "dropped 1 row: the mapping leaves out events without a value for item_id (sku)",
    ]


def test_a_path_without_a_value_in_any_row_is_reported(tmp_path: Path) -> None:
    """A mistyped path of the event type would make each event a view, in silence. One that has a value is not named."""
    path = tmp_path / "log.jsonl"
    write_jsonl(path, [flat("what", "buy", 1), flat("price", 9.5, 2)])
    notes = read_log(path, mapping=mapped(FLAT.replace('"what"', '"whta"'))).notes
    reported = [note for note in notes if note.startswith("no row has a value")]
    assert "no row has a value for event_type, which the mapping has at whta: is the path right?" in reported
    assert not [note for note in reported if "price" in note or "item_id" in note]


def test_the_section_log_is_for_logs_of_other_columns(tmp_path: Path) -> None:
    """A warehouse's export has its own columns and unit; types and defaults are those of the topic."""
    fields = 'user_id = "uid"\nitem_id = "pid"\ntimestamp = "ts"\nevent_type = "kind"'
    text = f'{NESTED}[log.fields]\n{fields}\n[log.time]\nunit = "s"\n'
    path = tmp_path / "export.csv"
    path.write_text("uid,pid,ts,kind\nu,i,1700000000,buy\nu,j,1700000005,ping\nu,k,1700000009,\n")
    clicks = [click for click, _ in log_clicks(read_log(path, mapping=mapped(text)))]
    assert clicks == [Click("u", "i", NOW_MS, "purchase"), Click("u", "k", NOW_MS + 9_000, "seen")]


def test_a_log_without_times_needs_no_time(tmp_path: Path) -> None:
    """--in-order with a mapping."""
    path = tmp_path / "log.csv"
    path.write_text("user,sku\nu,i\nu,j\n")
    assert len(read_log(path, in_order=True, mapping=mapped(FLAT))) == 2
    with pytest.raises(
        ConfigError, match=r"no column for timestamp, which mapping shop.toml has at at or seen; .* user, sku"
    ):
        read_log(path, mapping=mapped(FLAT))


def test_a_mapping_and_options_for_columns_are_refused_together(tmp_path: Path) -> None:
    """Two places that name the columns would contradict each other."""
    path = tmp_path / "log.csv"
    path.write_text("user,sku,at\nu,i,1700000000\n")
    with pytest.raises(ConfigError, match="omit one"):
        read_log(path, ColumnNames(item="sku"), mapping=mapped(FLAT))
