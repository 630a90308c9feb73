"""Catalogues with any content against a plain reader, and files that cannot be intended."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.errors import ConfigError
from stream.lists.catalogue import item_ids, read_catalogue

INDEX = {f"i{n}": n for n in range(5)}
WORDS = st.sampled_from(["shoes", "boots", "x, y", 'say "hi"', "\u00fc", " ", "0"])
LINES = st.lists(
    st.fixed_dictionaries(
        {"item_id": st.sampled_from([*INDEX, "not in the model"])},
        optional={
            "category": WORDS | st.lists(WORDS, max_size=3) | st.none() | st.just(""),
            "in_stock": st.sampled_from([True, False, 0, 3, "yes", "No", " 2 ", "", None]),
            "market": WORDS,
        },
    ),
    min_size=1,
    max_size=8,
)
DENIED = (False, 0, "No")


def slow_values(value: Any) -> tuple[str, ...]:
    return tuple(str(one) for one in (value if isinstance(value, list) else [value]) if one not in (None, ""))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(lines=LINES)
def test_columns_are_those_of_each_items_last_line(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    """Every column is in the order of the model's items, and a later line replaces the whole earlier one."""
    path = tmp_path / "items.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    last = {line["item_id"]: line for line in lines}
    found = read_catalogue(path, INDEX, [])
    assert found.lines == len(lines)
    assert found.listed.tolist() == [item in last for item in INDEX]
    assert found.columns == {"category": [slow_values(last.get(item, {}).get("category")) for item in INDEX]}
    if any("in_stock" in line for line in lines):
        assert found.available is not None
        assert found.available.tolist() == [item in last and last[item].get("in_stock") not in DENIED for item in INDEX]
    else:
        assert found.available is None
    assert item_ids(path) == [line["item_id"] for line in lines]


ROWS = st.lists(st.tuples(st.sampled_from([*INDEX, "other"]), WORDS, st.sampled_from(["1", "0", ""])), min_size=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(rows=ROWS)
def test_csv_and_json_lines_of_the_same_rows_are_one_catalogue(tmp_path: Path, rows: list[tuple[str, ...]]) -> None:
    """Quotes, commas and letters of any script are read equally from both formats."""
    names = ("item_id", "category", "available")
    table, lines = tmp_path / "items.csv", tmp_path / "items.ndjson"
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    lines.write_text("\n".join(json.dumps(dict(zip(names, row, strict=True))) for row in rows))
    one, two = (read_catalogue(path, INDEX, ["category"]) for path in (table, lines))
    assert one.columns == two.columns
    assert one.available is not None
    assert two.available is not None
    assert (one.lines, one.listed.tolist(), one.available.tolist()) == (
        two.lines,
        two.listed.tolist(),
        two.available.tolist(),
    )
    assert item_ids(table) == item_ids(lines) == [row[0] for row in rows]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", "[" * 100_000),
        ("a.jsonl", '{"item_id": "i1", "category": ' + "[" * 100_000),
        ("a.csv", 'item_id,category\ni1,"' + "x" * 200_000 + '"\n'),
        ("a.csv", 'item_id,category\ni1,"no end'),
        ("a.jsonl", '{"item_id": "i1", "category": "\\ud800"}'),
        ("a.jsonl", '{"item_id": 1.5}'),
        ("a.jsonl", '{"item_id": true}'),
        ("a.jsonl", '{"item_id": ["i1"]}'),
        ("a.jsonl", '{"item_id": ""}'),
        ("a.csv", "item_id,category\n,shoes\n"),
    ],
)
def test_a_malformed_file_is_one_line(tmp_path: Path, name: str, text: str) -> None:
    """Endless nesting, fields of megabytes and ids of another type are refused, and the line names the file."""
    path = tmp_path / name
    path.write_text(text)
    for read in (lambda: read_catalogue(path, INDEX, []), lambda: item_ids(path)):
        with pytest.raises(ConfigError) as raised:
            read()
        assert "\n" not in str(raised.value)
        assert str(raised.value).startswith(f"catalogue {path}")
        assert len(str(raised.value)) < 600 + len(str(path))


def test_a_line_of_a_megabyte_is_an_item_like_any_other(tmp_path: Path) -> None:
    """JSON lines have no maximum length: an item with a long description is read."""
    path = tmp_path / "items.jsonl"
    path.write_text(json.dumps({"item_id": "i3", "text": "x" * 1_000_000, "category": "shoes"}))
    found = read_catalogue(path, INDEX, ["category"])
    assert found.columns["category"] == [(), (), (), ("shoes",), ()]


def test_an_error_names_few_of_many_columns(tmp_path: Path) -> None:
    """A file of a thousand columns without item_id still gives a message that fits a screen."""
    path = tmp_path / "items.csv"
    path.write_text(",".join(f"column{n}" for n in range(1_000)) + "\n" + ",".join("1" * 1_000) + "\n")
    with pytest.raises(ConfigError, match=r"line 2: no item_id; the columns are: column0, column1") as raised:
        read_catalogue(path, INDEX, [])
    assert len(str(raised.value)) < 400 + len(str(path))


def test_a_directory_is_no_catalogue(tmp_path: Path) -> None:
    """For a directory the error is one line, not a stack trace."""
    path = tmp_path / "items.csv"
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_catalogue(path, INDEX, [])
