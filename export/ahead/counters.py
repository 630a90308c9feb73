"""The counters of the clicks of a whole log, as stream/ahead/counters.py has them click by click in production."""

import numpy as np

from export.arrays import F32, I32, I64, Flags
from stream.ahead.counters import NAMES, REMEMBERED, Earlier, count, matrix
from stream.model.gaps import starts_session


def counters_of(user: I32, time_ms: I64, event_type: I32, item: I32, event_types: int) -> F32:
    """The counters after each of n clicks, (n, counters(event_types)) float32.

    user, time_ms, item  (n,) sorted by (user, time)
    event_type           (n,) indices; event_types = unknown
    """
    begins, rows = session_begins(user, time_ms), np.arange(len(user))
    opens = np.maximum.accumulate(np.where(begins, rows, 0))
    new = np.append(True, user[1:] != user[:-1])
    owner, users = np.cumsum(new) - 1, int(new.sum())
    zeros = np.zeros(users, np.int32), np.zeros((users, event_types + 1), np.int32)
    counted = count(owner, new, new, begins, event_type.astype(np.int64), dict(zip(NAMES, zeros, strict=True)))
    is_type = event_type[:, None] == np.arange(event_types + 1)
    in_session = counted.types - (counted.types - is_type)[opens]
    gap_ms = np.where(new, 0, np.diff(time_ms, prepend=0))
    earlier = Earlier(*(np.append(0, column[:-1])[: len(rows)] for column in (gap_ms, event_type)))
    lasted_ms, repeats = time_ms - time_ms[opens], _repeats(item, rows - opens)
    return matrix(counted, in_session, lasted_ms, gap_ms, time_ms, repeats, earlier)


def session_begins(user: I32, time_ms: I64) -> Flags:
    """(n,) bool, True where a click begins a session: a user's first click, and after a pause of half an hour."""
    return np.append(True, (user[1:] != user[:-1]) | starts_session(np.diff(time_ms)))


def _repeats(item: I32, before: I64) -> Flags:
    """(n,) bool, True where the item equals that of one of the last REMEMBERED clicks of the session.

    before  (n,) clicks of the session before this one
    """
    found = np.zeros(len(item), np.bool_)
    for age in range(1, min(REMEMBERED, len(item) - 1) + 1):
        found[age:] |= (item[age:] == item[:-age]) & (before[age:] >= age)
    return found
