"""Reads a click log into columns of indices, sorted by (user, time), and the lists of names behind the indices.

1. Batches of rows (reader.py) are converted to indices.
2. The rows are sorted by user, on disk (spill.py). Rows with equal times keep the order of the file.
3. The result is memory-mapped columns. So the number of names and the size of a batch limit the memory, not the number
   of rows.
"""

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from export.arrays import F64, I32, I64, U8, Flags
from export.log.columns import Index
from export.log.notes import ReadStats, implausible_items, implausible_times, implausible_users
from export.log.reader import USUAL_NAMES, ColumnNames, batches
from export.log.spill import ROW, Column, Rows, Spool, chunks, part
from export.log.synthetic_times import Clock, RowClock, SessionClock, owned_sessions
from export.log.times import LATEST_MS, iso, within
from stream.errors import ConfigError
from stream.events import Click
from stream.log_lines import counted
from stream.mapping.mapping import MappingFile
from stream.model.gaps import gap_bucket, starts_session
from stream.wire.fields import DAY_MS, FIRST_CLICK_MS

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
GAP_EDGES_MS = (
    10 * SECOND, MINUTE, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 8 * HOUR, DAY, 3 * DAY, 7 * DAY, 30 * DAY,
)  # fmt: skip
"""Edges of the gap buckets: within a session, between sessions, between weeks."""

MANY_REPEATS = 0.01
"""Minimum share of repeated rows that is reported."""


class Vocabulary(NamedTuple):
    """The names behind the indices of a model. `items` is by descending training clicks; len(items) = unknown item."""

    items: list[str]
    event_types: tuple[str, ...]
    gap_edges_ms: tuple[int, ...]


@dataclass(frozen=True)
class Log:
    """n clicks sorted by (user, time), as indices into the lists of names.

    user, item, event_type, session  (n,) int32; a session belongs to one user
    time_ms                          (n,) int64, since the epoch, UTC
    sessions                         the log's own session ids; empty if it has none
    notes                            what was dropped, assumed or looks implausible, one line each
    category                         (n,) int32 index into `categories`, -1 = none; None = no such column
    price                            (n,) float64, NaN = none; None = no such column
    in_order                         True if the times are synthetic (synthetic_times.py)
    name                             the file, directory or pattern that was read; empty without a file
    mapping                          the mapping by which it was read, if there was one
    """

    user: I32
    item: I32
    event_type: I32
    session: I32
    time_ms: I64
    users: list[str]
    items: list[str]
    event_types: list[str]
    sessions: list[str]
    notes: list[str] = field(default_factory=list)
    category: I32 | None = None
    price: F64 | None = None
    categories: list[str] = field(default_factory=list)
    in_order: bool = False
    name: str = ""
    mapping: MappingFile | None = None

    def __len__(self) -> int:
        return len(self.user)

    def between(self, start_ms: int | None, end_ms: int | None) -> "Log":
        """The clicks with start_ms <= time < end_ms; the lists of names stay. Raises ConfigError if none is left."""
        keep = np.ones(len(self), np.bool_)
        if start_ms is not None:
            keep &= self.time_ms >= start_ms
        if end_ms is not None:
            keep &= self.time_ms < end_ms
        if not keep.any():
            raise ConfigError(
                f"no click is {within(start_ms, end_ms)}; "
                f"the log covers {iso(int(self.time_ms.min()))} to {iso(int(self.time_ms.max()))}"
            )
        return self.where(keep)

    def where(self, keep: Flags) -> "Log":
        """The clicks where keep (n,) is True."""
        columns = {name: getattr(self, name) for name in ROW.names or ()}
        kept: dict[str, Any] = {name: part(column, keep) for name, column in columns.items() if column is not None}
        return replace(self, **kept)

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

    def gaps(self, edges_ms: tuple[int, ...]) -> U8:
        """(n,) uint8, gap bucket of each click; 0 if the user has no earlier click in this log. At most 254 edges."""
        gap = np.zeros(len(self), np.uint8)
        first = self.user[1:] != self.user[:-1]
        for at in chunks(len(first)):
            passed = self.time_ms[1:][at] - self.time_ms[:-1][at]
            gap[1:][at] = gap_bucket(passed, first[at], edges_ms)
        return gap


class Names(NamedTuple):
    """The names behind the indices of a log's rows, one Index per column."""

    user: Index
    item: Index
    event_type: Index
    session: Index
    category: Index


def read_log(
    path: Path,
    names: ColumnNames = USUAL_NAMES,
    drop_repeats: bool = False,
    in_order: bool = False,
    mapping: MappingFile | None = None,
) -> Log:
    """Read a log: a file, a directory or a pattern. Raises ConfigError if it cannot be read or has no clicks.

    drop_repeats  leave out rows that equal an earlier row in user, item, event type and time
    in_order      the rows are in time order: the clicks get synthetic times, and a time column is ignored
    mapping       how the rows are read; then `names` must have no column
    """
    if in_order and drop_repeats:
        raise ConfigError(
            "--drop-repeats needs times: without times, a second click on an item looks like a repeated row"
        )
    try:
        return _read(path, names, drop_repeats, in_order, mapping)
    except OSError as exc:
        raise ConfigError(
            f"log {path}: its columns cannot be written to {tempfile.gettempdir()} ({exc}); set TMPDIR to a larger disk"
        ) from exc


def _read(path: Path, names: ColumnNames, drop_repeats: bool, in_order: bool, mapping: MappingFile | None) -> Log:
    stats, spool = ReadStats(), Spool()
    index = Names(Index(), Index(), Index(), Index(), Index())
    first_ms, last_ms, forward, too_early, dates = LATEST_MS, 0, True, 0, True
    for batch in batches(path, names, in_order, stats, mapping):
        if not len(batch):
            continue
        rows = _rows(batch, index)
        if in_order:
            rows["time_ms"] = len(spool) + np.arange(len(rows))
        times = rows["time_ms"]
        forward &= bool(times[0] >= last_ms and (np.diff(times) >= 0).all())
        first_ms, last_ms = min(first_ms, int(times.min())), max(last_ms, int(times.max()))
        too_early += int((times < FIRST_CLICK_MS).sum())
        dates &= not (times % DAY_MS).any()
        spool.add(rows)
    users = list(index.user) if in_order else stats.joins.apply(spool, list(index.user))
    has_sessions = bool(len(index.session))
    if stats.without_session and "session" in stats.columns and not has_sessions:
        stats.without_session = 0
        stats.add("the session column is empty: half an hour without a click ends a session")
    notes = stats.notes()
    if not stats.rows:
        raise ConfigError(f"log {path}: the log has a header and no rows")
    if not len(spool):
        raise ConfigError(f"log {path}: no clicks in {counted(stats.rows, 'row')}; {'; '.join(notes)}")
    if not in_order:
        notes += implausible_times(first_ms, last_ms, len(spool), too_early, dates)
    notes += implausible_users(users, spool.clicks_of_users()) + implausible_items(index.item, spool.clicks_of_items())
    clock: Clock | None = None
    if in_order:
        notes.append("the rows are used in their order, with synthetic times")
        clock = SessionClock(spool) if has_sessions else RowClock(spool)
    elif not forward:
        notes.append("the rows were not in time order: sorted by user and time")
    broken = sum("\ufffd" in name for names in (users, index.item) for name in names)
    if broken:
        have = counted(broken, "id has", "ids have")
        notes.append(f"{have} bytes that are not UTF-8, read as \ufffd: save the log as UTF-8")
    columns, sessions, repeats = _sorted(spool, clock, has_sessions, drop_repeats)
    if drop_repeats and repeats:
        notes.append(f"dropped {counted(repeats, 'row')}: equal to an earlier row")
    elif repeats >= MANY_REPEATS * len(spool):
        have = counted(repeats, "row repeats", "rows repeat")
        notes.append(f"{have} an earlier row ({repeats / len(spool):.1%}): --drop-repeats leaves them out")
    shared = int((np.bincount(sessions[sessions >= 0]) > 1).sum())
    if shared:
        belong = counted(shared, "session id belongs", "session ids belong")
        notes.append(f"{belong} to several users: each of these users has a separate session")
    for name in ("category", "price"):
        if name not in stats.columns:
            del columns[name]
    session_names = [*index.session, ""]  # the last one is for index -1
    return Log(
        users=users,
        items=list(index.item),
        event_types=list(index.event_type),
        sessions=[session_names[code] for code in sessions],
        categories=list(index.category),
        notes=notes,
        in_order=in_order,
        name=str(path),
        mapping=mapping,
        **columns,
    )


def _rows(batch: pl.DataFrame, index: Names) -> Rows:
    rows = np.empty(len(batch), ROW)
    for name in Names._fields:
        rows[name] = getattr(index, name).add(batch[name])
    rows["time_ms"] = batch["time_ms"].to_numpy()
    rows["price"] = batch["price"].fill_null(np.nan).to_numpy()
    return rows


def _sorted(
    spool: Spool, clock: Clock | None, has_sessions: bool, drop_repeats: bool
) -> tuple[dict[str, Any], I32, int]:
    """The columns sorted by (user, time), the index of each session's name (S,), and the count of repeated rows."""
    columns = {name: Column(ROW[name]) for name in ROW.names or ()}
    names = [np.zeros(0, np.int32)]
    sessions = repeats = 0
    for run in spool.by_user():
        if clock is not None:
            run["time_ms"] = clock.times(run)
        run = run[np.lexsort((run["time_ms"], run["user"]))]
        repeat = _repeats(run)
        repeats += int(repeat.sum())
        if drop_repeats:
            run = run[~repeat]
        if has_sessions:
            session, first = owned_sessions(run)
            names.append(run["session"][first])
        else:
            session = np.cumsum(_session_begins(run)) - 1
        run["session"] = sessions + session
        sessions = int(run["session"].max()) + 1
        for name, column in columns.items():
            column.append(run[name])
    return {name: column.array() for name, column in columns.items()}, np.concatenate(names), repeats


def _session_begins(run: Rows) -> Flags:
    """(m,) bool, True at a user's first click and after a pause of half an hour."""
    pause = (run["user"][1:] != run["user"][:-1]) | starts_session(np.diff(run["time_ms"]))
    return np.append(True, pause)


def _repeats(run: Rows) -> Flags:
    """(m,) bool, True where a row of a sorted run equals an earlier row in user, item, event type and time."""
    repeat = np.zeros(len(run), np.bool_)
    tie = (run["user"][1:] == run["user"][:-1]) & (run["time_ms"][1:] == run["time_ms"][:-1])
    tied = np.flatnonzero(np.append(tie, False) | np.append(False, tie))
    rows = run[tied]
    order = np.lexsort((rows["event_type"], rows["item"], rows["time_ms"], rows["user"]))
    rows = rows[order][["user", "time_ms", "item", "event_type"]]
    repeat[tied[order[1:][rows[1:] == rows[:-1]]]] = True
    return repeat


def log_clicks(log: Log) -> Iterable[tuple[Click, str]]:
    """The clicks in time order, as a producer would send them, each with its session (an index, as text)."""
    columns = (log.user, log.item, log.event_type, log.session, log.time_ms)
    categories = [*log.categories, None]  # the last one is for index -1
    for row in log.in_time_order():
        user, item, event_type, session, time_ms = (int(column[row]) for column in columns)
        price = np.nan if log.price is None else float(log.price[row])
        click = Click(
            user_id=log.users[user],
            item_id=log.items[item],
            timestamp=time_ms,
            event_type=log.event_types[event_type],
            session_id=log.sessions[session] if log.sessions else None,
            price=None if np.isnan(price) else price,
            category=None if log.category is None else categories[log.category[row]],
        )
        yield click, str(session)
