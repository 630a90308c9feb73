"""Follows the session of each user in the user's row: when it began, its last click, its clicks by event type, its
summary, what its end would be, and what was predicted of it.

A session ends after SESSION_GAP_MS without a click of the user. Either the user's next click comes after such a pause,
or the partition's time has moved on by so much since the user's last click, rounded up to a whole minute (`sessions.
ends`). A click that comes after the end, but whose own time is not late enough for a new session, revises the session.

The rule that must not break: a session depends only on the clicks of the partition and their order, never on the batch.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.detect.detector import Evidence, Fields
from stream.detect.tail import F32
from stream.detect.windows import Bools
from stream.manifest import Tensor
from stream.model.gaps import SESSION_GAP_MS, starts_session
from stream.sessions.summary import Clicks, Running, Summary, summary_fields
from stream.sessions.unusual import EndCalibration, Ending, largest_so_far, running
from stream.state.row import Index, Rows
from stream.state.seen import MINUTE_MS, minute

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

SEEN = "seen_ms"
NAMES = ("session_offset", "session_start_ms", "session_last_ms", "session_revision", "session_types")
"""The fields of a row, in the order of the fields of Sessions."""

FORECAST = Tensor("session_forecast", (4,), "float32")
"""The field of a row with what was predicted of the session, if the model predicts what a user does next."""

GAP_MINUTES = SESSION_GAP_MS // MINUTE_MS


class Sessions(NamedTuple):
    """n sessions, each as of one moment.

    offset    (n,) int64, offset of the first click in its partition
    start_ms  (n,) int64, time of the first click, ms since the epoch
    last_ms   (n,) int64, the largest time of a click
    revision  (n,) int32, how often it had ended before, and a late click then went on with it
    types     (n, T + 1) int32, its clicks by event type; the last column counts those of unknown types
    ending    what their ends would be; None if the model does not score ends
    forecast  (n, 4) float32, what the model predicted: the intent after the first click, the highest one, and the
              intent and the return after the last click; None if it predicts nothing
    summary   the rest of what they were; None where nobody reads it
    """

    offset: I64
    start_ms: I64
    last_ms: I64
    revision: I32
    types: I32
    ending: Ending | None = None
    forecast: F32 | None = None
    summary: Summary | None = None

    @classmethod
    def of(cls, rows: Fields | Rows, which: Index) -> "Sessions":
        """The sessions in the rows at the positions `which`."""
        offset, start_ms, last_ms, revision, types = (rows[name][which] for name in NAMES)
        names = rows.dtype.names or () if isinstance(rows, np.ndarray) else rows
        forecast = rows[FORECAST.name][which] if FORECAST.name in names else None
        ending, summary = Ending.of(rows, which), Summary.of(rows, which)
        return cls(offset, start_ms, last_ms, revision, types, ending, forecast, summary)

    def then(self, others: "Sessions") -> "Sessions":
        """These sessions and then the others."""
        pairs = zip(self.columns(), others.columns(), strict=True)
        offset, start_ms, last_ms, revision, types = (np.concatenate(pair) for pair in pairs)
        ending = None if self.ending is None or others.ending is None else self.ending.then(others.ending)
        forecast = None
        if self.forecast is not None and others.forecast is not None:
            forecast = np.concatenate([self.forecast, others.forecast])
        summary = None if self.summary is None or others.summary is None else self.summary.then(others.summary)
        return Sessions(offset, start_ms, last_ms, revision, types, ending, forecast, summary)

    def take(self, which: Index) -> "Sessions":
        """Select the sessions at the positions `which`."""
        offset, start_ms, last_ms, revision, types = (column[which] for column in self.columns())
        forecast = None if self.forecast is None else self.forecast[which]
        ending, summary = self.ending and self.ending.take(which), self.summary and self.summary.take(which)
        return Sessions(offset, start_ms, last_ms, revision, types, ending, forecast, summary)

    def columns(self) -> list[npt.NDArray[Any]]:
        """All but `ending`, `forecast` and `summary`."""
        return [self.offset, self.start_ms, self.last_ms, self.revision, self.types]


def session_fields(event_types: int, ends: EndCalibration | None, ahead: bool = False) -> tuple[Tensor, ...]:
    """The fields of a row.

    event_types  T, the number of event types that the model knows
    ends         None if the model does not score ends
    ahead        whether the model predicts what a user does next
    """
    kinds = ("int64", "int64", "int64", "int32", "int32")
    shapes = ((), (), (), (), (event_types + 1,))
    more = (*summary_fields(event_types), *(() if ends is None else ends.row_fields), *((FORECAST,) if ahead else ()))
    return (*map(Tensor, NAMES, shapes, kinds), *more)


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
    ending    what the end of the session would be after each click; None if the model does not score ends
    forecast  as in Sessions, after each click
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
        self.ending: Ending | None = None
        self.forecast: F32 | None = None
        self._running: Running | None = None
        revised = (self.over & ~self.starts).astype(np.int32)
        types = np.zeros((len(order) + 1, event_types + 1), np.int32)
        types[at + 1, seen.event_type[order]] = 1
        self._types, self._revised = types.cumsum(0, dtype=np.int32), np.append(0, revised).cumsum(dtype=np.int32)

    def running(self, item: I32, surprise: F32) -> Ending:
        """What the sessions have of items and surprise with each click (n,), in the order of the users, not yet scored.

        item, surprise  (n,) of the clicks, in their order
        """
        order = self.by_user
        return running(item[order], surprise[order], self._begin, self._goes_on(), self.owner, self._before)

    @property
    def in_session(self) -> I64:
        """(n,) the clicks of the session so far, with this one."""
        begin = self._begin
        were = self._before["session_types"][self.owner].sum(1)
        return np.arange(len(begin)) - begin + 1 + np.where(self._goes_on(), were, 0)

    def summarise(self, clicks: Clicks) -> None:
        """Set what the summaries of the sessions read of the clicks (n,), in the order of the users."""
        self._running = Running(clicks, self._begin, self._goes_on(), self.owner, self._before)

    def _goes_on(self) -> Bools:
        """(n,) bool, the session of the click began before the n clicks."""
        found: Bools = self.first[self._begin] & ~self.starts[self._begin]
        return found

    def earlier(self, event_type: I64) -> I64:
        """How many clicks of this type (n,) the session had before each click (n,), in the order of the users."""
        before = self._types[np.arange(len(event_type)), event_type] - self._types[self._begin, event_type]
        were = self._before[NAMES[-1]][self.owner, event_type]
        found: I64 = before + np.where(self._goes_on(), were, 0)
        return found

    def score(self, ending: Ending, nats: F32, episode: I64) -> None:
        """Set what the ends of the sessions would be.

        ending  as `running` returns it
        nats, episode  (n,) of the clicks, in their order, as in Ending
        """
        self.ending = ending._replace(nats=nats[self.by_user], episode=episode[self.by_user])

    def foresee(self, intent: F32, returns: F32) -> None:
        """Set what is predicted after each click (n,), in the order of the users."""
        goes_on, were = self._goes_on(), self._before[FORECAST.name][self.owner]
        first = np.where(goes_on, were[:, 0], intent[self._begin])
        highest = largest_so_far(intent, self._begin)
        highest = np.where(goes_on, np.maximum(were[:, 1], highest), highest)
        self.forecast = np.stack([first, highest, intent, returns], axis=1)

    def after(self, clicks: Index) -> Sessions:
        """The session of each click as it is after the click, without a summary.

        clicks  (k,) positions in the order of the users
        """
        begin, user = self._begin[clicks], self.owner[clicks]
        goes_on = self.first[begin] & ~self.starts[begin]  # with the session in the user's row
        ends = np.stack([begin, clicks + 1], axis=1).ravel()
        last_ms = np.maximum.reduceat(np.append(self._time_ms, 0), ends)[::2] if len(clicks) else begin
        types, revision = self._types[clicks + 1] - self._types[begin], self._revised[clicks + 1] - self._revised[begin]
        was_offset, was_start_ms, was_last_ms, was_revision, were_types = (self._before[name][user] for name in NAMES)
        return Sessions(
            np.where(goes_on, was_offset, self._offset[begin]),
            np.where(goes_on, was_start_ms, self._time_ms[begin]),
            np.where(goes_on, np.maximum(was_last_ms, last_ms), last_ms),
            np.where(goes_on, was_revision, 0) + revision,
            types + np.where(goes_on[:, None], were_types, 0),
            self.ending and self.ending.take(clicks),
            None if self.forecast is None else self.forecast[clicks],
        )

    def whole(self, clicks: Index) -> Sessions:
        """As `after`, with the summary. Call `summarise` before it."""
        sessions = self.after(clicks)
        assert self._running is not None
        return sessions._replace(summary=self._running.after(clicks, sessions.start_ms))

    def write(self, rows: Rows) -> None:
        """Write the sessions after the last click of each user to the m rows."""
        last = np.flatnonzero(np.append(self.first[1:], True)[: len(self.owner)])
        user, now = self.owner[last], self.whole(last)
        stays = rows["clicks"][user] > 0  # else the user has begun again, with a click that failed
        rows[SEEN][user] = np.where(stays, self.seen_ms[last], 0)
        for name, values in zip(NAMES, now.columns(), strict=True):
            rows[name][user] = values * (stays if values.ndim == 1 else stays[:, None])
        assert now.summary is not None
        now.summary.write(rows, user, stays)
        if now.ending is not None:
            now.ending.write(rows, user, stays)
        if now.forecast is not None:
            rows[FORECAST.name][user] = np.where(stays[:, None], now.forecast, np.float32(0))
