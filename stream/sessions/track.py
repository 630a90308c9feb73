"""Follows the session of each user: when it began, its last click, and its clicks by event type, in the user's row.

A session ends after SESSION_GAP_MS without a click of the user. Either the user's next click comes after such a pause,
or the partition's time has moved on by so much since the user's last click, rounded up to a whole minute (`sessions.
ends`). A click that comes after the end, but whose own time is not late enough for a new session, revises the session.

The rule that must not break: a session depends only on the clicks of the partition and their order, never on the batch.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.detect.detector import Evidence, Fields
from stream.detect.windows import Bools
from stream.manifest import Tensor
from stream.model.gaps import SESSION_GAP_MS, starts_session
from stream.state.row import Index, Rows
from stream.state.seen import MINUTE_MS, minute

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

SEEN = "seen_ms"
NAMES = ("session_offset", "session_start_ms", "session_last_ms", "session_revision", "session_types")
"""The fields of a row, in the order of the fields of Sessions."""

GAP_MINUTES = SESSION_GAP_MS // MINUTE_MS


class Sessions(NamedTuple):
    """n sessions, each as of one moment.

    offset    (n,) int64, offset of the first click in its partition
    start_ms  (n,) int64, time of the first click, ms since the epoch
    last_ms   (n,) int64, the largest time of a click
    revision  (n,) int32, how often it had ended before, and a late click then went on with it
    types     (n, T + 1) int32, its clicks by event type; the last column counts those of unknown types
    """

    offset: I64
    start_ms: I64
    last_ms: I64
    revision: I32
    types: I32

    @classmethod
    def of(cls, rows: Fields | Rows, which: Index) -> "Sessions":
        """The sessions in the rows at the positions `which`."""
        return cls._make(rows[name][which] for name in NAMES)

    def then(self, others: "Sessions") -> "Sessions":
        """These sessions and then the others."""
        return Sessions._make(np.concatenate([one, other]) for one, other in zip(self.all(), others.all(), strict=True))

    def take(self, which: Index) -> "Sessions":
        """Select the sessions at the positions `which`."""
        return Sessions._make(column[which] for column in self.all())

    def all(self) -> list[npt.NDArray[np.signedinteger[Any]]]:
        """All columns."""
        return list(self)


def session_fields(event_types: int) -> tuple[Tensor, ...]:
    """The fields of a row. event_types: T, the number of event types that the model knows."""
    kinds = ("int64", "int64", "int64", "int32", "int32")
    shapes = ((), (), (), (), (event_types + 1,))
    return tuple(map(Tensor, NAMES, shapes, kinds))


def due(seen_ms: I64) -> I64:
    """The minute of the partition's time (n,) with which the session of a user ends, last seen at a time (n,)."""
    return minute(seen_ms) + GAP_MINUTES


class Track:
    """The sessions of m users while they make n decided clicks. The clicks of a user are in order.

    by_user   (n,) intp, the clicks in the order of the users, and of each user in time. All others are in this order:
    owner     (n,) intp, the user of each click
    first     (n,) bool, the user's first click among the n
    starts    (n,) bool, the click starts a session
    seen_ms   (n,) int64, time of the partition with the click
    was_seen  (n,) int64, the same of the user's click before, maybe of an earlier batch; 0 = none
    over      (n,) bool, the session of the user's click before has ended by the partition's time, or there is none
    """

    def __init__(self, seen: Evidence, now_ms: I64, before: Fields, event_types: int) -> None:
        """now_ms  (n,) int64, time of the partition with each click. before: the fields of the m rows before them"""
        self.by_user = order = np.argsort(seen.owner, kind="stable")
        self.owner, self.seen_ms = seen.owner[order], now_ms[order]
        self.first = np.append(True, self.owner[1:] != self.owner[:-1])[: len(order)]
        self.starts: Bools = ((seen.clicks_before == 0) | starts_session(seen.gap_ms))[order]
        self.was_seen = np.append(0, self.seen_ms[:-1])[: len(order)]
        self.was_seen[self.first] = before[SEEN][self.owner[self.first]]
        self.over: Bools = due(self.was_seen) <= self.seen_ms // MINUTE_MS
        self._before, self._offset, self._time_ms = before, seen.offset[order], seen.time_ms[order]
        at = np.arange(len(order))
        self._begin = np.maximum.accumulate(np.where(self.starts | self.first, at, 0))
        revised = (self.over & ~self.starts).astype(np.int32)
        types = np.zeros((len(order) + 1, event_types + 1), np.int32)
        types[at + 1, seen.event_type[order]] = 1
        self._types, self._revised = types.cumsum(0, dtype=np.int32), np.append(0, revised).cumsum(dtype=np.int32)

    def after(self, clicks: Index) -> Sessions:
        """The session of each click as it is after the click. clicks: (k,) positions in the order of the users"""
        begin, user = self._begin[clicks], self.owner[clicks]
        goes_on = self.first[begin] & ~self.starts[begin]  # with the session in the user's row
        ends = np.stack([begin, clicks + 1], axis=1).ravel()
        last_ms = np.maximum.reduceat(np.append(self._time_ms, 0), ends)[::2] if len(clicks) else begin
        types, revision = self._types[clicks + 1] - self._types[begin], self._revised[clicks + 1] - self._revised[begin]
        were = Sessions.of(self._before, user)
        return Sessions(
            np.where(goes_on, were.offset, self._offset[begin]),
            np.where(goes_on, were.start_ms, self._time_ms[begin]),
            np.where(goes_on, np.maximum(were.last_ms, last_ms), last_ms),
            np.where(goes_on, were.revision, 0) + revision,
            types + np.where(goes_on[:, None], were.types, 0),
        )

    def write(self, rows: Rows) -> None:
        """Write the sessions after the last click of each user to the m rows."""
        last = np.flatnonzero(np.append(self.first[1:], True)[: len(self.owner)])
        user, now = self.owner[last], self.after(last)
        stays = rows["clicks"][user] > 0  # else the user has begun again, with a click that failed
        rows[SEEN][user] = np.where(stays, self.seen_ms[last], 0)
        for name, values in zip(NAMES, now.all(), strict=True):
            rows[name][user] = values * (stays if values.ndim == 1 else stays[:, None])
