"""Reads a catalogue file into columns in the order of the model's items.

The file is JSON lines (.jsonl, .ndjson) or CSV with a header (.csv), with one item per line: `item_id` and attributes.
Columns that no rule needs and items that the model does not know are ignored. If two lines have the same item, the
later line counts. Items are read as those of clicks (wire/fields.py): 17.0 is the item 17. One bad line makes the whole
file an error, because half a catalogue would silently shorten the lists.
"""

import csv
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from stat import S_ISREG
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from stream.errors import ConfigError
from stream.wire.fields import LONGEST_ID, Unusable, word

ITEM = "item_id"

STOCK = ("in_stock", "available")
"""The columns for availability: true or false, yes or no, or the number in stock."""

CATEGORY = "category"

_YES, _NO = {"true", "yes", "y", "t", "in stock"}, {"false", "no", "n", "f", "out of stock"}

SEPARATORS = ",;\t|"
"""Of a CSV file: the one that its header has most often, as of a click log."""

MOST_BYTES = 1 << 30
"""Of a catalogue file: it is read between two cycles, and all clicks wait meanwhile."""

SHOWN = 200
"""An error message shows at most this many characters of the column names."""

Values = tuple[str, ...]


@dataclass(frozen=True)
class Catalogue:
    """The attributes of the model's V items, from the catalogue file.

    lines      number of items in the file, including those that the model does not know
    listed     (V,) bool: the file has the item
    available  (V,) bool: the item is listed, and no column of STOCK denies it. None if no line has such a column
    columns    name -> V tuples with the values of each item: () if it has none, several if the file has a list. The
               requested columns, and always "category"
    """

    lines: int
    listed: npt.NDArray[np.bool_]
    available: npt.NDArray[np.bool_] | None
    columns: dict[str, list[Values]]


def read_catalogue(path: Path, index: Mapping[str, int], columns: Collection[str]) -> Catalogue:
    """Read the requested columns, in the order of `index` (item id -> 0 .. V-1).

    Raises ConfigError; its one line names the bad line of the file, or the column that no line has.
    """
    listed, available = np.zeros(len(index), np.bool_), np.zeros(len(index), np.bool_)
    found: dict[str, list[Values]] = {name: [()] * len(index) for name in {*columns, CATEGORY}}
    seen: set[str] = set()
    lines = 0
    for number, line in _lines(path, (ITEM, *STOCK, *found)):
        seen.update(line)
        lines += 1
        try:
            row = index.get(_item(line))
            if row is not None:
                listed[row], available[row] = True, _in_stock(line)
                for name, values in found.items():
                    values[row] = _values(line.get(name), _category if name == CATEGORY else str)
        except ValueError as exc:
            raise ConfigError(f"catalogue {path}, line {number}: {exc}") from exc
    missing = [name for name in columns if name not in seen]
    if missing:
        raise ConfigError(f"catalogue {path}: no line has {missing[0]}; it has {', '.join(sorted(seen)) or 'no lines'}")
    return Catalogue(lines, listed, available if seen.intersection(STOCK) else None, found)


def item_ids(path: Path) -> list[str]:
    """The item of every line, in file order, with repeats. Raises ConfigError as `read_catalogue` does."""
    found = []
    for number, line in _lines(path, (ITEM,)):
        try:
            found.append(_item(line))
        except ValueError as exc:
            raise ConfigError(f"catalogue {path}, line {number}: {exc}") from exc
    return found


def _lines(path: Path, needed: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, fields) of every line that is not empty. needed: the columns that are read of it."""
    try:
        stat = path.stat()
        if not S_ISREG(stat.st_mode):  # opening a FIFO would wait for a writer, and every click with it
            raise ConfigError(f"catalogue {path} cannot be read: it is not a regular file")
        if stat.st_size > MOST_BYTES:
            raise ConfigError(f"catalogue {path} has {stat.st_size:,} bytes; it may have {MOST_BYTES:,}")
        if path.suffix == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                header = file.readline()
                rows = csv.DictReader(chain([header], file), strict=True, delimiter=max(SEPARATORS, key=header.count))
                yield from _table(rows, path, needed)
        elif path.suffix in (".jsonl", ".ndjson"):
            decode = msgspec.json.Decoder(dict[str, Any]).decode
            with path.open(encoding="utf-8-sig") as file:
                for number, text in enumerate(file, 1):
                    if text.strip():
                        yield number, _decoded(decode, text, path, number)
        else:
            raise ConfigError(f"catalogue {path}: the name must end in .jsonl, .ndjson or .csv")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"catalogue {path} cannot be read: {exc}") from exc


def _table(reader: "csv.DictReader[str]", path: Path, needed: Collection[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, fields) of every row of a CSV file."""
    begins = 1  # the line of the next row: one with a quote that is not closed extends to the end of the file
    try:
        names = list(reader.fieldnames or ())
        twice = next((name for name in needed if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"catalogue {path}: two columns have the name {twice!r}; rename one")
        begins = 1 + reader.line_num
        for row in reader:
            if None in row or None in row.values():
                raise ConfigError(f"catalogue {path}, line {reader.line_num}: not as many fields as the header")
            yield reader.line_num, row
            begins = 1 + reader.line_num
    except csv.Error as exc:
        raise ConfigError(
            f"catalogue {path}, line {begins}: not CSV ({exc}); is a quote opened and not closed?"
        ) from exc


def _decoded(decode: Any, text: str, path: Path, number: int) -> dict[str, Any]:
    try:
        line: dict[str, Any] = decode(text)
    except (msgspec.DecodeError, RecursionError) as exc:
        raise ConfigError(f"catalogue {path}, line {number}: not a JSON object ({exc})") from exc
    return line


def _item(line: dict[str, Any]) -> str:
    if ITEM not in line:
        names = ", ".join(line)[:SHOWN] or "none"
        raise ValueError(f"no {ITEM}; the columns are: {names}. Give the column with the item's id the name {ITEM}")
    try:
        item = word(line[ITEM], LONGEST_ID)
    except Unusable as exc:
        raise ValueError(f"{ITEM} {line[ITEM]!r:.{SHOWN}} is {exc}") from exc
    if item is None:
        raise ValueError(f"{ITEM} is missing or empty")
    return item


def _in_stock(line: dict[str, Any]) -> bool:
    """Whether the item is available, by the first column of STOCK that has a value. True if no column has one."""
    name = next((name for name in STOCK if line.get(name) not in (None, "")), None)
    if name is None:
        return True
    value = line[name]
    if isinstance(value, bool | int | float):
        return value > 0
    text = str(value).strip().lower()
    if text in _YES or text in _NO:
        return text in _YES
    try:
        return float(text) > 0
    except ValueError:
        raise ValueError(f"{name} is {value!r}; it must be true, false or a number") from None


def _values(value: Any, text: Callable[[Any], str]) -> Values:
    """The values of one field as strings; a list has several."""
    values = value if isinstance(value, list) else [value]
    return tuple(text(one) for one in values if one not in (None, ""))


def _category(value: Any) -> str:
    """A category as that of a click: the rule that compares the two would find none for 3.0 beside 3."""
    try:
        return word(value, LONGEST_ID) or str(value)
    except Unusable:  # no click has it
        return str(value)
