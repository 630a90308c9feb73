"""Catalogues as shops write them, and one-line errors for bad ones."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from stream.errors import ConfigError
from stream.lists.catalogue import item_ids, read_catalogue

INDEX = {"a": 0, "b": 1, "7": 2}


def written(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return path


def test_json_lines_and_csv_of_the_same_items_are_the_same_catalogue(tmp_path: Path) -> None:
    """Either format; ids may be numbers; a byte-order mark, blank lines and further columns do not matter."""
    lines = [{"item_id": 7, "category": "x, y", "in_stock": 3, "colour": "red"}, {"item_id": "zzz", "category": "x"}]
    one = read_catalogue(written(tmp_path / "a.jsonl", lines), INDEX, ["category"])
    table = tmp_path / "a.csv"
    table.write_text('\ufeffitem_id,colour,category,in_stock\n7,red,"x, y",3\n\nzzz,,x,\n', encoding="utf-8")
    two = read_catalogue(table, INDEX, ["category"])
    for read in (one, two):
        assert read.lines == 2
        assert read.listed.tolist() == [False, False, True]
        assert read.available is not None
        assert read.available.tolist() == [False, False, True]
        assert read.columns == {"category": [(), (), ("x, y",)]}


@pytest.mark.parametrize(
    ("line", "available"),
    [
        ({"in_stock": True}, True),
        ({"in_stock": "no"}, False),
        ({"in_stock": 0}, False),
        ({"in_stock": "12"}, True),
        ({"available": "FALSE"}, False),
        ({"in_stock": None, "available": 1}, True),
        ({"in_stock": ""}, True),
        ({}, True),
    ],
)
def test_a_listed_item_is_available_unless_it_is_out_of_stock(
    tmp_path: Path, line: dict[str, Any], available: bool
) -> None:
    """Stock is a flag, a word or a number; an item without it is available; an item that is not listed is not."""
    lines = [{"item_id": "a", **line}, {"item_id": "b", "in_stock": 1}]
    read = read_catalogue(written(tmp_path / "a.jsonl", lines), INDEX, [])
    assert read.available is not None
    assert read.available.tolist() == [available, True, False]


def test_lists_are_several_values_and_the_later_of_two_lines_counts(tmp_path: Path) -> None:
    """An item with two markets is in both; a later line of an item replaces an earlier one."""
    lines: list[dict[str, Any]] = [
        {"item_id": "a", "market": ["de", 4]},
        {"item_id": "b", "market": "de"},
        {"item_id": "b"},
    ]
    read = read_catalogue(written(tmp_path / "a.jsonl", lines), INDEX, ["market"])
    assert read.columns["market"] == [("de", "4"), (), ()]
    assert read.available is None


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_a_csv_has_the_separators_of_a_log(tmp_path: Path, separator: str) -> None:
    """A spreadsheet in a country with decimal commas writes semicolons."""
    path = tmp_path / "a.csv"
    path.write_text("item_id,category,market\na,boots,de\nb,socks,at\n".replace(",", separator))
    read = read_catalogue(path, INDEX, ["market"])
    assert read.columns["market"][:2] == [("de",), ("at",)]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '{"item_id": "a"}\n{"item_id": ', "line 2: not a JSON object"),
        ("a.jsonl", "[1]", "line 1: not a JSON object"),
        ("a.jsonl", '{"id": "a"}', "line 1: no item_id; the columns are: id"),
        ("a.jsonl", '{"item_id": null}', "line 1: item_id is missing or empty"),
        ("a.jsonl", '{"item_id": true}', "line 1: item_id True is neither text nor a whole number"),
        ("a.csv", "item_id;category\na;b;c\n", "line 2: not as many fields"),
        ("a.csv", "item_id:category\na:b\n", "line 2: no item_id; the columns are: item_id:category"),
        ("a.jsonl", '{"item_id": "a", "in_stock": "maybe"}', "in_stock is 'maybe'"),
        ("a.jsonl", '{"item_id": "a"}', "no line has category; it has item_id"),
        ("a.jsonl", "", "it has no lines"),
        ("a.csv", "item_id,category\na\n", "line 2: not as many fields"),
        ("a.csv", "item_id,category\na,b,c\n", "line 2: not as many fields"),
        ("a.csv", 'item_id,category\na,b\nb,"no end\nc,d\n', "line 3: not CSV .*; is a quote opened and not closed"),
        ("a.csv", f"item_id,category\na,b\nb,{'x' * 200_000}\n", "line 3: not CSV .field larger than field limit"),
        ("a.csv", "item_id,category,category\na,b,c\n", "two columns have the name 'category'; rename one"),
        ("a.csv", "item_id,in_stock,in_stock\na,1,0\n", "two columns have the name 'in_stock'; rename one"),
        ("a.parquet", "", "must end in .jsonl"),
    ],
)
def test_an_error_in_a_catalogue_names_its_line(tmp_path: Path, name: str, text: str, words: str) -> None:
    """The whole file is refused: half a catalogue would silently empty the lists."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_catalogue(tmp_path / name, INDEX, ["category"])


@pytest.mark.parametrize("item", [7, 7.0, "7", "7.0", "7.00", "7.000000e+00"])
def test_an_item_is_read_as_that_of_a_click(tmp_path: Path, item: int | float | str) -> None:
    """pandas writes 7.0 where an id of the column is missing; a click with 7.0 is one on the item 7."""
    table = tmp_path / "a.csv"
    table.write_text(f"item_id,category\n{item},x\n")
    for path in (table, written(tmp_path / "a.jsonl", [{"item_id": item, "category": "x"}])):
        assert read_catalogue(path, INDEX, []).listed.tolist() == [False, False, True]
        assert item_ids(path) == ["7"]


def test_a_category_is_read_as_that_of_a_click(tmp_path: Path) -> None:
    """--same-category compares the two. What no click can have stays as it is, and --only may name it."""
    given = [3.0, "3.0", 3, ["3.0", "shoes"], "a.b", 1.5, True]
    expected = [("3",), ("3",), ("3",), ("3", "shoes"), ("a.b",), ("1.5",), ("True",)]
    lines = [{"item_id": number, "category": one} for number, one in enumerate(given)]
    index = {str(number): number for number in range(len(given))}
    assert read_catalogue(written(tmp_path / "a.jsonl", lines), index, []).columns["category"] == expected


@pytest.mark.parametrize("item", ["1.23457E+12", "1234567890123456789.0", 1.5, 1e300])
def test_an_id_that_stands_for_several_items_is_refused(tmp_path: Path, item: float | str) -> None:
    """The digits that a spreadsheet or a float has lost are not made up."""
    with pytest.raises(ConfigError, match=f"line 1: item_id {re.escape(repr(item))} is "):
        read_catalogue(written(tmp_path / "a.jsonl", [{"item_id": item}]), INDEX, [])


def test_columns_that_are_not_read_may_have_the_same_name(tmp_path: Path) -> None:
    """A spreadsheet writes empty columns after the last one."""
    table = tmp_path / "a.csv"
    table.write_text("item_id,category,text,text,,\na,x,1,2,,\n")
    assert read_catalogue(table, INDEX, []).columns == {"category": [("x",), (), ()]}
    with pytest.raises(ConfigError, match="two columns have the name 'text'"):
        read_catalogue(table, INDEX, ["text"])


def test_a_missing_or_binary_catalogue_is_one_line(tmp_path: Path) -> None:
    """A wrong path or a binary file prints no stack trace."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_catalogue(tmp_path / "none.csv", INDEX, [])
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_catalogue(tmp_path / "a.jsonl", INDEX, [])


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    """Opening it would wait for a writer, and the worker's clicks with it."""
    path = tmp_path / "items.csv"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="not a regular file"):
        read_catalogue(path, INDEX, [])


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    """Two GB of zeros, which take no room on the disk."""
    path = tmp_path / "items.csv"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(ConfigError, match=r"has 2,147,483,648 bytes; it may have 1,073,741,824"):
        read_catalogue(path, INDEX, [])


def test_an_id_that_no_click_can_have_is_refused(tmp_path: Path) -> None:
    """A shifted column shows as an id of a thousand characters."""
    path = written(tmp_path / "a.jsonl", [{"item_id": "a"}, {"item_id": "x" * 257}])
    with pytest.raises(ConfigError, match=r"line 2: item_id 'x+ is longer than 256 characters"):
        read_catalogue(path, INDEX, [])
