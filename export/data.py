"""A click log in a file -> columns of indices sorted by (user, time), and what they mean.

Reads CSV (also .gz), Parquet and JSON lines with the columns user_id (or session_id), item_id, event_type, timestamp,
whatever their names. Rows that are no clicks are dropped and counted, one line for each reason; a log that cannot be
learned from raises ConfigError with what was found and what was expected. Rows of equal time keep the file's order.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from stream.engine.step import SESSION_GAP_MS
from stream.errors import ConfigError

I64 = npt.NDArray[np.int64]

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
GAP_EDGES_MS = (
    10 * SECOND, MINUTE, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 8 * HOUR, DAY, 3 * DAY, 7 * DAY, 30 * DAY,
)  # fmt: skip
"""Where the gap buckets part: within a visit, from visit to visit, from week to week."""

ORDER_START_MS = 946_684_800_000  # the year 2000
ORDER_SPAN_MS = 40 * 365 * DAY  # what rows may take, and again what the pauses between visits may: until 2080
ORDER_PAUSE_MS = 30 * SECOND  # from click to click
ORDER_VISIT_MS = HOUR  # from a visit to the same user's next one, at least
"""The clock of a log without times: pauses as shops have them, so that the gaps met in service mean the same."""

DEFAULT_EVENT = "view"
SECONDS_BELOW = 1e11  # as ms this is 1973, as seconds the year 5138
LATEST_MS = 4_102_444_800_000  # the year 2100: a later time is a wrong unit

READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".csv": lambda path: pl.read_csv(path, infer_schema=False),
    ".parquet": pl.read_parquet,
    ".jsonl": lambda path: pl.read_ndjson(path, infer_schema_length=None),
    ".ndjson": lambda path: pl.read_ndjson(path, infer_schema_length=None),
}
"""By the file name's ending; .csv may be followed by .gz, which polars unpacks. CSV stays text: 007 is not 7."""


class Vocabulary(NamedTuple):
    """What the indices mean. `items` is by descending training count; one beyond the end is the unknown."""

    items: list[str]
    event_types: tuple[str, ...]
    gap_edges_ms: tuple[int, ...]


class ColumnNames(NamedTuple):
    """What the log calls its columns. None: the usual name if the log has it."""

    user: str | None = None
    item: str | None = None
    event: str | None = None
    time: str | None = None
    session: str | None = None


USUAL_NAMES = ColumnNames()


@dataclass(frozen=True)
class Log:
    """n clicks sorted by (user, time), as indices into the lists of names.

    user, item, event_type, session  (n,) int64; a session belongs to one user
    time_ms                          (n,) int64, since the epoch, UTC
    sessions                         the log's own session ids; empty if it has none
    notes                            what was dropped or assumed, one line each
    """

    user: I64
    item: I64
    event_type: I64
    session: I64
    time_ms: I64
    users: list[str]
    items: list[str]
    event_types: list[str]
    sessions: list[str]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.user)

    def between(self, start_ms: int | None, end_ms: int | None) -> "Log":
        """The clicks with start_ms <= time < end_ms; the lists of names stay whole. Raises ConfigError if none is."""
        keep = np.ones(len(self), np.bool_)
        if start_ms is not None:
            keep &= self.time_ms >= start_ms
        if end_ms is not None:
            keep &= self.time_ms < end_ms
        if not keep.any():
            raise ConfigError(
                f"no click lies between {iso(start_ms)} and {iso(end_ms)}; "
                f"the log covers {iso(int(self.time_ms.min()))} to {iso(int(self.time_ms.max()))}"
            )
        return self.where(keep)

    def where(self, keep: npt.NDArray[np.bool_]) -> "Log":
        """The clicks where keep (n,) is True."""
        columns = {name: getattr(self, name)[keep] for name in ("user", "item", "event_type", "session", "time_ms")}
        return replace(self, **columns)

    def in_time_order(self) -> I64:
        """(n,) row numbers from the earliest click to the latest; a user's clicks of equal time keep their order."""
        return np.argsort(self.time_ms, kind="stable")

    def next_in_session(self) -> I64:
        """(n,) row number of the same user's next click in the same session, -1 where there is none."""
        following = np.full(len(self), -1, np.int64)
        order = np.argsort(self.session, kind="stable")
        same = self.session[order[:-1]] == self.session[order[1:]]
        following[order[:-1][same]] = order[1:][same]
        return following

    def gaps(self, edges_ms: tuple[int, ...]) -> I64:
        """(n,) gap bucket of each click, 0 where the user has no earlier one in this log."""
        first = np.append(True, self.user[1:] != self.user[:-1])
        passed = np.append(0, np.diff(self.time_ms))
        return np.where(first, 0, 1 + np.searchsorted(np.asarray(edges_ms), passed, "right"))


def read_log(path: Path, names: ColumnNames = USUAL_NAMES, drop_repeats: bool = False, in_order: bool = False) -> Log:
    """The clicks of a log file. Raises ConfigError if it cannot be read or holds no clicks.

    drop_repeats  leave out rows that are equal to an earlier one in user, item, event type and time
    in_order      the rows are in time order: times are made from row numbers (`order_times`), a time column is ignored
    """
    if in_order and drop_repeats:
        raise ConfigError("--drop-repeats needs times: without them a second click on an item looks like a repeat")
    frame = _read(path)
    notes: list[str] = []
    try:
        clicks = frame.select(**_columns(frame, names, in_order, path, notes))
    except pl.exceptions.PolarsError as exc:
        raise ConfigError(f"log {path}: a column cannot be read ({_first_line(exc)})") from exc
    for reason, bad in _bad_rows():
        count = clicks.select(bad.sum()).item()
        if count:
            notes.append(f"dropped {count:,} rows: {reason}")
            clicks = clicks.filter(~bad)
    if drop_repeats:
        before = len(clicks)
        clicks = clicks.unique(["user", "item", "event_type", "time_ms"], keep="first", maintain_order=True)
        if len(clicks) < before:
            notes.append(f"dropped {before - len(clicks):,} rows: equal to an earlier row")
    if clicks.is_empty():
        raise ConfigError(f"log {path}: no clicks in {len(frame):,} rows; {'; '.join(notes) or 'the file is empty'}")
    if in_order:
        notes.append("taken to be in time order: times are made from the row numbers")
        clicks = clicks.with_columns(time_ms=_order_times(clicks))
    elif not clicks["time_ms"].is_sorted():
        notes.append("the rows were not in time order: sorted by user and time")
    return _log(clicks.sort("user", "time_ms", maintain_order=True), notes)


def _read(path: Path) -> pl.DataFrame:
    ending = path.name.lower().removesuffix(".gz")
    read = next((reader for suffix, reader in READERS.items() if ending.endswith(suffix)), None)
    if read is None:
        raise ConfigError(f"log {path}: the name must end in {', '.join(READERS)} (or .csv.gz)")
    if not path.is_file():
        raise ConfigError(f"log {path}: no such file")
    try:
        return read(path)
    except (pl.exceptions.PolarsError, OSError, ValueError) as exc:
        raise ConfigError(f"log {path}: not a readable {ending.rpartition('.')[2]} file ({_first_line(exc)})") from exc


def _first_line(exc: Exception) -> str:
    return str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__


def _columns(
    frame: pl.DataFrame, names: ColumnNames, in_order: bool, path: Path, notes: list[str]
) -> dict[str, pl.Expr]:
    """The log's columns under our names, as strings and milliseconds; in_order: no time is read, all are 1 ms."""

    def find(given: str | None, usual: str, flag: str, needed: bool) -> str | None:
        name = given or usual
        if name in frame.columns:
            return name
        if given or needed:
            has = ", ".join(frame.columns) or "none"
            raise ConfigError(f"log {path}: no column {name!r}; it has {has}. Name it with {flag}")
        return None

    session = find(names.session, "session_id", "--session-col", needed=False)
    user = find(names.user, "user_id", "--user-col", needed=session is None)
    if user is None:
        notes.append("no users in the log: each session is taken for a user of its own")
    item = find(names.item, "item_id", "--item-col", needed=True)
    event = find(names.event, "event_type", "--event-col", needed=False)
    without = "--time-col, or say --in-order if the rows are in time order"
    time = None if in_order else find(names.time, "timestamp", without, needed=True)
    assert item is not None
    for name in filter(None, (user, item, event, time, session)):
        kind = frame.schema[name]
        if kind.is_nested():
            raise ConfigError(f"log {path}: column {name!r} holds {kind}, not one value for each click")

    def text(name: str) -> pl.Expr:
        return _text(name, frame.schema[name])

    return {
        "user": text(user or session or ""),
        "item": text(item),
        "event_type": text(event).fill_null(DEFAULT_EVENT) if event else pl.lit(DEFAULT_EVENT),
        "session": text(session) if session else pl.lit(None, pl.String),
        "time_ms": _milliseconds(time, frame.schema[time]) if time else pl.lit(1, pl.Int64),
    }


def _text(name: str, kind: pl.DataType) -> pl.Expr:
    """A column as strings. Whole floats lose their .0: pandas turns integers into floats where one is missing."""
    column = pl.col(name)
    if not kind.is_float():
        return column.cast(pl.String)
    number = column.fill_nan(None)
    whole = number.cast(pl.Int64, strict=False)
    is_whole = whole.is_not_null() & (whole.cast(kind) == number)
    return pl.when(is_whole).then(whole.cast(pl.String)).otherwise(number.cast(pl.String))


def _milliseconds(name: str, kind: pl.DataType) -> pl.Expr:
    """Seconds, milliseconds, dates or ISO strings -> ms since the epoch; null where it is none of them."""
    column = pl.col(name)
    if isinstance(kind, pl.Datetime | pl.Date):
        return column.cast(pl.Datetime("ms")).cast(pl.Int64)
    number = column.cast(pl.Float64, strict=False).fill_nan(None)
    ms = (
        pl.when(number.abs() < SECONDS_BELOW).then(number * 1000).otherwise(number).round().cast(pl.Int64, strict=False)
    )
    if not isinstance(kind, pl.String):
        return ms
    zoned = column.str.replace("( UTC|Z)$", "+0000").str.replace(r"([+-]\d\d):(\d\d)$", "$1$2").str.replace("T", " ")
    formats = [("%Y-%m-%d %H:%M:%S%.f%z", zoned), ("%Y-%m-%d %H:%M:%S%.f", zoned), ("%Y-%m-%d %H:%M", zoned)]
    parsed = [
        text.str.to_datetime(form, strict=False, time_unit="ms", time_zone="UTC" if "%z" in form else None)
        .dt.replace_time_zone(None)
        .cast(pl.Int64)
        for form, text in formats
    ]
    day = column.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("ms")).cast(pl.Int64)
    return pl.coalesce(ms, *parsed, day)


def _bad_rows() -> list[tuple[str, pl.Expr]]:
    missing = {"user": "no user", "item": "no item", "event_type": "no event type"}
    rules = [(reason, pl.col(name).is_null() | (pl.col(name) == "")) for name, reason in missing.items()]
    time = pl.col("time_ms")
    return [
        *rules,
        ("no time that can be read", time.is_null()),
        ("a time before 1970 or after 2100", (time <= 0) | (time >= LATEST_MS)),
    ]


def _order_times(clicks: pl.DataFrame) -> I64:
    user, _ = _indices(clicks["user"])
    if clicks["session"].null_count() == len(clicks):
        return order_times(user, None)
    return order_times(user, _indices(_owned_sessions(clicks))[0])


def order_times(user: I64, session: I64 | None) -> I64:
    """(n,) made-up ms since the epoch for n clicks in time order that have none.

    user, session  (n,) indices by first appearance; a session belongs to one user

    With sessions: they follow each other in the order in which they begin, each with half a minute from click to
    click, and at least an hour lies between two of one user. So the newest tenth holds the sessions that began last,
    and a session whose rows lie scattered is closed up. Without: the clock goes by row, so fast that half of the
    pauses between a user's clicks are at most half a minute. Logs of more than 42 million rows get a shorter pause.
    """
    rows = np.arange(len(user), dtype=np.int64)
    if session is None:
        order = np.argsort(user, kind="stable")
        between = np.diff(order)[user[order[1:]] == user[order[:-1]]]
        pause = ORDER_PAUSE_MS / float(np.median(between)) if len(between) else ORDER_PAUSE_MS
        return ORDER_START_MS + (rows * min(pause, ORDER_SPAN_MS / len(user))).astype(np.int64)
    pause_ms = max(1, min(ORDER_PAUSE_MS, ORDER_SPAN_MS // len(user)))
    size = np.bincount(session)
    first = np.cumsum(size) - size
    order = np.argsort(session, kind="stable")
    row = np.empty_like(rows)  # where each click lies once every session is closed up
    row[order] = rows
    owner = user[order[first]]
    by_owner = np.argsort(owner, kind="stable")
    again = owner[by_owner[1:]] == owner[by_owner[:-1]]
    before, after = by_owner[:-1][again], by_owner[1:][again]
    apart = np.zeros(len(size), np.int64)
    apart[after] = np.maximum(0, ORDER_VISIT_MS - (first[after] - first[before] - size[before] + 1) * pause_ms)
    begins = np.cumsum(apart * min(1.0, ORDER_SPAN_MS / max(1, int(apart.sum())))).astype(np.int64)
    return np.asarray(ORDER_START_MS + row * pause_ms + begins[session])


def _owned_sessions(clicks: pl.DataFrame) -> pl.Series:
    """The session of each click, named together with its user: an id of two users is two sessions."""
    return clicks.select(pl.concat_str("user", pl.lit("\x1f"), pl.col("session").fill_null("")))["user"]


def _log(clicks: pl.DataFrame, notes: list[str]) -> Log:
    user, users = _indices(clicks["user"])
    item, items = _indices(clicks["item"])
    event_type, event_types = _indices(clicks["event_type"])
    time_ms = clicks["time_ms"].to_numpy().astype(np.int64)
    if clicks["session"].null_count() == len(clicks):
        new = np.append(True, (user[1:] != user[:-1]) | (np.diff(time_ms) > SESSION_GAP_MS))
        session, sessions = np.cumsum(new) - 1, list[str]()
    else:
        named = clicks.select("session", pair=_owned_sessions(clicks))
        session, _ = _indices(named["pair"])
        sessions = named.unique("pair", keep="first", maintain_order=True)["session"].fill_null("").to_list()
    return Log(user, item, event_type, session, time_ms, users, items, event_types, sessions, notes)


def _indices(column: pl.Series) -> tuple[I64, list[str]]:
    """Strings -> (n,) indices by first appearance, and the distinct strings."""
    distinct = column.unique(maintain_order=True)
    table = pl.DataFrame({"name": distinct, "index": np.arange(len(distinct))})
    found = pl.DataFrame({"name": column}).join(table, on="name", how="left", maintain_order="left")
    return found["index"].to_numpy().astype(np.int64), distinct.to_list()


def parse_time(text: str) -> int:
    """A moment on the command line, ISO or a number of s or ms since the epoch -> ms. Raises ConfigError."""
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        return round(number * 1000 if abs(number) < SECONDS_BELOW else number)
    try:
        moment = datetime.fromisoformat(re.sub(" UTC$", "+00:00", text))
    except ValueError as exc:
        raise ConfigError(f"time {text!r} is neither ISO (2017-10-03T03:00:00) nor a number of s or ms") from exc
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def iso(ms: int | None) -> str:
    """A moment for people, UTC to the second."""
    return "the beginning or end" if ms is None else datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "seconds")
