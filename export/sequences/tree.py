"""The paths of sessions as a prefix tree, with what a first-order Markov chain explains of them.

Under the chain, the step after a path depends on the path's last step alone. So a path with step y after step x is
tested like this: of the sessions that begin with the path up to x, is the share that goes on to y the same as in all
other places where x occurs? This compares two shares, so it takes into account that the chain is fitted to the same
sessions. Source of the test: Anderson and Goodman 1957, for the order of a Markov chain. For users with many sessions,
the variance of each share is multiplied by its design effect (intervals.py).

A finding is about the last step of a path: what a path inherits from the path before it is not found again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from export.arrays import F64, I64
from export.sequences.chain import Chain
from export.sequences.intervals import adjusted, design_effect, two_sided
from export.sequences.steps import Part

RATE = 0.05
"""The nominal share of false findings among all findings."""

FEWEST = 10
"""A path is tested, and goes on in the tree, if so many sessions begin with it. Its last step and other steps must be
seen as often after the step before. These numbers do not depend on what is tested."""

EXPECTED = 5.0
"""In the other places, the step must be expected so often, and so must another step, so that z is nearly normal."""

I16 = npt.NDArray[np.int16]


class Prefixes:
    """The first steps of each session, collected part after part.

    depth  steps that are kept, 2 or more; the end of a session counts as one
    """

    def __init__(self, kinds: int, depth: int) -> None:
        self._kinds, self._depth = kinds, depth
        self._user: list[I64] = []
        self._step: list[I16] = []

    def add(self, part: Part) -> None:
        """Add a part of the log."""
        length = np.diff(part.first_step)
        step = np.full((len(length), self._depth), -1, np.int16)
        for at in range(self._depth):
            longer = length > at
            step[longer, at] = part.step[part.first_step[:-1][longer] + at]
            step[length == at, at] = self._kinds
        self._user.append(part.user)
        self._step.append(step)

    def user(self) -> I64:
        """(S,) user of each session of the log; the sessions of a user are together."""
        return np.concatenate(self._user)

    def step(self) -> I16:
        """(S, depth) int16: kind of each step, K = the end, -1 = after the end."""
        return np.concatenate(self._step)


class Level(NamedTuple):
    """The p paths of one length.

    parent     (p,) int64, path of the level before: this path without its last step
    last       (p,) int64, last step
    sessions   (p,) int64, sessions that begin with the path
    users      (p,) int64, their users
    residual2  (p,) float64, sum over users of (sessions with the path - chain's share * sessions with the parent)^2
    """

    parent: I64
    last: I64
    sessions: I64
    users: I64
    residual2: F64


def levels(user: I64, step: I16, share: F64) -> Iterator[Level]:
    """The levels of the tree, from the paths of one step on. A path of fewer than FEWEST sessions does not go on.

    user   (S,) as Prefixes.user
    step   (S, depth) as Prefixes.step
    share  (K + 1, K + 1) as Chain.shares
    """
    width, users = len(share), int(user[-1]) + 1
    path, row, last = np.zeros(len(user), np.int64), np.arange(len(user)), np.array([width - 1])
    owned, of_owned = np.unique(user, return_counts=True)  # pairs of path and user, and sessions of each pair
    for at in range(step.shape[1]):
        here = step[row, at]
        path, row, here = path[here >= 0], row[here >= 0], here[here >= 0]
        if not len(row):
            return
        paths, path = np.unique(path * width + here, return_inverse=True)
        parent, step_of = np.divmod(paths, width)
        pair, times = np.unique(path * users + user[row], return_counts=True)
        path_of, owner = np.divmod(pair, users)
        before = of_owned[np.searchsorted(owned, parent[path_of] * users + owner)]
        p = share[last[parent], step_of]
        before2 = np.bincount(owned // users, of_owned * of_owned, len(last))
        residual2 = np.bincount(path_of, times * times - 2.0 * p[path_of] * times * before) + p * p * before2[parent]
        sessions = np.bincount(path)
        yield Level(parent, step_of, sessions, np.bincount(path_of), residual2)
        goes_on = sessions >= FEWEST
        path, row = path[goes_on[path]], row[goes_on[path]]
        owned, of_owned, last = pair, times, step_of


@dataclass(frozen=True)
class Path:
    """A path of the tree.

    steps     kinds of its steps; K = the end
    sessions  sessions that begin with it
    users     users with such sessions
    expected  sessions that the chain expects to begin with it
    before    sessions that begin with the path without its last step
    chain     share of them that takes the last step, by the chain
    p, q      p-value of the test, and the same as a false discovery rate; None = not tested
    """

    steps: tuple[int, ...]
    sessions: int
    users: int
    expected: float
    before: int
    chain: float
    p: float | None
    q: float | None

    @property
    def share(self) -> float:
        """Share of the sessions `before` that takes the last step."""
        return self.sessions / self.before

    @property
    def excess(self) -> float:
        """Sessions that take the last step, beyond those that the chain expects of the path before."""
        return self.sessions - self.before * self.chain

    @property
    def found(self) -> str:
        """more or less, if the chain does not explain the last step; else empty."""
        if self.q is None or self.q > RATE:
            return ""
        return "more" if self.excess > 0 else "less"


class Tree:
    """All paths of the tree in arrays of n, level after level; `parent` is -1 for paths of one step."""

    def __init__(self, user: I64, step: I16, chain: Chain, other: int | None) -> None:
        """other: the step of rare values. What follows it depends on which value it was, so this is not tested."""
        share, end = chain.shares(), chain.kinds
        found = list(levels(user, step, share))
        start = np.cumsum([0, *(len(level.last) for level in found)])
        self.parent = np.concatenate(
            [found[0].parent - 1, *(x.parent + s for x, s in zip(found[1:], start, strict=False))]
        )
        self.last, self.sessions, self.users, residual2 = (
            np.concatenate([getattr(level, name) for level in found]) for name in Level._fields[1:]
        )
        top = self.parent < 0
        source = np.where(top, end, self.last[self.parent])
        self.before = np.where(top, len(user), self.sessions[self.parent])
        self.chain = share[source, self.last]
        self.expected = np.empty(len(top))
        for a, b in pairwise(start.tolist()):
            reach = self.expected[self.parent[a:b]] if a else len(user)
            self.expected[a:b] = reach * self.chain[a:b]
        self.p, self.q = np.full(len(top), np.nan), np.full(len(top), np.nan)
        self._test(chain, source, residual2, ~top & (source != (-1 if other is None else other)))

    def _test(self, chain: Chain, source: I64, residual2: F64, may: npt.NDArray[np.bool_]) -> None:
        """Set p and q of the paths that can be tested. may (n,): the others must not be."""
        places, takes = chain.count.sum(axis=1)[source], chain.count[source, self.last]
        elsewhere = places - self.before
        expected = elsewhere * self.chain
        enough = np.minimum.reduce([self.before, takes, places - takes]) >= FEWEST
        enough &= np.minimum(expected, elsewhere - expected) >= EXPECTED
        at = np.flatnonzero(may & enough)
        share, before, beside = self.chain[at], self.before[at], elsewhere[at]
        effect = design_effect(residual2[at], share, before) / before
        effect += chain.design_effects()[source[at], self.last[at]] / beside
        difference = self.sessions[at] / before - (takes[at] - self.sessions[at]) / beside
        self.p[at] = two_sided(difference / np.sqrt(share * (1 - share) * effect))
        self.q[at] = adjusted(self.p[at])

    @property
    def tested(self) -> int:
        """Number of paths that were tested."""
        return int((~np.isnan(self.p)).sum())

    def found(self) -> I64:
        """The paths that the chain does not explain, those of the most sessions beyond or below its share first."""
        at = np.flatnonzero(np.nan_to_num(self.q, nan=1.0) <= RATE)
        excess = np.abs(self.sessions[at] - self.before[at] * self.chain[at])
        return at[np.argsort(-excess, kind="stable")]

    def most_used(self, count: int) -> I64:
        """The paths of the most sessions, in the order of the tree: a path, then the paths that go on from it."""
        paths = np.argsort(-self.sessions, kind="stable")[:count].tolist()
        rank = {path: place for place, path in enumerate(paths)}

        def places(path: int) -> tuple[int, ...]:
            return () if path < 0 else (*places(int(self.parent[path])), rank[path])

        return np.array(sorted(paths, key=places), np.int64)

    def steps(self, path: int) -> tuple[int, ...]:
        """The kinds of the steps of a path."""
        return () if path < 0 else (*self.steps(int(self.parent[path])), int(self.last[path]))

    def path(self, number: int) -> Path:
        """One path."""
        p, q = (None if np.isnan(values[number]) else float(values[number]) for values in (self.p, self.q))
        return Path(
            self.steps(number),
            int(self.sessions[number]),
            int(self.users[number]),
            float(self.expected[number]),
            int(self.before[number]),
            float(self.chain[number]),
            p,
            q,
        )
