"""The funnel: how many sessions and users reach each stage, after the stages before it, and how long that takes.

A session reaches a stage with its first click of that event type after the click with which it reached the stage
before. A user reaches a stage in the same way with all clicks in the order of time, whichever sessions they are in.
"""

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

from export.arrays import F64, I32, I64, Flags
from export.log.log import Log
from export.sequences.intervals import Shares, as_list
from export.sequences.steps import Part
from stream.errors import ConfigError
from stream.guess.names import TYPES, plain

KNOWN = ("view", "cart", "purchase")
"""The stages of a shop, in this order. The usual names of each are in stream/guess/names.py."""

SHOWN = 10
"""Maximum event types that a message lists."""


def stages_of(log: Log, named: str | None) -> list[int]:
    """The stages as event types of the log: those that are named, by commas, or else those of KNOWN that it has.

    Returns an empty list if nothing is named and the log has fewer than two of KNOWN.
    Raises ConfigError if a named one is not in the log, or if fewer than two are named.
    """
    counts = np.bincount(log.event_type, minlength=len(log.event_types))
    if named is None:
        found = []
        for stage in KNOWN:
            alike = [i for i, name in enumerate(log.event_types) if counts[i] and plain(name) in TYPES[stage]]
            found += sorted(alike, key=lambda i: -counts[i])[:1]
        return found if len(found) > 1 else []
    names = [name for part in named.split(",") if (name := part.strip())]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"--stages {named}: give two or more different event types, such as view,cart,purchase")
    there = [name for i, name in enumerate(log.event_types) if counts[i]]
    for name in names:
        if name not in there:
            raise ConfigError(f"--stages {named}: the log has no event type {name!r}; {nearest(name, there)}")
    return [log.event_types.index(name) for name in names]


def nearest(name: str, there: Sequence[str]) -> str:
    """A hint: the name that is most like `name`, or all names."""
    alike = {plain(one): one for one in reversed(there)}
    close = difflib.get_close_matches(plain(name), alike, n=1)
    if close:
        return f"did you mean {alike[close[0]]!r}?"
    more = "" if len(there) <= SHOWN else f" and {len(there) - SHOWN:,} more"
    return f"it has {', '.join(there[:SHOWN])}{more}"


def reached(event_type: I32, begin: I64, stages: Sequence[int]) -> I64:
    """(s, k) int64, the click with which each of s sessions reaches each of k stages; -1 = it does not reach it.

    event_type  (m,) of the clicks, session after session
    begin       (s + 1,) first click of each session; the last entry is m
    """
    at, clicks = begin[:-1] - 1, np.empty((len(begin) - 1, len(stages)), np.int64)
    for number, stage in enumerate(stages):
        rows = np.append(np.flatnonzero(event_type == stage), len(event_type))
        at = rows[np.minimum(np.searchsorted(rows, at, "right"), len(rows) - 1)]
        at = np.where(at < begin[1:], at, len(event_type))
        clicks[:, number] = np.where(at < len(event_type), at, -1)
    return clicks


class Funnel:
    """Counts a funnel, part after part.

    stages  k event types of the log
    """

    def __init__(self, log: Log, stages: Sequence[int]) -> None:
        self.stages = stages
        self._names = [log.event_types[stage] for stage in stages]
        self._timed = not log.in_order
        count = len(stages)
        self._of_sessions, self._of_users = Shares(count), Shares(count)
        self._with_event = [0] * count
        self._lost = [Shares(1) for _ in stages]
        self._lost_users = [Shares(1) for _ in stages]
        self._taken: list[list[F64]] = [[] for _ in stages]
        self._stayed: list[list[F64]] = [[] for _ in stages]

    def add(self, part: Part) -> I64:
        """Count a part of the log. Returns (s,) int64, how many stages each session reached."""
        clicks = reached(part.event_type, part.begin, self.stages)
        owner = part.owner()
        sessions = np.bincount(owner)
        there = clicks >= 0
        session, stage = np.nonzero(there)
        self._of_sessions.add(stage, owner[session], sessions)
        for number, event_type in enumerate(self.stages):
            rows = np.flatnonzero(part.event_type == event_type)
            self._with_event[number] += len(np.unique(np.searchsorted(part.begin, rows, "right")))
            before = there[:, number - 1] if number else np.ones(len(there), np.bool_)
            _lose(self._lost[number], before, there[:, number], owner)
            if self._timed:
                self._time(part, clicks, number)
        of_user = reached(part.by_time, part.user_begin, self.stages) >= 0
        user, stage = np.nonzero(of_user)
        self._of_users.add(stage, user, np.ones(len(of_user), np.int64))
        for number, lost in enumerate(self._lost_users):
            before = of_user[:, number - 1] if number else np.ones(len(of_user), np.bool_)
            _lose(lost, before, of_user[:, number], np.arange(len(of_user)))
        return np.asarray(there.sum(axis=1))

    def _time(self, part: Part, clicks: I64, number: int) -> None:
        """Keep the times from the stage before to this one, and from this one to the end where nothing followed."""
        here = clicks[:, number]
        came = here >= 0
        before = clicks[:, number - 1] if number else part.begin[:-1]
        self._taken[number].append((part.time_ms[here[came]] - part.time_ms[before[came]]) / 1000)
        if number + 1 < len(self.stages):
            came &= clicks[:, number + 1] < 0
        last = part.begin[1:][came] - 1
        self._stayed[number].append((part.time_ms[last] - part.time_ms[here[came]]) / 1000)

    def figures(self) -> list[dict[str, Any]]:
        """One object for each stage; docs/paths.md explains the fields."""
        found = []
        shares, intervals = self._of_sessions.share(), self._of_sessions.interval()
        for number, name in enumerate(self._names):
            users = self._of_users
            found.append(
                {
                    "stage": name,
                    "sessions": int(self._of_sessions.hits[number]),
                    "share": float(shares[number]),
                    "share_95": as_list(intervals[number]),
                    "with_event": self._with_event[number],
                    "drop_off": _drop_off(self._lost[number]),
                    "users": int(users.hits[number]),
                    "users_share": float(users.share()[number]),
                    "users_share_95": as_list(users.interval()[number]),
                    "users_drop_off": _drop_off(self._lost_users[number]),
                    "seconds_from_stage_before": _quartiles(self._taken[number]),
                    "seconds_to_last_click": _quartiles(self._stayed[number]),
                }
            )
        return found


def _lose(shares: Shares, before: Flags, here: Flags, owner: I64) -> None:
    """Count who is at the stage before and does not reach this one. before, here: (s,) bool."""
    lost = np.flatnonzero(before & ~here)
    shares.add(np.zeros(len(lost), np.int64), owner[lost], np.bincount(owner[before], minlength=int(owner[-1]) + 1))


def _drop_off(lost: Shares) -> dict[str, Any]:
    return {
        "of": lost.of,
        "lost": int(lost.hits[0]),
        "share": float(lost.share()[0]) if lost.of else None,
        "95": as_list(lost.interval()[0]),
    }


def _quartiles(parts: Sequence[F64]) -> list[float] | None:
    """The quartiles of times, s; None if there is no time."""
    values = np.concatenate(parts) if parts else np.zeros(0)
    return [float(value) for value in np.percentile(values, (25, 50, 75))] if len(values) else None
