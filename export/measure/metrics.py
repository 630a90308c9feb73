"""Computes recall, MRR and NDCG at 1, 5, 10 and 20 from ranks, with confidence intervals and by groups of positions.

A rank is the position of the next item in a list of 20, 1 = first; 0 = not in the list, which adds 0 to every metric.
The bootstrap draws whole sessions, because the positions of one session are correlated. Drawing positions one by one
would give intervals that are too narrow.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from export.arrays import F64, I64, U8

Ranks = U8

K = 20
"""Length of the judged lists."""

CUTS = (1, 5, 10, K)
RESAMPLES = 1_000
INTERVAL = (2.5, 97.5)
RESAMPLED = ("recall20", "mrr20")
"""The metrics that have confidence intervals."""

POSITIONS = {"1": 1, "2": 2, "3-4": 3, "5-9": 5, "10+": 10}
"""Groups by the number of clicks of the session so far: name -> the smallest number of the group."""
COLD = 5
"""An item with at most this many training clicks is cold."""
KINDS = ("head", "tail", "cold", "unknown")


def gains(rank: Ranks, k: int) -> tuple[F64, F64, F64]:
    """The recall, MRR and NDCG at k of each position, (n,) float64 in [0, 1].

    There is one correct item per position, so the ideal DCG is 1.
    """
    hit = (rank > 0) & (rank <= k)
    divisor = np.where(hit, rank, 1).astype(np.float64)
    return hit.astype(np.float64), hit / divisor, hit / np.log2(divisor + 1)


def measures(rank: Ranks) -> dict[str, float]:
    """The means recall1 ... ndcg20 over all positions (n,), n > 0."""
    found: dict[str, float] = {}
    for k in CUTS:
        for name, gain in zip(("recall", "mrr", "ndcg"), gains(rank, k), strict=True):
            found[f"{name}{k}"] = float(gain.mean())
    return found


def by_kind(rank: Ranks, kind: I64, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """recall20 and mrr20 of each group of positions; groups without a position are left out.

    kind  (n,) index of `names`
    """
    recall, mrr, _ = gains(rank, K)
    found = {}
    for index, name in enumerate(names):
        mine = kind == index
        if mine.any():
            found[name] = {
                "judged": int(mine.sum()),
                "recall20": float(recall[mine].mean()),
                "mrr20": float(mrr[mine].mean()),
            }
    return found


def position_kind(clicks_so_far: I64) -> I64:
    """(n,) index of POSITIONS."""
    return np.searchsorted(np.array(list(POSITIONS.values())), clicks_so_far, "right") - 1


def popularity_kind(item: I64, counts: I64) -> I64:
    """(n,) index of KINDS for each item. The head is the smallest set of items with half of all training clicks.

    item    (n,) index; len(counts) = unknown
    counts  (V,) training clicks of each item
    """
    order = np.argsort(-counts, kind="stable")
    heads = order[: int(np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2)) + 1]
    kind = np.where(counts > COLD, 1, 2)
    kind[heads] = 0
    return np.append(kind, 3)[item]


def intervals(ranks: Mapping[str, Ranks], session: npt.NDArray[np.integer], seed: int = 0) -> dict[str, Any]:
    """95% bootstrap intervals of recall20 and mrr20, and of the first method's lead over the best other method.

    ranks    name -> (n,); all methods use the same resamples, so the differences are paired
    session  (n,) any integers
    returns  {name: {"recall20_95": [low, high], "mrr20_95": ...}} and under "lead" {measure: {over, mean, 95}}
    """
    mean, drawn = _resampled(ranks, session, seed)
    names = list(ranks)
    found: dict[str, Any] = {
        name: {f"{measure}_95": _range(drawn[:, i, j], 0.0) for j, measure in enumerate(RESAMPLED)}
        for i, name in enumerate(names)
    }
    found["lead"] = {}
    for j, measure in enumerate(RESAMPLED):
        rival = 1 + int(np.argmax(mean[1:, j]))
        found["lead"][measure] = {
            "over": names[rival],
            "mean": float(mean[0, j] - mean[rival, j]),
            "95": _range(drawn[:, 0, j] - drawn[:, rival, j], -1.0),
        }
    return found


def changes(ranks: Mapping[str, Ranks], session: npt.NDArray[np.integer], seed: int = 0) -> dict[str, Any]:
    """The difference of each method to the first one, with 95% bootstrap intervals; arguments as in `intervals`.

    returns  {name: {measure: {mean, 95}}}, without the first method
    """
    mean, drawn = _resampled(ranks, session, seed)
    return {
        name: {
            measure: {"mean": float(mean[i, j] - mean[0, j]), "95": _range(drawn[:, i, j] - drawn[:, 0, j], -1.0)}
            for j, measure in enumerate(RESAMPLED)
        }
        for i, name in enumerate(ranks)
        if i
    }


def _resampled(ranks: Mapping[str, Ranks], session: npt.NDArray[np.integer], seed: int) -> tuple[F64, F64]:
    """The means of RESAMPLED for m methods, (m, 2), and the same for each resample, (RESAMPLES, m, 2).

    A single session has no resamples, (0, m, 2): all of them would be equal.
    """
    _, which = np.unique(session, return_inverse=True)
    sessions = int(which.max()) + 1
    columns = [gain for rank in ranks.values() for gain in gains(rank, K)[:2]]
    sums = np.stack([np.bincount(which, column, sessions) for column in columns], axis=1)
    clicks = np.bincount(which, minlength=sessions).astype(np.float64)
    rng = np.random.default_rng(seed)
    drawn = np.empty((RESAMPLES if sessions > 1 else 0, len(columns)))
    for row in drawn:
        times = np.bincount(rng.integers(0, sessions, sessions), minlength=sessions).astype(np.float64)
        row[:] = times @ sums / (times @ clicks)
    shape = len(ranks), len(RESAMPLED)
    return (sums.sum(0) / clicks.sum()).reshape(shape), drawn.reshape(-1, *shape)


def _range(values: F64, lowest: float) -> list[float]:
    """The 95% interval of resampled values; without any, all that is possible, from `lowest` to 1."""
    return [float(value) for value in np.percentile(values, INTERVAL)] if len(values) else [lowest, 1.0]
