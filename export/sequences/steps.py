"""A log as sessions of steps: parts of whole users, one after the other, so that memory holds one part of the clicks.

A step is what `--by` names: the event type, the category or the item of a click. Clicks with the same step in a row are
one step. A session is the log's own one; without a session column, half an hour without a click ends one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from export.arrays import I32, I64
from export.log.log import Log
from export.log.spill import chunks
from stream.errors import ConfigError

PART = 1 << 20
"""Approximate clicks of a part. A user with more clicks is in one part."""

OTHER, NONE = "(other)", "(none)"
"""The step of all rare values, and that of a click without a value."""


@dataclass(frozen=True)
class Steps:
    """The K kinds of steps.

    by     the field of a click that is a step: event_type, category or item
    names  the K names: the values by descending clicks, then OTHER and NONE if there are such clicks
    code   (values + 1,) int32, value of the log's column -> step; the last entry is for a click without a value
    other  the number of OTHER; None if no value is rare
    clicks (K,) int64, clicks of each step
    """

    by: str
    names: tuple[str, ...]
    code: I32
    other: int | None
    clicks: I64

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Part:
    """The m clicks of some whole users, in the order of their s sessions, which have t steps; arrays are int64.

    user         (s,) user of each session, an index of the log; the sessions of a user are together
    begin        (s + 1,) first click of each session; the last entry is m
    first_step   (s + 1,) first step of each session; the last entry is t
    step         (t,) kind of each step
    step_begin   (t,) first click of each step
    event_type, item, category, time_ms  (m,) as in the log; category is None if the log has none
    user_begin   (u + 1,) first click of each of the u users, also in `by_time`
    by_time      (m,) event type of each user's clicks in the order of time, which differs if sessions overlap
    """

    user: I64
    begin: I64
    first_step: I64
    step: I64
    step_begin: I64
    event_type: I32
    item: I32
    category: I32 | None
    time_ms: I64
    user_begin: I64
    by_time: I32

    def owner(self) -> I64:
        """(s,) int64, number of each session's user within the part, from 0 on."""
        return np.cumsum(np.append(False, self.user[1:] != self.user[:-1]))

    def session_of_step(self) -> I64:
        """(t,) int64, session of each step."""
        return np.repeat(np.arange(len(self.user)), np.diff(self.first_step))


def steps_of(log: Log, by: str, top: int) -> Steps:
    """The steps of a log: the `top` values with the most clicks, and what the rest is joined to.

    Raises ConfigError if the log has no such column.
    """
    column, names = _column(log, by)
    counts, without = np.zeros(len(names), np.int64), 0
    for at in chunks(len(column)):
        values = column[at]
        known = values[values >= 0]
        counts += np.bincount(known, minlength=len(names))
        without += len(values) - len(known)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    kept, rare = order[:top], order[top:]
    named = [names[value] for value in kept.tolist()]
    code, clicks = np.zeros(len(names) + 1, np.int32), [counts[kept]]
    code[kept] = np.arange(len(kept))
    if len(rare):
        code[rare] = len(named)
        named.append(OTHER)
        clicks.append(counts[rare].sum(keepdims=True))
    if without:
        code[-1] = len(named)
        named.append(NONE)
        clicks.append(np.array([without]))
    return Steps(by, tuple(named), code, len(kept) if len(rare) else None, np.concatenate(clicks))


def parts(log: Log, steps: Steps) -> Iterator[Part]:
    """The log in parts of whole users."""
    column, _ = _column(log, steps.by)
    start = 0
    while start < len(log):
        last = log.user[min(start + PART, len(log)) - 1]
        end = int(np.searchsorted(log.user, last, "right"))
        yield _part(log, steps.code[column[start:end]], slice(start, end))
        start = end


def _column(log: Log, by: str) -> tuple[I32, list[str]]:
    if by == "event_type":
        return log.event_type, log.event_types
    if by == "item":
        return log.item, log.items
    if log.category is None:
        raise ConfigError(
            f"log {log.name}: --by {by} needs a column with the category of each item; name it with --category-col or "
            "a mapping, or use another --by"
        )
    return log.category, log.categories


def _part(log: Log, code: I32, at: slice) -> Part:
    session, user = np.asarray(log.session[at]), np.asarray(log.user[at])
    by_time = np.asarray(log.event_type[at])
    order = np.argsort(session, kind="stable")  # sessions of a user may overlap; a session's clicks keep their order
    session, code = session[order], code[order]
    new_session = np.append(True, session[1:] != session[:-1])
    begin = np.flatnonzero(new_session)
    step_begin = np.flatnonzero(new_session | np.append(True, code[1:] != code[:-1]))
    return Part(
        user=user[order[begin]].astype(np.int64),
        begin=np.append(begin, len(session)),
        first_step=np.append(np.searchsorted(step_begin, begin), len(step_begin)),
        step=code[step_begin].astype(np.int64),
        step_begin=step_begin,
        event_type=by_time[order],
        item=log.item[at][order],
        category=None if log.category is None else log.category[at][order],
        time_ms=log.time_ms[at][order],
        user_begin=np.append(np.flatnonzero(np.append(True, user[1:] != user[:-1])), len(user)),
        by_time=by_time,
    )
