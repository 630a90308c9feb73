"""Reads the files of a log as batches of clicks, with Eddy's column names, and counts what it drops or leaves out.

A row that is not a click by the rules of the clicks topic is dropped, and counted under the first reason that applies.
An optional value that is not usable is left out and counted. A file that cannot be read raises ConfigError. With a
mapping, a file is read through MappedFile, which looks like a file with Eddy's column names.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import polars as pl

from export.files.cells import Cells
from export.files.files import files, not_read, open_file, trouble
from export.log.columns import Read, nulls, numbers, times, words
from export.log.mapped import MappedFile, check_single, shown_columns
from export.log.notes import ReadStats, similar_column
from export.log.times import LATEST_MS
from stream.errors import ConfigError
from stream.log_lines import counted, printable
from stream.mapping.mapping import MappingFile
from stream.wire.fields import DEFAULT_EVENT, LONGEST_ID, LONGEST_WORD, NO_TIME, ROUNDED, TEXT

SHOWN_FILES = 5
"""Maximum names of files in a note."""

HEADER_AGAIN = "the header again, as between files that were put together"
OUT_OF_RANGE = "a time before 1970 or after 2100"


class ColumnNames(NamedTuple):
    """The names of the log's columns; None = the usual name, if the log has such a column."""

    user: str | None = None
    item: str | None = None
    event: str | None = None
    time: str | None = None
    session: str | None = None
    category: str | None = None
    price: str | None = None


USUAL_NAMES = ColumnNames()
USUAL = ColumnNames("user_id", "item_id", "event_type", "timestamp", "session_id", "category", "price")


def batches(
    path: Path, names: ColumnNames, in_order: bool, stats: ReadStats, mapping: MappingFile | None = None
) -> Iterator[pl.DataFrame]:
    """Yield the clicks of a log in batches, in the order of the rows.

    user, item, event_type  String, not empty
    session, category       String; null where there is none
    time_ms                 Int64, between 1970 and 2100; with in_order always 1, because no time is read
    price                   Float64; null where there is none
    With a mapping, `names` must be USUAL_NAMES.
    Raises ConfigError if a file cannot be read or lacks a column.
    """
    if mapping is not None and names != USUAL_NAMES:
        raise ConfigError(
            f"mapping {mapping.name} names the columns of the log, and so does an option such as --item-col; omit one"
        )
    with readable(path):
        found, others = files(path), not_read(path)
    if others:
        shown = printable(", ".join(others[:SHOWN_FILES])) + (", ..." if len(others) > SHOWN_FILES else "")
        stats.add(
            f"not read: {counted(len(others), 'other file or directory', 'other files and directories')} ({shown})"
        )
    for path_of_file in found:
        with readable(path_of_file):
            file: Cells = open_file(path_of_file)
            if mapping is not None:
                file = MappedFile(path_of_file, file, mapping, in_order, stats)
            columns = _columns(path_of_file, file.schema, names, in_order, stats)
            for batch in file.batches(sorted({name for name in columns if name is not None})):
                stats.rows += len(batch)
                yield _clicks(batch, columns, file, stats)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise ConfigError for what polars and the other readers raise on a file that they cannot read."""
    try:
        yield
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,
        OSError,
        EOFError,
        zlib.error,
        ValueError,
    ) as exc:
        raise ConfigError(f"log {path}: {trouble(path, exc)}") from exc


def _columns(path: Path, schema: pl.Schema, names: ColumnNames, in_order: bool, stats: ReadStats) -> ColumnNames:
    """The names of the file's columns; None = the file has no such column, and none is needed."""

    def find(what: str, flag: str, needed: bool = False) -> str | None:
        given = getattr(names, what)
        name: str = given or getattr(USUAL, what)
        if name not in schema:
            if given or needed:
                raise ConfigError(
                    f"log {path}: no column {name!r}; its columns are {shown_columns(schema)}. Give a column with "
                    f"{flag}, or --mapping with a mapping of all fields, which `eddy init` writes"
                )
            return None
        check_single(path, name, schema)
        kind = schema[name]
        if kind.is_nested() or isinstance(kind, pl.Object | pl.Duration | pl.Time):
            if not given and what in ("category", "price"):
                stats.add(f"column {name!r} has the type {kind}, not one value for each click: not used")
                return None
            raise ConfigError(f"log {path}: column {name!r} has the type {kind}, not one value for each click")
        stats.columns.add(what)
        return name

    session = find("session", "--session-col")
    user = find("user", "--user-col", needed=session is None)
    if user is None:
        stats.add("no users in the log: each session is a separate user")
    item = find("item", "--item-col", needed=True)
    event = find("event", "--event-col")
    advice = "--time-col, or give --in-order if the rows are in time order"
    time = None if in_order else find("time", advice, needed=True)
    category, price = find("category", "--category-col"), find("price", "--price-col")
    found = ColumnNames(user or session, item, event, time, session, category, price)
    optional = {"event": event, "session": session, "category": category, "price": price}
    stats.files[str(path)] = {getattr(USUAL, what) for what, column in optional.items() if column is not None}
    unused = [name for name in schema if name not in found]
    for what, meaning in (("event", "the event type"), ("session", "the session")):
        similar = similar_column(what, unused)
        if getattr(found, what) is None and similar is not None:
            shown = printable(similar)
            stats.add(f"column {shown!r} looks like {meaning} and is not used: --{what}-col {shown} reads it")
    if time is not None and schema[time] == pl.Float32:
        stats.add(f"column {time!r} is float32, which rounds times to two minutes: write integers")
    return found


def _clicks(batch: pl.DataFrame, columns: ColumnNames, file: Cells, stats: ReadStats) -> pl.DataFrame:
    """The rows that are clicks, with Eddy's column names; the dropped rows and left-out values are counted."""

    def cells(name: str | None) -> pl.Series:
        return nulls(len(batch)) if name is None else batch[name]

    def optional(name: str | None, read: Read, what: str) -> pl.Series:
        for why in read.why.drop_nulls().unique(maintain_order=True):
            rows, problem = read.why == why, f"{what} is {why}"
            stats.left_out[problem] += int(rows.sum())
            stats.example(problem, cells(name).filter(rows))
        return read.values

    user, item = (words(cells(name), LONGEST_ID, file.value) for name in (columns.user, columns.item))
    time, unit = times(cells(columns.time), file.value)
    if columns.time is None:
        time, unit = Read(time.values.fill_null(1), time.why), unit.fill_null(TEXT)
    event_type = words(cells(columns.event), LONGEST_WORD, file.value)
    session, category = (words(cells(name), LONGEST_ID, file.value) for name in (columns.session, columns.category))
    clicks = pl.DataFrame(
        {
            "user": user.values,
            "item": item.values,
            "time_ms": time.values,
            "unit": unit,
            "event_type": optional(columns.event, event_type, "event type").fill_null(DEFAULT_EVENT),
            "session": optional(columns.session, session, "session"),
            "category": optional(columns.category, category, "category"),
            "price": optional(columns.price, numbers(cells(columns.price), file.value), "price"),
        }
    )
    stats.without_session += clicks["session"].null_count()
    usable = nulls(len(batch)).is_null()
    again = (user.values == columns.user) & (item.values == columns.item)
    for name, read, reason in (
        (None, user, pl.select(pl.when(again).then(pl.lit(HEADER_AGAIN))).to_series()),
        (columns.user, user, _reason("user", user)),
        (columns.item, item, _reason("item", item)),
        (columns.time, time, _reason_of_time(time)),
    ):
        bad = usable & reason.is_not_null()
        for why in reason.filter(bad).unique(maintain_order=True):
            rows = bad & (reason == why)
            stats.dropped[why] += int(rows.sum())
            stats.example(why, cells(name).filter(rows & (read.why.is_not_null() | read.values.is_not_null())))
        usable &= ~bad
    clicks = clicks.filter(usable)
    for name, count in clicks["unit"].value_counts().iter_rows():
        stats.units[name] += count
    return clicks


def _reason(what: str, read: Read) -> pl.Series:
    """(n,) String, why a row without a usable id is not a click; null if the id is usable."""
    why = pl.lit(f"the {what} is ") + read.why
    return pl.select(pl.when(read.values.is_null()).then(pl.coalesce(why, pl.lit(f"no {what}")))).to_series()


def _reason_of_time(read: Read) -> pl.Series:
    """(n,) String, why a row without a usable time is not a click; null if the time is usable."""
    out_of_range = (read.values <= 0) | (read.values >= LATEST_MS)
    why = pl.when(read.why == ROUNDED).then(pl.lit(f"the time is {ROUNDED}")).otherwise(pl.lit(NO_TIME))
    missing = pl.when(read.values.is_null()).then(why)
    return pl.select(missing.when(out_of_range).then(pl.lit(OUT_OF_RANGE))).to_series()
