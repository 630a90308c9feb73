"""Synthetic timestamps for a log without a time column whose rows are in order: row numbers -> ms since the epoch.

The pauses are those of a usual shop, so that a gap means the same to the model in production: half a minute from click
to click, at least an hour between two sessions of a user. A log of more than 42 million rows gets shorter pauses, so
that it ends before 2100. A model trained on such a log knows nothing about longer pauses.
"""

from typing import Protocol

import numpy as np

from export.arrays import I32, I64
from export.log.spill import Rows, Spool

START_MS = 946_684_800_000  # the year 2000
SPAN_MS = 40 * 365 * 86_400_000
"""Maximum time of all rows, and maximum time of all pauses between sessions; so the last time is in 2080."""

PAUSE_MS = 30_000
SESSION_PAUSE_MS = 3_600_000

SAMPLE = 10_000_000
"""Approximate number of pauses of which the median is computed."""


class Clock(Protocol):
    """Computes synthetic times for the rows of one log file, in their order."""

    def times(self, run: Rows) -> I64:
        """(m,) int64, ms since the epoch. Before, time_ms of a row is its row number. Call it for the runs in order."""


class RowClock:
    """For a log without sessions: equal steps from row to row. The median pause of a user is half a minute."""

    def __init__(self, spool: Spool) -> None:
        pauses = [np.zeros(0, np.int64)]
        for run in spool.by_user():
            run = run[np.argsort(run["user"], kind="stable")]
            between = np.diff(run["time_ms"])[run["user"][1:] == run["user"][:-1]]
            pauses.append(between[:: 1 + len(spool) // SAMPLE])
        between = np.concatenate(pauses)
        usual = float(np.median(between)) if len(between) else 1.0
        self._pause_ms = min(PAUSE_MS / usual, SPAN_MS / len(spool))

    def times(self, run: Rows) -> I64:
        return np.asarray(START_MS + (run["time_ms"] * self._pause_ms).astype(np.int64))


class SessionClock:
    """For a log with sessions: sessions follow each other in the order of their first rows.

    The rows of a session get consecutive times, even if rows of other sessions are between them.
    """

    def __init__(self, spool: Spool) -> None:
        first, owner, size = [], [], []
        for run in spool.by_user():
            session, begins = owned_sessions(run)
            first.append(run["time_ms"][begins])
            owner.append(run["user"][begins])
            size.append(np.bincount(session))
        order = np.argsort(np.concatenate(first))
        self._begins_ms = np.empty(len(order), np.int64)
        self._begins_ms[order], self._pause_ms = session_begins(
            np.concatenate(owner)[order], np.concatenate(size)[order]
        )
        self._done = 0

    def times(self, run: Rows) -> I64:
        session, begins = owned_sessions(run)
        begins_ms = self._begins_ms[self._done : self._done + len(begins)]
        self._done += len(begins)
        order = np.argsort(session, kind="stable")
        size = np.bincount(session)
        position = np.empty(len(run), np.int64)
        position[order] = np.arange(len(run)) - np.repeat(np.cumsum(size) - size, size)
        return np.asarray(begins_ms[session] + position * self._pause_ms)


def session_begins(owner: I32, size: I64) -> tuple[I64, int]:
    """Start time of each session, (S,) int64, ms since the epoch; and the time from click to click, ms.

    owner  (S,) int32, user of each session, in the order of the first rows
    size   (S,) int64, clicks of each session
    """
    pause_ms = max(1, min(PAUSE_MS, SPAN_MS // int(size.sum())))
    row = np.cumsum(size) - size
    by_owner = np.argsort(owner, kind="stable")
    again = owner[by_owner[1:]] == owner[by_owner[:-1]]
    before, after = by_owner[:-1][again], by_owner[1:][again]
    apart = np.zeros(len(size), np.int64)
    apart[after] = np.maximum(0, SESSION_PAUSE_MS - (row[after] - row[before] - size[before] + 1) * pause_ms)
    shrink = min(1.0, SPAN_MS / max(1, int(apart.sum())))
    return START_MS + row * pause_ms + np.cumsum(apart * shrink).astype(np.int64), pause_ms


def owned_sessions(rows: Rows) -> tuple[I64, I64]:
    """The session of each row (m,), numbered by first appearance, and the first row of each session (S,).

    If two users have the same session id, these are two sessions.
    """
    pair = (rows["user"].astype(np.int64) << 32) | (rows["session"].astype(np.int64) + 1)
    _, first, index = np.unique(pair, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank[index], first[order]
