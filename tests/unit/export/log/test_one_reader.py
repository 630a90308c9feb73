"""A click on the topic and the same click in a log are one click: for every value, in every field, in every format."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import fastavro
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from export.log.notes import ReadStats
from export.log.reader import USUAL_NAMES, batches
from export.log.times import LATEST_MS
from stream.errors import BadClick
from stream.wire.fields import FIRST_CLICK_MS
from stream.wire.json import JsonCodec

FIELDS = {
    "user_id": "user",
    "item_id": "item",
    "timestamp": "time_ms",
    "event_type": "event_type",
    "session_id": "session",
    "category": "category",
    "price": "price",
}
"""A field of a message, and what the log's reader calls it."""

ISO = r"[12][0-9]{3}-[01][0-9]-[0-3][0-9]([T ][0-2][0-9]:[0-5][0-9]:[0-5][0-9](\.[0-9]{1,7})?(Z| UTC|\+02:00)?)?"
TEXT = st.one_of(
    st.text(max_size=6),
    st.text("0123456789.eE+-", max_size=9),
    st.from_regex(r"-?[0-9]{1,20}\.0{1,2}", fullmatch=True),
    st.from_regex(ISO, fullmatch=True),
    st.sampled_from(["x" * 64, "x" * 65, "x" * 256, "x" * 257, "1.5e18", "1.2345678901234568e+18", "NaN", "null", " "]),
    st.integers(10**8, 10**19).map(str),
)
INTEGERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(10**8, 10**13),
    st.integers(1, 10**9),
    st.dates().map(lambda day: int(f"{day:%Y%m%d}")),
    st.datetimes().map(lambda moment: int(f"{moment:%Y%m%d%H%M}")),
    st.datetimes().map(lambda moment: int(f"{moment:%Y%m%d%H%M%S}")),
)
FLOATS = st.one_of(st.floats(), st.floats(10**8, 5 * 10**9), INTEGERS.map(float))
NESTED = st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2)
ANY = st.one_of(TEXT, INTEGERS, FLOATS, st.none(), st.booleans(), NESTED, st.just("\ud83d"), st.just(10**300))


def message(field: str, value: Any, row: int) -> dict[str, Any]:
    """A click with this value; its category, or its user, is the number of the row."""
    marked = "user_id" if field == "category" else "category"
    whole = {"user_id": "u", "item_id": "i", "timestamp": 1_700_000_000_000, marked: f"row-{row}"}
    return {**whole, field: value}


def on_the_topic(field: str, value: Any) -> Any:
    """The worker's click, or the reason of BadClick; its clock is at the latest time that a log may have."""
    sent = message(field, value, 0)
    try:
        click = JsonCodec(10**6, 0).decode(None, json.dumps(sent).encode(), LATEST_MS - 1)
    except BadClick as exc:
        return exc.reason
    return getattr(click, field)


def in_the_log(field: str, count: int, path: Path) -> list[Any]:
    """The clicks that the log's reader gives for the rows; a missing row is None."""
    marked = "user" if field == "category" else "category"
    found: dict[str, Any] = {}
    for batch in batches(path, USUAL_NAMES, False, ReadStats()):
        found.update(zip(batch[marked], batch[FIELDS[field]], strict=True))
    return [found.get(f"row-{row}") for row in range(count)]


def agree(field: str, values: Sequence[Any], name: str, write: Callable[[Path, list[dict[str, Any]]], None]) -> None:
    """Each value is read equally from the topic and from a log that `write` has written."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / name
        write(path, [message(field, value, row) for row, value in enumerate(values)])
        logged = in_the_log(field, len(values), path)
    for value, got in zip(values, logged, strict=True):
        live = on_the_topic(field, value)
        if field == "timestamp" and got is not None and got < FIRST_CLICK_MS:
            assert live == "bad_timestamp", value
        elif live in ("wrong_fields", "bad_timestamp", "future_timestamp"):
            assert got is None, (value, live)
        else:
            assert got == live, value


def write_jsonl(path: Path, messages: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(sent)}\n" for sent in messages))


def write_csv(path: Path, messages: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(messages[0]), quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        writer.writerows(messages)


def write_parquet(path: Path, messages: list[dict[str, Any]]) -> None:
    pl.DataFrame(messages, infer_schema_length=None).write_parquet(path)


@pytest.mark.parametrize("field", FIELDS)
@settings(deadline=None, max_examples=30)
@given(values=st.lists(ANY, min_size=1, max_size=30))
def test_a_line_of_json_is_the_same_click_in_a_log(field: str, values: list[Any]) -> None:
    """Any JSON value, also beside others of other types."""
    agree(field, values, "log.jsonl", write_jsonl)


@pytest.mark.parametrize("field", FIELDS)
@settings(deadline=None, max_examples=30)
@given(values=st.lists(TEXT.filter(lambda text: "\x00" not in text and "\r" not in text), min_size=1, max_size=30))
def test_a_csv_cell_is_the_same_as_text_on_the_topic(field: str, values: list[str]) -> None:
    """Every cell of a CSV is text."""
    agree(field, values, "log.csv", write_csv)


@pytest.mark.parametrize("field", FIELDS)
@settings(deadline=None, max_examples=30)
@given(
    values=st.lists(st.none() | TEXT, min_size=1, max_size=30)
    | st.lists(st.none() | INTEGERS, min_size=1, max_size=30)
    | st.lists(st.none() | FLOATS, min_size=1, max_size=30)
    | st.lists(st.none() | st.booleans(), min_size=1, max_size=30)
)
@example(values=[1_700_000_000.1236, 1.0, float("inf")])
def test_a_parquet_cell_is_the_same_as_its_value_on_the_topic(field: str, values: list[Any]) -> None:
    """A column of text, integers, floats or truth values, with missing ones among them."""
    agree(field, values, "log.parquet", write_parquet)


@pytest.mark.parametrize("field", ["user_id", "item_id", "session_id", "category", "event_type"])
@settings(deadline=None, max_examples=15)
@given(values=st.lists(st.integers(-(2**53) + 1, 2**53 - 1), min_size=1, max_size=30))
def test_integers_that_pandas_made_floats_are_the_integers(field: str, values: list[int]) -> None:
    """A CSV and JSON have 17.0, Parquet has a double, and the live event has 17."""
    for name, write in (("log.csv", write_csv), ("log.parquet", write_parquet), ("log.jsonl", write_jsonl)):
        with TemporaryDirectory() as directory:
            path = Path(directory) / name
            cell = (lambda value: f"{value}.0") if name == "log.csv" else float
            write(path, [message(field, cell(value), row) for row, value in enumerate(values)])
            assert in_the_log(field, len(values), path) == [on_the_topic(field, value) for value in values]


@pytest.mark.parametrize("field", FIELDS)
@settings(deadline=None, max_examples=10)
@given(values=st.lists(st.none() | TEXT | INTEGERS | FLOATS | st.booleans(), min_size=1, max_size=20))
def test_a_value_of_avro_is_the_same_click_in_a_log(field: str, values: list[Any]) -> None:
    """A column may have values of several types."""
    one = ["null", "string", "long", "double", "boolean"]

    def write(path: Path, messages: list[dict[str, Any]]) -> None:
        fields = [{"name": name, "type": one} for name in messages[0]]
        with path.open("wb") as file:
            fastavro.writer(file, {"type": "record", "name": "Click", "fields": fields}, messages)

    agree(field, values, "log.avro", write)
