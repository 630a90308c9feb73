"""What a user's row counts, beside the state of the network: the inputs of the behaviour head (network.py).

The rule: the counters of a click depend on the user's clicks up to this one only, and each is kept in constant size per
user. So the worker can have exactly these numbers.
"""

import numpy as np

from export.arrays import F32, I32, I64, Flags
from stream.model.gaps import starts_session

COUNTERS = ("session_clicks", "session_s", "gap_s", "clicks", "sessions", "repeats", "hour")
"""The first columns of the counters.

session_clicks  clicks of the session so far, with this one
session_s       seconds since the session began
gap_s           seconds since the user's click before this one; 0 for the first
clicks          all clicks of the user so far, with this one
sessions        earlier sessions of the user
repeats         1 if the user clicked the item before among the last REMEMBERED clicks of this session, else 0
hour            time of the day in UTC, hours

Then come, for each event type and for the unknown one, its clicks in the session, and its clicks of the user.
"""

REMEMBERED = 10
"""Clicks before this one in which the item is looked for."""

DAY_MS = 86_400_000


def counters_of(user: I32, time_ms: I64, event_type: I32, item: I32, event_types: int) -> F32:
    """The counters after each of n clicks, (n, counters(event_types)) float32.

    user, time_ms, item  (n,) sorted by (user, time)
    event_type           (n,) indices; event_types = unknown
    """
    begins = session_begins(user, time_ms)
    rows = np.arange(len(user))
    first_of_session = np.maximum.accumulate(np.where(begins, rows, 0))
    new_user = np.append(True, user[1:] != user[:-1])
    first_of_user = np.maximum.accumulate(np.where(new_user, rows, 0))
    number = np.cumsum(begins)
    gap = np.where(new_user, 0, np.diff(time_ms, prepend=0))
    columns = [
        rows - first_of_session + 1,
        (time_ms - time_ms[first_of_session]) / 1000,
        gap / 1000,
        rows - first_of_user + 1,
        number - number[first_of_user],
        _repeats(item, rows - first_of_session),
        time_ms % DAY_MS / 3_600_000,
    ]
    is_type = event_type[:, None] == np.arange(event_types + 1)
    so_far = np.cumsum(is_type, axis=0)
    before = so_far - is_type
    in_session, in_all = so_far - before[first_of_session], so_far - before[first_of_user]
    return np.concatenate([np.stack(columns, axis=1), in_session, in_all], axis=1).astype(np.float32)


def counters(event_types: int) -> int:
    """The number of counters of a log with so many event types."""
    return len(COUNTERS) + 2 * (event_types + 1)


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
