"""What came after each click of a log: the labels of the behaviour head (network.py).

A log ends while users are still there. So a label can be unknown: nobody saw what came after the end. An unknown label
is left out, and is never read as "nothing came".
"""

from typing import NamedTuple

import numpy as np

from export.ahead.counters import session_begins
from export.arrays import I32, I64, Flags
from stream.model.gaps import SESSION_GAP_MS

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
EDGES_MS = (
    10 * SECOND, 30 * SECOND, MINUTE, 2 * MINUTE, 5 * MINUTE, SESSION_GAP_MS, HOUR, 3 * HOUR, 8 * HOUR, 16 * HOUR, DAY,
    36 * HOUR, 2 * DAY, 3 * DAY, 7 * DAY, 14 * DAY,
)  # fmt: skip
"""Ends of the buckets of the time to the next click. One of them is the pause that ends a session."""

LEFT_AFTER = EDGES_MS.index(SESSION_GAP_MS) + 1
"""Buckets that pass before a user has left the session."""

RETURN_AFTER = EDGES_MS.index(7 * DAY) + 1
"""Buckets that pass before a user has not come back within 7 days."""

UNKNOWN = -1


class Upcoming(NamedTuple):
    """What came after each of n clicks.

    next_type  (n,) int64, event type of the next click of the session; `event_types` + 1 = the user left the session;
               UNKNOWN = the log ends earlier
    passed     (n,) int64, buckets of EDGES_MS that passed completely without a click, as far as the log says
    clicked    (n,) bool, True if the next click is in the bucket `passed`, False if the log or the last bucket ends
    returned   (n,) int64, 1 if the user left with this click and came back within 7 days, 0 if not; UNKNOWN = the user
               did not leave, or the log ends earlier, even if the user came back soon: who did not is unknown there
    intent     (n,) int64, 1 if a later click of the session has the intent's event type, else 0; UNKNOWN = the session
               may go on after the end of the log, or there is no such event type
    """

    next_type: I64
    passed: I64
    clicked: Flags
    returned: I64
    intent: I64

    def where(self, keep: Flags | I64) -> "Upcoming":
        """The labels where keep (n,) is True, or at the rows `keep` (m,)."""
        return Upcoming._make(column[keep] for column in self)


def upcoming(
    user: I32,
    time_ms: I64,
    event_type: I32,
    event_types: int,
    intent: int | None,
    until_ms: int,
    over_ms: int = SESSION_GAP_MS,
) -> Upcoming:
    """The labels of n clicks, sorted by (user, time).

    event_types  number of known event types; an unknown one has this index
    intent       index of the intent's event type; None = none
    until_ms     time at which the log ends: later clicks are not known
    over_ms      a session without a click in the last over_ms of the log counts as over. Less than SESSION_GAP_MS is
                 a guess, for logs that are too short to know
    """
    n = len(user)
    follows = np.append(user[1:] == user[:-1], False)
    following = np.minimum(np.arange(n) + 1, n - 1)
    waited = np.where(follows, time_ms[following], until_ms) - time_ms
    left = waited >= np.where(follows, SESSION_GAP_MS, over_ms)
    next_type = np.where(follows, event_type[following], UNKNOWN).astype(np.int64)
    next_type[left] = event_types + 1
    next_type[time_ms > until_ms - over_ms] = UNKNOWN  # here only the quick clicks are known, and nobody who left
    passed = np.searchsorted(np.array(EDGES_MS), waited, "right")
    clicked = follows & (passed < len(EDGES_MS))
    returned = (clicked & (passed < RETURN_AFTER)).astype(np.int64)
    returned[(next_type != event_types + 1) | (time_ms > until_ms - EDGES_MS[RETURN_AFTER - 1])] = UNKNOWN
    label = np.full(n, UNKNOWN, np.int64)
    if intent is not None:
        begins = session_begins(user, time_ms)
        session = np.cumsum(begins) - 1
        ends = np.append(np.flatnonzero(begins)[1:], n) - 1
        so_far = np.cumsum(event_type == intent)
        later = so_far[ends][session] > so_far
        label = np.where(left[ends][session], later.astype(np.int64), UNKNOWN)
    return Upcoming(next_type, passed, clicked, returned, label)
