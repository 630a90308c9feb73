"""The first-order Markov chain of the steps of sessions, with a state for the begin and one for the end.

Its share of a step after another one is the share among all places of all sessions. Clicks with the same step in a row
are one step, so no step follows itself; a chain that repeats its steps gives such a chain, too.
"""

import numpy as np

from export.arrays import F64
from export.sequences.intervals import design_effect
from export.sequences.steps import Part


class Chain:
    """Counts what follows what: the transitions of the chain, and their sums over users.

    count  (K + 1, K + 1) int64: row K is the begin of a session, column K its end
    """

    def __init__(self, kinds: int) -> None:
        self.kinds = kinds
        self.count = np.zeros((kinds + 1, kinds + 1), np.int64)
        self._count2, self._both = np.zeros((kinds + 1) ** 2), np.zeros((kinds + 1) ** 2)
        self._from2 = np.zeros(kinds + 1)

    def add(self, part: Part) -> None:
        """Add a part of the log, with whole users."""
        width, owner = self.kinds + 1, part.owner()
        following = np.append(part.step[1:], 0)
        following[part.first_step[1:] - 1] = self.kinds
        before = np.append(np.full(len(part.user), self.kinds), part.step)
        after = np.append(part.step[part.first_step[:-1]], following)
        user = np.append(owner, owner[part.session_of_step()])
        key, count = np.unique((user * width + before) * width + after, return_counts=True)
        pair = key % (width * width)
        sources, which = np.unique(key // width, return_inverse=True)
        of_source = np.bincount(which, count)
        self.count += np.bincount(pair, count, width * width).astype(np.int64).reshape(width, width)
        self._count2 += np.bincount(pair, count * count, width * width)
        self._both += np.bincount(pair, count * of_source[which], width * width)
        self._from2 += np.bincount(sources % width, of_source * of_source, width)

    def shares(self) -> F64:
        """(K + 1, K + 1) float64, share of each next step after each step; 0 after a step that does not occur."""
        return np.asarray(self.count / np.maximum(1, self.count.sum(axis=1, keepdims=True)))

    def design_effects(self) -> F64:
        """(K + 1, K + 1) float64, at least 1."""
        share, shape = self.shares(), self.count.shape
        residual2 = self._count2.reshape(shape) - 2 * share * self._both.reshape(shape)
        residual2 += share * share * self._from2[:, None]
        return design_effect(residual2, share, np.broadcast_to(self.count.sum(axis=1, keepdims=True), shape))
