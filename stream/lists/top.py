"""Computes the k most likely next items of each user from the state, without the excluded items."""

from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from stream.model.runtime import F32, I64

T = TypeVar("T", bound=np.generic)


class Lists(NamedTuple):
    """The recommended lists of n users.

    items, log_probs        (n, k) int64 and float32, best first
    counts                  (n,) int64: only the first counts[i] items of row i are part of the list
    propensities, explored  (n, k) float64 and bool; None without exploration
    """

    items: I64
    log_probs: F32
    counts: I64
    propensities: npt.NDArray[np.float64] | None = None
    explored: npt.NDArray[np.bool_] | None = None

    def spread(self, which: npt.NDArray[np.intp], count: int) -> "Lists":
        """The lists of `count` clicks: these lists at the positions `which` (n,), and empty lists elsewhere."""
        return Lists(
            _spread(self.items, which, count),
            _spread(self.log_probs, which, count),
            _spread(self.counts, which, count),
            None if self.propensities is None else _spread(self.propensities, which, count),
            None if self.explored is None else _spread(self.explored, which, count),
        )


def _spread(values: npt.NDArray[T], which: npt.NDArray[np.intp], count: int) -> npt.NDArray[T]:
    whole = np.zeros((count, *values.shape[1:]), values.dtype)
    whole[which] = values
    return whole


def top_items(items: I64, log_probs: F32, left_out: npt.NDArray[np.int32], k: int) -> Lists:
    """The first k items of each user's ranking, without `left_out`; fewer if the ranking has too few items.

    items, log_probs  (n, depth) from `Model.score`; with a depth of k + N, or of the catalogue, no list is too short
    left_out          (n, N) int32 indices of excluded items; -1 and the unknown item exclude nothing
    """
    unwanted, (count, depth) = among(items, left_out), items.shape
    keep_first = unwanted.argsort(axis=1, kind="stable")[:, :k] + np.arange(0, count * depth, depth)[:, None]
    counts = np.minimum(k, depth - unwanted.sum(1))
    return Lists(items.take(keep_first), log_probs.take(keep_first), counts)


def among(items: I64, left_out: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """(n, R) bool: whether each of the user's items (n, R) is among the user's left_out (n, N).

    It compares column by column: one comparison of (n, R, N) took three times as long with N = 17.
    """
    found = np.zeros(items.shape, np.bool_)
    for column in left_out.astype(np.int64).T:
        found |= items == column[:, None]
    return found
