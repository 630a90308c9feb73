"""Click log files -> batches of rows under our names, and what was dropped from them.

Reads CSV (also .gz; the separator is seen), Parquet and JSON lines: a file, a directory of them or a quoted pattern,
in the order of their names. Files are read a batch at a time. A row that is no click is dropped and counted under the
first reason that holds; a file that cannot be read raises ConfigError.
"""

import glob
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import polars as pl

from export.log.files import SEPARATORS, printable, trouble
from export.log.times import LATEST_MS, TEXT, milliseconds
from stream.errors import ConfigError
from stream.wire.fields import DEFAULT_EVENT, LONGEST_ID, LONGEST_WORD

BATCH = 1 << 18
"""Rows at a time."""

SHOWN = 20
"""Columns that a message lists."""


class ColumnNames(NamedTuple):
    """What the log calls its columns. None: the usual name if the log has it."""

    user: str | None = None
    item: str | None = None
    event: str | None = None
    time: str | None = None
    session: str | None = None
    category: str | None = None
    price: str | None = None


USUAL_NAMES = ColumnNames()
USUAL = ColumnNames("user_id", "item_id", "event_type", "timestamp", "session_id", "category", "price")


@dataclass
class Met:
    """What was met while reading: rows, the dropped ones by reason, the units of the kept times, lines to tell."""

    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)  # what the log has beside users, items and times
    unreadable_time: str | None = None
    without_session: int = 0
    without_price: int = 0
    unreadable_price: str | None = None

    def say(self, line: str) -> None:
        if line not in self.lines:
            self.lines.append(line)

    def notes(self) -> list[str]:
        """One line for each thing worth knowing."""
        notes = list(self.lines)
        for reason, count in self.dropped.items():
            example = f", such as {self.unreadable_time!r}" if reason == NO_TIME and self.unreadable_time else ""
            notes.append(f"dropped {count:,} rows: {reason}{example}")
        if len(self.units) > 1 or not self.units.keys() <= {"s", "ms", TEXT}:
            counts = ", ".join(f"{count:,} in {unit}" for unit, count in self.units.most_common())
            notes.append(f"times by their size: {counts}")
        if self.without_session:
            notes.append(f"{self.without_session:,} rows have no session: those of a user are taken for one")
        if self.without_price:
            example = f"such as {self.unreadable_price!r}"
            notes.append(f"{self.without_price:,} prices are no numbers from 0 up, {example}: taken for none")
        return notes


NO_TIME = "no time that can be read"
TOO_LONG = f"an id of more than {LONGEST_ID} or an event type of more than {LONGEST_WORD} characters"


def _reasons() -> list[tuple[str, pl.Expr]]:
    missing = [
        (f"no {what}", pl.col(name).is_null() | (pl.col(name) == ""))
        for name, what in (("user", "user"), ("item", "item"), ("event_type", "event type"))
    ]
    length = pl.max_horizontal(pl.col("user").str.len_chars(), pl.col("item").str.len_chars())
    time = pl.col("time_ms")
    return [
        *missing,
        (TOO_LONG, (length > LONGEST_ID) | (pl.col("event_type").str.len_chars() > LONGEST_WORD)),
        (NO_TIME, time.is_null()),
        ("a time before 1970 or after 2100", (time <= 0) | (time >= LATEST_MS)),
    ]


def batches(path: Path, names: ColumnNames, in_order: bool, met: Met) -> Iterator[pl.DataFrame]:
    """The clicks of a log, a batch at a time, in the order of the files' rows.

    user, item, event_type  String, not empty
    session, category       String; null where there is none
    time_ms                 Int64, within 1970 and 2100; 1 with in_order, which reads no time
    price                   Float64; null where there is none
    Raises ConfigError if a file cannot be read or lacks a column.
    """
    for file in _files(path):
        try:
            frame = _scan(file)
            columns = _columns(file, frame.collect_schema(), names, in_order, met)
            taken = frame.select(sorted({name for name in columns if name is not None}))
            for batch in taken.collect_batches(chunk_size=BATCH, maintain_order=True):
                met.rows += len(batch)
                yield _kept(_renamed(batch, columns, met), met)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError) as exc:
            raise ConfigError(f"log {file}: {trouble(file, _format(file), exc)}") from exc


def _files(path: Path) -> list[Path]:
    """A file, the log files in a directory, or those that a pattern finds, by name."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.is_file() and _format(file) is not None)
        if not found:
            raise ConfigError(f"log {path}: a directory without files that end in {', '.join(FORMATS)}")
        return found
    if not path.exists() and glob.has_magic(str(path)):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        if not found:
            raise ConfigError(f"log {path}: no file has such a name")
    else:
        found = [path]
    for file in found:
        if _format(file) is None:
            raise ConfigError(f"log {file}: the name must end in {', '.join(FORMATS)} (or .csv.gz)")
        if not file.is_file():
            raise ConfigError(f"log {file}: no such file")
    return found


def _format(path: Path) -> str | None:
    ending = path.name.lower().removesuffix(".gz")
    return next((known for known in FORMATS if ending.endswith(known)), None)


def _scan(path: Path) -> pl.LazyFrame:
    kind = _format(path)
    assert kind is not None
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise ConfigError(f"log {path}: the file is empty")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError(f"log {path}: the text is UTF-16; save it as UTF-8")
    if kind != ".parquet" and start == b"PAR1":
        raise ConfigError(f"log {path}: this is a Parquet file; name it .parquet")
    if start[:2] == b"PK":
        raise ConfigError(f"log {path}: this is a zip or a spreadsheet; save it as CSV")
    return FORMATS[kind](path)


def _scan_csv(path: Path) -> pl.LazyFrame:
    """All columns stay text: 007 is not 7. Bytes that are not UTF-8 become the replacement character."""

    def scan(separator: str) -> pl.LazyFrame:
        return pl.scan_csv(path, separator=separator, infer_schema=False, encoding="utf8-lossy", glob=False)

    return max((scan(separator) for separator in SEPARATORS), key=lambda frame: len(frame.collect_schema()))


FORMATS: dict[str, Callable[[Path], pl.LazyFrame]] = {
    ".csv": _scan_csv,
    ".tsv": _scan_csv,
    ".parquet": lambda path: pl.scan_parquet(path, glob=False),
    ".jsonl": lambda path: pl.scan_ndjson(path, infer_schema_length=None),
    ".ndjson": lambda path: pl.scan_ndjson(path, infer_schema_length=None),
}
"""By the file name's ending; .gz may follow, which polars unpacks."""


def _columns(path: Path, schema: pl.Schema, names: ColumnNames, in_order: bool, met: Met) -> ColumnNames:
    """Which columns of the file are which; None: it has none and needs none."""

    def find(what: str, flag: str, needed: bool = False) -> str | None:
        given = getattr(names, what)
        name: str = given or getattr(USUAL, what)
        if name not in schema:
            if given or needed:
                raise ConfigError(f"log {path}: no column {name!r}; it has {_shown(schema)}. Name it with {flag}")
            return None
        if f"{name}_duplicated_0" in schema:
            raise ConfigError(f"log {path}: two columns are called {name!r}; rename one")
        kind = schema[name]
        if kind.is_nested() or isinstance(kind, pl.Object | pl.Duration | pl.Time):
            if not given and what in ("category", "price"):
                met.say(f"column {name!r} holds {kind}, not one value for each click: not used")
                return None
            raise ConfigError(f"log {path}: column {name!r} holds {kind}, not one value for each click")
        met.columns.add(what)
        return name

    session = find("session", "--session-col")
    user = find("user", "--user-col", needed=session is None)
    if user is None:
        met.say("no users in the log: each session is taken for a user of its own")
    item = find("item", "--item-col", needed=True)
    event = find("event", "--event-col")
    advice = "--time-col, or say --in-order if the rows are in time order"
    time = None if in_order else find("time", advice, needed=True)
    category, price = find("category", "--category-col"), find("price", "--price-col")
    return ColumnNames(user or session, item, event, time, session, category, price)


def _shown(schema: pl.Schema) -> str:
    names = [printable(name) for name in schema]
    more = [] if len(names) <= SHOWN else [f"{len(names) - SHOWN:,} more"]
    return ", ".join([*names[:SHOWN], *more]) or "none"


def _renamed(batch: pl.DataFrame, columns: ColumnNames, met: Met) -> pl.DataFrame:
    """The batch under our names, nothing dropped yet; `unit` and `time` say what the times were."""
    count = len(batch)

    def text(name: str | None) -> pl.Series:
        return pl.Series([None], dtype=pl.String).new_from_index(0, count) if name is None else _text(batch[name])

    event_type = text(columns.event).fill_null(DEFAULT_EVENT)
    if columns.time is None:
        times = pl.DataFrame({"time_ms": pl.repeat(1, count, dtype=pl.Int64, eager=True)}).with_columns(
            unit=pl.lit(TEXT), time=pl.lit(None, pl.String)
        )
    else:
        time = batch[columns.time]
        times = milliseconds(time).with_columns(time.cast(pl.String, strict=False).alias("time"))
    price = pl.repeat(None, count, dtype=pl.Float64, eager=True)
    if columns.price is not None:
        given = batch[columns.price]
        if given.dtype.is_float():
            given = given.fill_nan(None)
        elif given.dtype == pl.String:
            given = given.set(given == "", None)
        number = given.cast(pl.Float64, strict=False)
        price = pl.select(pl.when(number.is_finite() & (number >= 0)).then(number)).to_series()
        refused = given.filter(price.is_null() & given.is_not_null())
        met.without_price += len(refused)
        if len(refused) and met.unreadable_price is None:
            met.unreadable_price = str(refused[0])[:40]
    session, category = (column.set(column == "", None) for column in (text(columns.session), text(columns.category)))
    if columns.session is not None:
        met.without_session += session.null_count()
    return times.with_columns(
        user=text(columns.user),
        item=text(columns.item),
        event_type=event_type,
        session=session,
        category=category,
        price=price,
    )


def _kept(batch: pl.DataFrame, met: Met) -> pl.DataFrame:
    """The rows that are clicks; the others are counted."""
    for reason, bad in _reasons():
        kept = batch.filter(~bad.fill_null(value=False))
        if len(kept) == len(batch):
            continue
        met.dropped[reason] += len(batch) - len(kept)
        if reason == NO_TIME and met.unreadable_time is None:
            examples = batch.filter(bad)["time"].drop_nulls()
            met.unreadable_time = examples[0][:40] if len(examples) else None
        batch = kept
    for unit, count in batch["unit"].value_counts().iter_rows():
        met.units[unit] += count
    return batch


def _text(column: pl.Series) -> pl.Series:
    """A column as strings. Whole floats lose their .0: pandas turns integers into floats where one is missing."""
    if not column.dtype.is_float():
        return column.cast(pl.String, strict=False)
    number = column.fill_nan(None)
    whole = number.cast(pl.Int64, strict=False)
    is_whole = whole.is_not_null() & (whole.cast(column.dtype) == number)
    return pl.select(pl.when(is_whole).then(whole.cast(pl.String)).otherwise(number.cast(pl.String))).to_series()
