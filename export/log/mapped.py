"""Reads a file of a log by a mapping: the file then looks like one with Eddy's column names."""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from export.files.cells import Cells
from export.log.notes import ReadStats
from stream.errors import ConfigError, Dropped
from stream.log_lines import printable
from stream.mapping.mapping import MappingFile
from stream.mapping.paths import has_value, path_text, value_at
from stream.mapping.reading import FIELDS
from stream.wire.fields import Unusable

SHOWN = 20
"""Maximum columns that a message lists."""

JSON = "\0"
"""The first character of a cell of MappedFile that holds JSON."""

LARGE = 10**18
"""A number of fewer digits is the same time, id and price as its text."""

SURROGATES = re.compile("[\ud800-\udfff]")


class MappedFile:
    """A file of a log whose rows are read by a mapping: a file with Eddy's column names, whose cells are texts.

    Each row goes through the code that reads the messages of a topic, so both are read alike. A row is the object of
    its line in JSON, or the object of its cells by the columns' names. Text and whole numbers, which all rules read
    alike, are text in a cell; any other value is JSON after the sign JSON.

    schema  as of Cells
    """

    def __init__(self, path: Path, file: Cells, mapping: MappingFile, in_order: bool, stats: ReadStats) -> None:
        """Raises ConfigError if the file lacks a field that a click must have."""
        self._file = file
        self._stats = stats
        self._reading = mapping.mapping.of_log()
        self._columns = sorted({str(way[0]) for ways in self._reading.paths for way in ways} & {*file.schema})
        paths = dict(zip(FIELDS, self._reading.paths, strict=True))
        found = {name for name, ways in paths.items() if any(way[0] in self._columns for way in ways)}
        for name in ("user_id", "item_id") if in_order else ("user_id", "item_id", "timestamp"):
            if name not in found:
                ways = " or ".join(map(path_text, paths[name]))
                raise ConfigError(
                    f"log {path}: no column for {name}, which mapping {mapping.name} has at {ways}; the log's columns "
                    f"are {shown_columns(file.schema)}. If only the log has other columns, add [log.fields] to the "
                    "mapping"
                )
        for column in self._columns:
            check_single(path, column, file.schema)
            if file.schema[column] == pl.Float32:
                stats.add(f"column {column!r} is float32: numbers of more than seven digits are not exact there")
        self._unseen = {name: ways for name, ways in paths.items() if ways and name not in stats.seen}
        stats.paths |= {name: " or ".join(map(path_text, ways)) for name, ways in self._unseen.items()}
        found |= {"event_type", *(FIELDS[at] for at in self._reading.defaults)}
        self.schema = pl.Schema(dict.fromkeys((name for name in FIELDS if name in found), pl.String))

    def batches(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """As Cells.batches. The rows that the mapping leaves out are counted."""
        at = [FIELDS.index(name) for name in columns]
        for batch in self._file.batches(self._columns):
            cells: dict[str, list[str | None]] = {name: [] for name in columns}
            for cells_of_row in batch.iter_rows():
                row = dict(zip(self._columns, (value_of(self._file, cell) for cell in cells_of_row), strict=True))
                if self._unseen:  # in most logs, only in the first rows
                    self._look(row)
                try:
                    values = self._reading.values(row)
                except Dropped as exc:
                    self._stats.rows += 1  # the caller counts the rows that it gets
                    self._stats.dropped[exc.detail] += 1
                    continue
                if self._reading.anonymous:
                    self._stats.joins.note(self._reading, row, values)
                for number, column in zip(at, cells.values(), strict=True):
                    column.append(_cell(values[number]))
            yield pl.DataFrame(cells, dict.fromkeys(columns, pl.String))

    def _look(self, row: dict[str, Any]) -> None:
        """Note which fields of the mapping have a value in a row for the first time."""
        for name, ways in list(self._unseen.items()):
            if any(has_value(value_at(row, way)) for way in ways):
                self._stats.seen.add(name)
                del self._unseen[name]

    def value(self, cell: Any) -> Any:
        return json.loads(cell[1:]) if cell[:1] == JSON else cell


def value_of(file: Cells, cell: Any) -> Any:
    """The value of a cell of a file; an empty tuple, which no field can use, if the file cannot read it."""
    try:
        return None if cell is None else file.value(cell)
    except Unusable:
        return ()


def _cell(value: Any) -> str | None:
    """A value as the text of a cell of MappedFile; None for None."""
    if value is None:
        return None
    if type(value) is str and value[0] != JSON and (value.isascii() or not SURROGATES.search(value)):
        return value
    if type(value) is int and abs(value) < LARGE:
        return str(value)
    try:
        return JSON + json.dumps(value, default=of_table)
    except (RecursionError, ValueError):
        return f"{JSON}[]"  # a value, and of no use in any field


def of_table(value: Any) -> Any:
    """A value of a Parquet column that JSON does not have, for json.dumps: dates and decimals become text.

    A whole decimal becomes an integer, because it is exact and a text of the form 17.00 may be a rounded float.
    """
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)
    return str(value) if isinstance(value, date | Decimal) else []


def check_single(path: Path, column: str, schema: pl.Schema) -> None:
    """Raise ConfigError if a CSV file has two columns with this name: polars gives the second one another name."""
    if f"{column}_duplicated_0" in schema:
        raise ConfigError(f"log {path}: two columns have the name {column!r}; rename one")


def shown_columns(schema: pl.Schema) -> str:
    """The names of a file's columns, for a message."""
    names = [printable(name) for name in schema]
    more = [] if len(names) <= SHOWN else [f"{len(names) - SHOWN:,} more"]
    return ", ".join([*names[:SHOWN], *more]) or "none"
