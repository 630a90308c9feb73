"""What is counted of a user, to predict what the user does next: the inputs of ahead.onnx.

The rule that must not break: the counters after a click depend only on the user's clicks up to it, never on the batch.
So each is kept in constant size in the user's row, or is made of what the row keeps anyway.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.detect.detector import Fields
from stream.detect.windows import Bools
from stream.manifest import Tensor
from stream.state.row import Index, Rows

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

COUNTERS = ("session_clicks", "session_s", "gap_s", "clicks", "sessions", "repeats", "hour")
"""The first columns of the counters.

session_clicks  clicks of the session so far, with this one
session_s       seconds from the session's first click to its newest one
gap_s           seconds since the user's click before this one; 0 for the first, and for a late one
clicks          all clicks of the user so far, with this one
sessions        earlier sessions of the user
repeats         1 if the user clicked the item before among the last REMEMBERED clicks of this session, else 0
hour            time of the day of the click in UTC, hours

Then come, for each event type and for the unknown one, its clicks in the session, and its clicks of the user. The last
columns are those of EARLIER.
"""

EARLIER = ("gap_before_s", "type_before")
"""What the session's click before this one was; zeros if this one is the session's first.

gap_before_s  seconds between it and the session's click before it; 0 if there is none, or if it was late
type_before   1 + the index of its event type
"""

REMEMBERED = 10
"""Clicks before this one in which the item is looked for."""

DAY_MS, HOUR_MS = 86_400_000, 3_600_000

MOST_TYPES = 16
"""Event types of a model with such a head: a row has four bytes for each of them."""

NAMES = ("ahead_sessions", "ahead_types")
"""The fields of a row, in the order of the fields of Counted."""


def counters(event_types: int) -> int:
    """The number of counters of a model with so many event types."""
    return len(COUNTERS) + 2 * (event_types + 1) + len(EARLIER)


def counter_fields(event_types: int) -> tuple[Tensor, ...]:
    """The fields of a row."""
    return Tensor(NAMES[0], (), "int32"), Tensor(NAMES[1], (event_types + 1,), "int32")


class Counted(NamedTuple):
    """What is counted of n users in all their sessions, each as of one click.

    sessions  (n,) int32, earlier sessions
    types     (n, T + 1) int32, clicks by event type; the last column counts those of unknown types
    """

    sessions: I32
    types: I32

    def write(self, rows: Rows, clicks: Index, user: Index, stays: Bools) -> None:
        """Write those after the clicks at the positions `clicks` to the rows of `user`; zeros where not `stays`."""
        for name, values in zip(NAMES, self, strict=True):
            kept = values[clicks]
            rows[name][user] = kept * (stays if kept.ndim == 1 else stays[:, None])


def count(owner: Index, first: Bools, new: Bools, starts: Bools, event_type: I64, before: Fields) -> Counted:
    """Count n clicks of m users. The clicks are in the order of the users, and of each user in time.

    owner   (n,) intp, the user of each click; first: (n,) bool, the user's first click among the n
    new     (n,) bool, the user's first click of all; starts: (n,) bool, the click starts a session
    before  the fields of the m rows before the clicks
    """
    at = np.arange(len(owner))
    begin = np.maximum.accumulate(np.where(first | new, at, 0))
    goes_on = ~new[begin]
    started = np.append(0, starts & ~new).cumsum(dtype=np.int32)
    sessions, types = (before[name][owner] for name in NAMES)
    is_type = np.zeros((len(owner) + 1, types.shape[1]), np.int32)
    is_type[at + 1, event_type] = 1
    so_far = is_type.cumsum(0, dtype=np.int32)
    return Counted(
        started[at + 1] - started[begin] + np.where(goes_on, sessions, 0),
        so_far[at + 1] - so_far[begin] + np.where(goes_on[:, None], types, 0),
    )


def repeated(recent: I32, session_clicks: I64) -> Bools:
    """(n,) bool, True where the item equals that of one of the last REMEMBERED clicks of the session before this one.

    recent  (n, R) int32, the user's last items, newest first, including the item of the click; R > REMEMBERED
    """
    same = recent[:, 1 : REMEMBERED + 1] == recent[:, :1]
    found: Bools = (same & (np.arange(1, REMEMBERED + 1) < session_clicks[:, None])).any(1)
    return found


class Earlier(NamedTuple):
    """The click of the same user before each of n clicks; any values if there is none.

    gap_ms      (n,) int64, since the user's click before that one; below 0 counts as 0
    event_type  (n,) int64, index; T = unknown
    """

    gap_ms: I64
    event_type: I64


def matrix(
    counted: Counted,
    in_session: I32,
    session_ms: I64,
    gap_ms: I64,
    time_ms: I64,
    repeats: Bools,
    earlier: Earlier,
) -> F32:
    """The counters after each of n clicks, (n, C) float32.

    in_session  (n, T + 1) clicks of the session by event type; session_ms: (n,) from its first click to its newest one
    gap_ms      (n,) since the user's click before; below 0 counts as 0
    """
    out = np.empty((len(time_ms), counters(counted.types.shape[1] - 1)), np.float32)
    out[:, 0] = clicks = in_session.sum(1)
    out[:, 1] = session_ms / 1000
    out[:, 2] = np.maximum(gap_ms, 0) / 1000
    out[:, 3] = counted.types.sum(1)
    out[:, 4] = counted.sessions
    out[:, 5] = repeats
    out[:, 6] = time_ms % DAY_MS / HOUR_MS
    kinds = len(COUNTERS) + in_session.shape[1]
    out[:, len(COUNTERS) : kinds], out[:, kinds : -len(EARLIER)] = in_session, counted.types
    out[:, -2] = np.where(clicks > 2, np.maximum(earlier.gap_ms, 0) / 1000, 0)
    out[:, -1] = np.where(clicks > 1, earlier.event_type + 1, 0)
    return out
