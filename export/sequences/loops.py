"""Where sessions begin and end, and where they go in circles.

A loop is a step, another one, and the first one again (A, B, A); rare values, which are one step, make no loop as A. A
session returns to an item, or a category, if it has clicks on it, then on another one, and then on it again; what the
steps are makes no difference to that.
"""

from typing import Any

import numpy as np

from export.arrays import F64, I32, I64
from export.log.log import Log
from export.sequences.chain import Chain
from export.sequences.intervals import Shares, as_list
from export.sequences.steps import Part, Steps


class Ends:
    """Counts the first step and the last step of sessions."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._first, self._last = Shares(len(steps)), Shares(len(steps))

    def add(self, part: Part) -> None:
        """Add a part of the log."""
        owner = part.owner()
        sessions = np.bincount(owner)
        self._first.add(part.step[part.first_step[:-1]], owner, sessions)
        self._last.add(part.step[part.first_step[1:] - 1], owner, sessions)

    def figures(self, show: int) -> dict[str, list[dict[str, Any]]]:
        """entry and exit: the `show` most frequent first and last steps, with their shares of the sessions."""
        names = self._steps.names
        return {
            name: [{"step": names[kind], **one} for kind, one in most(shares, show)]
            for name, shares in (("entry", self._first), ("exit", self._last))
        }


class Loops:
    """Counts the loops A, B, A of steps."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._any, self._kinds = Shares(1), Shares(len(steps) ** 2)
        self._times = np.zeros(len(steps) ** 2, np.int64)

    def add(self, part: Part) -> None:
        """Add a part of the log."""
        owner, session = part.owner(), part.session_of_step()
        sessions, size = np.bincount(owner), len(self._steps)
        again = (part.step[2:] == part.step[:-2]) & (session[2:] == session[:-2])
        if self._steps.other is not None:
            again &= part.step[2:] != self._steps.other
        at = np.flatnonzero(again)
        loop = part.step[at] * size + part.step[at + 1]
        self._times += np.bincount(loop, minlength=size * size)
        which, kind = np.divmod(np.unique(session[at] * (size * size) + loop), size * size)
        self._kinds.add(kind, owner[which], sessions)
        which = np.unique(which)
        self._any.add(np.zeros(len(which), np.int64), owner[which], sessions)

    def figures(self, chain: Chain, show: int) -> dict[str, Any]:
        """Sessions with a loop, and the `show` loops that the most sessions have.

        times     how often the loop occurs, also several times in a session
        expected  how often it would occur if the chain's share of A after B held after A, B, too
        """
        size, names, share = len(self._steps), self._steps.names, chain.shares()
        loops = []
        for kind, one in most(self._kinds, show):
            a, b = divmod(kind, size)
            expected = float(chain.count[a, b] * share[b, a])
            loops.append(
                {"steps": [names[a], names[b], names[a]], "times": int(self._times[kind]), "expected": expected, **one}
            )
        return {**whole(self._any), "loops": loops}


class Returns:
    """Counts the sessions that return to a value of a column after another value.

    names  the values; a click without a value, -1, is left out as if it were not there
    """

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._any, self._kinds = Shares(1), Shares(len(names))

    def add(self, part: Part, column: I32) -> None:
        """Add a part of the log. column (m,): the column of the part"""
        owner = part.owner()
        sessions = np.bincount(owner)
        session = np.repeat(np.arange(len(part.user)), np.diff(part.begin))[column >= 0]
        value = column[column >= 0].astype(np.int64)
        run = np.flatnonzero(np.append(True, (value[1:] != value[:-1]) | (session[1:] != session[:-1]))[: len(value)])
        pair, runs = np.unique(session[run] * len(self._names) + value[run], return_counts=True)
        which, kind = np.divmod(pair[runs > 1], len(self._names))
        self._kinds.add(kind, owner[which], sessions)
        which = np.unique(which)
        self._any.add(np.zeros(len(which), np.int64), owner[which], sessions)

    def figures(self, show: int) -> dict[str, Any]:
        """Sessions that return to any value, and the `show` values to which the most sessions return."""
        return {**whole(self._any), "most": [{"name": self._names[at], **one} for at, one in most(self._kinds, show)]}


def returns_of(log: Log) -> dict[str, Returns]:
    """What is counted of a log: returns to items and, if the log has categories, to categories."""
    return {"item": Returns(log.items)} | ({} if log.category is None else {"category": Returns(log.categories)})


def whole(shares: Shares) -> dict[str, Any]:
    """The figures of shares of one kind."""
    return _one(shares.hits, shares.share(), shares.interval(), 0)


def most(shares: Shares, show: int) -> list[tuple[int, dict[str, Any]]]:
    """The `show` kinds that the most sessions have, with their figures; kinds that no session has are left out."""
    share, interval = shares.share(), shares.interval()
    kinds = np.argsort(-shares.hits, kind="stable")[:show]
    return [(kind, _one(shares.hits, share, interval, kind)) for kind in kinds.tolist() if shares.hits[kind]]


def _one(hits: I64, share: F64, interval: F64, kind: int) -> dict[str, Any]:
    return {"sessions": int(hits[kind]), "share": float(share[kind]), "share_95": as_list(interval[kind])}
