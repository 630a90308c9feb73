"""Converts scores to p-values by comparison with held-out scores, also beyond the largest of them.

At a held-out score this is inductive conformal prediction: p = (1 + count of scores at least as high) / (1 + m).
Between two scores -log p is interpolated, so p is not below that of the higher one. Beyond the largest score a tail
goes on. Its scale is the mean excess of the k highest scores (peaks over threshold: Pickands 1975). The excesses are
taken as exponential, with a scale that k scores do not tell exactly, so p falls as (1 + x / k)^-k in scales x: the
predictive distribution of an exponential number (Lomax 1954; a generalised Pareto distribution of shape 1 / k). Of few
scores this is much more than exp(-x), and of a hundred about that. These p-values are extrapolated: they order what no
held-out click has reached.

The tail does not begin with a jump. The model that serves was trained on more clicks than the one that gave the
held-out scores, so its score of the same click differs a little. Where many held-out scores are equal, such as those of
the first click in a small catalogue, p would fall from their share to 1 / (1 + m) for nothing.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

STEP = 1.01
"""The ranks of the scores that are kept grow by this factor from the highest on, so p-values between are 1 % off."""

EXCEEDANCES, LARGEST_SHARE = 100, 0.1
"""The highest scores that give the tail: so many, but at most this share of all."""

OF_NATS, OF_COUNTS = 1.0, 0.4
"""The smallest scale of a tail. A score that is -log of a probability is at most e times rarer for each nat, even where
few held-out scores say more. A count that is higher by 1 than all of them is taken as about ten times rarer."""

MOST_NATS = 100.0
"""No p-value is below exp(-MOST_NATS)."""


class Tail(NamedTuple):
    """The held-out scores of one kind.

    scores  (k,) float32, ascending: some of the scores, among them the lowest and the highest
    nats    (k,) float64, -log of the p-value of these scores
    scale   of the tail: by so much higher scores are e times rarer
    size    m, with the scores of -inf
    """

    scores: F32
    nats: F64
    scale: float
    size: int

    @classmethod
    def fit(cls, scores: F32, smallest_scale: float = OF_NATS) -> Self:
        """Keep some of the scores (m,), in any order. A score of -inf is lower than any other one."""
        ordered = np.sort(scores[scores > -np.inf])[::-1].astype(np.float32)  # the highest first
        count = len(ordered)
        if not count:
            return cls(np.empty(0, np.float32), np.empty(0), smallest_scale, len(scores))
        most = int(np.log(count) / np.log(STEP)) + 2
        ranks = np.unique(np.minimum(np.append(STEP ** np.arange(most), count), count).astype(np.int64))
        kept = np.unique(ordered[ranks - 1])
        above = count - ordered[::-1].searchsorted(kept, "left")
        top = ordered[: _exceedances(count)].astype(np.float64)
        whole = (ordered[0] - ordered[count // 2]) / np.log(1 + count / 2)  # bounded scores end too steeply
        nats = np.log((1 + len(scores)) / (1 + above))
        scale = max(float((top - top[-1]).mean()), float(whole), smallest_scale)
        return cls(kept, nats, scale, len(scores))

    def nats_of(self, scores: F32) -> F64:
        """-log of the p-values (n,) of finite scores (n,)."""
        if not len(self.scores):
            return np.full(len(scores), np.log(1.0 + self.size))
        found: F64 = np.interp(scores, self.scores, self.nats)
        higher = scores > self.scores[-1]
        if np.count_nonzero(higher):  # rare
            beyond = (scores[higher].astype(np.float64) - self.scores[-1]) / self.scale
            found[higher] = _beyond(self.nats[-1], np.log(1.0 + self.size), self.exceedances, beyond)
        return found

    @property
    def finite(self) -> int:
        """Number of the scores that are not -inf. There is at least one."""
        return round(float((1 + self.size) * np.exp(-self.nats[0]))) - 1  # the lowest score is kept, too

    @property
    def exceedances(self) -> int:
        """Number of the highest scores that gave the scale, k."""
        return _exceedances(self.finite)

    def median(self) -> float | None:
        """The highest score that half of those that are not -inf reach; None if there is none."""
        if not len(self.scores):
            return None
        half = np.log((1 + self.size) / (1 + self.finite / 2))
        return float(self.scores[self.nats.searchsorted(half, "right") - 1])


class Tails:
    """Several tails, of which many p-values are looked up at once: a live shop's batches are a few clicks."""

    def __init__(self, tails: Sequence[Tail]) -> None:
        filled = [tail if len(tail.scores) else _flat(tail.size) for tail in tails]
        sizes = np.array([len(tail.scores) for tail in filled])
        scores = np.concatenate([tail.scores for tail in filled])
        owner = np.repeat(np.arange(len(filled)), sizes)
        self._last = sizes.cumsum() - 1
        self._first = self._last - sizes + 1
        self._keys = _keys(owner, scores)
        self._scores, self._nats = scores.astype(np.float64), np.concatenate([tail.nats for tail in filled])
        self._slopes = np.zeros(len(scores))  # from each score to the next one of the same tail
        inner = np.flatnonzero(owner[1:] == owner[:-1])
        self._slopes[inner] = np.diff(self._nats)[inner] / np.diff(self._scores)[inner]
        self._largest = np.log(1.0 + np.array([tail.size for tail in filled]))
        self._scales = np.array([tail.scale for tail in filled])
        self._exceedances = np.array([tail.exceedances for tail in filled])

    def nats_of(self, which: I64, scores: F32) -> F64:
        """-log of the p-value (n,) of each score (n,), as `Tail.nats_of` of the tail number `which` (n,)."""
        first, last = self._first[which], self._last[which]
        at = np.minimum(np.maximum(self._keys.searchsorted(_keys(which, scores), "right") - 1, first), last)
        values = np.maximum(scores, self._scores[first])  # float64
        found: F64 = self._slopes[at] * (values - self._scores[at]) + self._nats[at]
        higher = values > self._scores[last]
        if np.count_nonzero(higher):  # rare
            tail = which[higher]
            beyond = (values[higher] - self._scores[last[higher]]) / self._scales[tail]
            found[higher] = _beyond(self._nats[last[higher]], self._largest[tail], self._exceedances[tail], beyond)
        return found


def _exceedances(count: int) -> int:
    return max(1, min(EXCEEDANCES, int(LARGEST_SHARE * count)))


def _beyond(at_last: F64 | np.float64, largest: F64 | np.float64, exceedances: I64 | int, beyond: F64) -> F64:
    """-log of the p-values (n,) of scores that are higher than all held-out ones, by the predictive distribution.

    at_last      -log p of the highest held-out score
    largest      -log(1 / (1 + m))
    exceedances  number of the scores that gave the scale
    beyond       (n,) how much higher they are, in scales of the tail
    """
    further = exceedances * np.log1p(beyond / exceedances)
    return np.minimum(at_last + (largest - at_last) * np.minimum(beyond, 1.0) + further, MOST_NATS)


def _flat(size: int) -> Tail:
    """A tail that gives each score the p-value that a tail without finite scores gives."""
    return Tail(np.zeros(1, np.float32), np.log(1.0 + np.array([size])), np.inf, size)


def _keys(which: I64, scores: F32) -> I64:
    """Whole numbers (n,) that are in the order of the tails, and within a tail in that of the scores."""
    bits = (scores + np.float32(0)).view(np.int32).astype(np.int64)  # + 0: there is one zero
    keys: I64 = (which << 32) + np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    return keys


def pack(tails: Sequence[Tail]) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file with these tails, by name."""
    return {
        "scores": np.concatenate([tail.scores for tail in tails]),
        "nats": np.concatenate([tail.nats for tail in tails]),
        "sizes": np.array([len(tail.scores) for tail in tails]),
        "scales": np.array([tail.scale for tail in tails]),
        "totals": np.array([tail.size for tail in tails]),
    }


def unpack(arrays: Mapping[str, npt.NDArray[Any]], count: int) -> list[Tail]:
    """The `count` tails of a file. Raises KeyError or ValueError if they are not what `pack` writes."""
    sizes, scales = np.asarray(arrays["sizes"], np.int64), np.asarray(arrays["scales"], np.float64)
    scores, nats = np.asarray(arrays["scores"], np.float32), np.asarray(arrays["nats"], np.float64)
    totals = np.asarray(arrays["totals"], np.int64)
    if not (
        sizes.shape == scales.shape == totals.shape == (count,)
        and (sizes >= 0).all()
        and sizes.sum() == len(scores) == len(nats)
    ):
        raise ValueError(f"it does not have {count} tails")
    if not (np.isfinite(scores).all() and np.isfinite(nats).all() and np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError("a number is not finite")
    ends = sizes.cumsum()
    tails = [
        Tail(scores[end - size : end], nats[end - size : end], scale, total)
        for end, size, scale, total in zip(ends.tolist(), sizes.tolist(), scales.tolist(), totals.tolist(), strict=True)
    ]
    for tail in tails:
        if (np.diff(tail.scores) <= 0).any() or (np.diff(tail.nats, prepend=-1e-9) <= 0).any():
            raise ValueError("a tail is not sorted")
    return tails
