"""The last clicks of each user, in the user's row: how surprising they were, and the time between them.

The rule that must not break: the windows after a click depend only on the user's clicks up to it, never on the batch.
Surprises are stored as whole numbers, so that their sums are exact in any order.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from stream.detect.tail import F32, F64, I32, I64, MOST_NATS
from stream.manifest import Tensor
from stream.model.gaps import starts_session
from stream.state.row import Index, Rows

I16 = npt.NDArray[np.int16]
Bools = npt.NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)

LAST = 10
"""Clicks in a window."""

PER_NAT = 256
"""Surprises are stored as whole numbers of this part of a nat."""

NO_GAP = -1
"""The gap before a user's first click."""

LATE = -2
"""The gap before a late click, whose time is before that of an earlier click: how long the user took is not known.
A gap of 0 would make a bot of each user whose clicks come out of order, as in a backlog that is re-keyed."""

MOST_GAP_MS = 2**31 - 1
"""24 days."""

ITEM_NATS, GAP_MS = "item_nats", "gap_ms"
LISTS = (
    Tensor(ITEM_NATS, (LAST,), "int16"),
    Tensor("event_nats", (LAST,), "int16"),
    Tensor(GAP_MS, (LAST,), "int32"),
)
"""Fields of a row, newest first, as in Windows. Entries of clicks that the user has not made are 0."""

SESSION, RUN = Tensor("session_clicks", (), "int32"), Tensor("category_run", (), "int32")
TWINS, GAPS, LOGS, SQUARES = (
    Tensor("session_twins", (), "int32"),
    Tensor("gaps", (), "int32"),
    Tensor("gap_logs", (), "int64"),
    Tensor("gap_log_squares", (), "int64"),
)
EXCESS = Tensor("excess_nats", (), "int64")
SUMS = (SESSION, TWINS, GAPS, LOGS, SQUARES)
WINDOWS = (*LISTS, SESSION, RUN, *SUMS[1:], EXCESS)
"""Fields of a row: the lists, and sums over the session, as in Windows and `add_excess`."""

CLOCK_MS = 20.0
"""Added to gaps before their logarithm: many producers have a coarser clock."""

TWIN_MS = 1_000


class Windows(NamedTuple):
    """The last clicks of n users, each after one click, newest first. Only those of the session count.

    A window that went back to earlier sessions would be full for old users and short for new ones. A worker that
    starts without states has only new users, so nothing could be compared.

    filled      (n,) int64, clicks of the session in the window, 1 to LAST
    item_nats   (n, LAST) int16, -log of the p-value of the item's surprise, in 1 / PER_NAT nats
    event_nats  (n, LAST) int16, surprise of the event type, in 1 / PER_NAT nats
    gap_ms      (n, LAST) int32, time since the user's click before, NO_GAP before the first, LATE before a late one
    run         (n,) int64, clicks of the session on items of one category in a row, each on another item than the
                LAST - 1 clicks before it
    twins       (n,) int64, clicks of the session that repeat the click before within TWIN_MS
    gaps        (n,) int64, gaps of the session that are known, not counting the one before its first click
    logs        (n,) int64, sum of their `log_gap`, and
    squares     (n,) int64, sum of its squares
    """

    filled: I64
    item_nats: I16
    event_nats: I16
    gap_ms: I32
    run: I64
    twins: I64
    gaps: I64
    logs: I64
    squares: I64


def stored(nats: npt.NDArray[np.floating]) -> I16:
    """Convert nats (n,) to what a row stores."""
    whole: I16 = np.rint(np.minimum(nats, MOST_NATS) * PER_NAT).astype(np.int16)
    return whole


def log_gap(gap_ms: npt.NDArray[np.integer]) -> I64:
    """Convert gaps of any shape to whole numbers: log(ms + CLOCK_MS) in 1 / PER_NAT."""
    found: I64 = np.rint(np.log(np.maximum(gap_ms, 0) + CLOCK_MS) * PER_NAT).astype(np.int64)
    return found


class Sequence:
    """Where the n clicks of a batch stand among the clicks of their m users.

    owner  (n,) intp, the user of each click; the clicks of a user are in order
    """

    def __init__(self, owner: Index, users: int) -> None:
        counts = np.bincount(owner, minlength=users)
        turn, self._by_owner, self._owner = np.zeros(len(owner), np.intp), np.arange(len(owner)), owner
        if counts.max(initial=0) > 1:
            self._by_owner = np.argsort(owner, kind="stable")
            turn[self._by_owner] = np.arange(len(owner)) - np.repeat(counts.cumsum() - counts, counts)
        self._first = turn == 0
        ends = (counts + LAST).cumsum()  # each user has a window and then the new clicks, oldest first
        begins = ends - counts - LAST
        back = np.arange(LAST)
        self._before = begins[:, None] + back
        self._own = begins[owner] + LAST + turn
        self._windows = self._own[:, None] - back
        self._after = ends[:, None] - 1 - back

    def windows(self, before: npt.NDArray[T], values: npt.NDArray[np.generic]) -> tuple[npt.NDArray[T], npt.NDArray[T]]:
        """The window after each click (n, LAST), and each user's window at the end (m, LAST), newest first.

        before  (m, LAST) the windows before the batch
        values  (n,) the values of the clicks
        """
        every = np.empty(self._before.size + len(values), before.dtype)
        every[self._before] = before[:, ::-1]
        every[self._own] = values
        return every[self._windows], every[self._after]

    def sums(self, before: I64, starts: Bools, values: I64) -> tuple[I64, I64]:
        """Sum the values since each click's last start (n, K), both included, and each user's sums at the end (m, K).

        before  (m, K) the sums before the batch
        starts  (n,) bool
        values  (n, K)
        """
        order, at = self._by_owner, np.arange(len(starts))
        restarted, ordered = starts[order], values[order]
        last = np.maximum.accumulate(np.where(restarted | self._first[order], at, 0))
        running = ordered.cumsum(0)
        earlier = np.where(restarted[last][:, None], 0, before[self._owner[order]])
        sums, after = np.empty_like(values), before.copy()
        sums[order] = running - running[last] + ordered[last] + earlier
        after[self._owner] = sums  # of several values of a user, numpy writes the last one
        return sums, after


def starts_of(clicks_before: I64, gap_ms: I64) -> Bools:
    """Whether each click (n,) starts a session. clicks_before, gap_ms: as in `Evidence`"""
    starts: Bools = (clicks_before == 0) | starts_session(gap_ms)
    return starts


def slide(
    before: Mapping[str, npt.NDArray[Any]],
    rows: Rows,
    sequence: Sequence,
    starts: Bools,
    item_nats: F64,
    event_nats: F32,
    gap_ms: I64,
    begins: Bools,
    same_item: Bools,
) -> Windows:
    """Add n clicks to the windows of their users' rows. Returns the windows after each click.

    before         the windows of the rows before the batch, by the name of the field, each (m, LAST)
    rows           (m,) the rows after it: their windows are written, and `clicks` is read
    sequence       of the clicks
    starts         (n,) bool, the click starts a session
    item_nats, event_nats  (n,) nats
    gap_ms         (n,) int64, NO_GAP before a user's first click, LATE before a late one
    begins         (n,) bool, the click does not go on with a run of items of one category
    same_item      (n,) bool, it is on the item of the user's click before
    """
    lists: list[npt.NDArray[Any]] = []
    empty = np.arange(LAST) >= rows["clicks"][:, None]  # a user who was forgotten within the batch
    columns = (stored(item_nats), stored(event_nats), np.minimum(gap_ms, MOST_GAP_MS))
    for field, values in zip(LISTS, columns, strict=True):
        windows, after = sequence.windows(before[field.name], values)
        after[empty] = 0
        rows[field.name] = after
        lists.append(windows)
    real = ~starts & (gap_ms >= 0)  # the gap before a session's first click is not one of the session
    twin = same_item & real & (gap_ms <= TWIN_MS)
    logs, ones = np.where(real, log_gap(gap_ms), 0), np.ones(len(starts), np.int64)
    of_session = np.stack([ones, twin, real, logs, logs**2], axis=1)
    found: list[I64] = []
    for fields, restarts, each in (((RUN,), starts | begins, ones[:, None]), (SUMS, starts, of_session)):
        earlier = np.stack([before[field.name] for field in fields], axis=1).astype(np.int64)
        sums, now = sequence.sums(earlier, restarts, each)
        for field, column in zip(fields, now.T, strict=True):
            rows[field.name] = np.where(rows["clicks"] > 0, column, 0)
        found += list(sums.T)
    (items, events, between), (run, clicks, twins, count, total, squares) = lists, found
    return Windows(np.minimum(clicks, LAST), items, events, between, run, twins, count, total, squares)


def add_excess(before: Mapping[str, npt.NDArray[Any]], rows: Rows, sequence: Sequence, starts: Bools, more: I64) -> I64:
    """Add `more` (n,) to the sums of the clicks' sessions. Returns the sums (n,), with that of the click itself.

    The other arguments are those of `slide`.
    """
    sums, now = sequence.sums(before[EXCESS.name][:, None], starts, more[:, None])
    rows[EXCESS.name] = np.where(rows["clicks"] > 0, now[:, 0], 0)
    return sums[:, 0]
