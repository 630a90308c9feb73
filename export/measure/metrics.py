"""Ranks of what came next -> recall, MRR and NDCG at 1, 5, 10 and 20, with intervals and by kinds of position.

A rank is the place of the next item in a list of 20, 1 = first; 0 = not in it, which every measure counts as nothing.
The bootstrap draws whole sessions: positions of one session are alike, and drawn alone they would promise too much.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from export.arrays import F64, I64, U8

Ranks = U8

K = 20
"""How long the lists are that are judged."""

CUTS = (1, 5, 10, K)
RESAMPLES = 1_000
INTERVAL = (2.5, 97.5)
RESAMPLED = ("recall20", "mrr20")
"""The measures that get intervals."""

POSITIONS = {"1": 1, "2": 2, "3-4": 3, "5-9": 5, "10+": 10}
"""Clicks of the session so far, by the least of each kind."""
COLD = 5
"""An item with at most so many training clicks is cold."""
KINDS = ("head", "tail", "cold", "unknown")


def gains(rank: Ranks, k: int) -> tuple[F64, F64, F64]:
    """What each position (n,) adds to recall, MRR and NDCG at k: with one right item NDCG's ideal is 1."""
    hit = (rank > 0) & (rank <= k)
    place = np.where(hit, rank, 1).astype(np.float64)
    return hit.astype(np.float64), hit / place, hit / np.log2(place + 1)


def measures(rank: Ranks) -> dict[str, float]:
    """recall1 ... ndcg20: the means over all positions (n,), n > 0."""
    found: dict[str, float] = {}
    for k in CUTS:
        for name, gain in zip(("recall", "mrr", "ndcg"), gains(rank, k), strict=True):
            found[f"{name}{k}"] = float(gain.mean())
    return found


def by_kind(rank: Ranks, kind: I64, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """recall20 and mrr20 of the positions of each kind (n,), an index of `names`; without kinds that do not occur."""
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
    """(n,) index of KINDS. The head: the fewest items that hold half of all training clicks; len(counts) = unknown."""
    order = np.argsort(-counts, kind="stable")
    heads = order[: int(np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2)) + 1]
    kind = np.where(counts > COLD, 1, 2)
    kind[heads] = 0
    return np.append(kind, 3)[item]


def intervals(ranks: Mapping[str, Ranks], session: npt.NDArray[np.integer], seed: int = 0) -> dict[str, Any]:
    """95% bootstrap intervals of recall20 and mrr20, and the first method's lead over the best other with its interval.

    ranks    name -> (n,); all methods are resampled alike, so the differences are paired
    session  (n,) of any integers
    returns  {name: {"recall20_95": [low, high], "mrr20_95": ...}} and under "lead" {measure: {over, mean, 95}}
    """
    mean, drawn = _resampled(ranks, session, seed)
    names = list(ranks)
    found: dict[str, Any] = {
        name: {f"{measure}_95": _range(drawn[:, i, j]) for j, measure in enumerate(RESAMPLED)}
        for i, name in enumerate(names)
    }
    found["lead"] = {}
    for j, measure in enumerate(RESAMPLED):
        rival = 1 + int(np.argmax(mean[1:, j]))
        found["lead"][measure] = {
            "over": names[rival],
            "mean": float(mean[0, j] - mean[rival, j]),
            "95": _range(drawn[:, 0, j] - drawn[:, rival, j]),
        }
    return found


def changes(ranks: Mapping[str, Ranks], session: npt.NDArray[np.integer], seed: int = 0) -> dict[str, Any]:
    """How much each other method has more than the first, with 95% bootstrap intervals; arguments as of `intervals`.

    returns  {name: {measure: {mean, 95}}}, without the first
    """
    mean, drawn = _resampled(ranks, session, seed)
    return {
        name: {
            measure: {"mean": float(mean[i, j] - mean[0, j]), "95": _range(drawn[:, i, j] - drawn[:, 0, j])}
            for j, measure in enumerate(RESAMPLED)
        }
        for i, name in enumerate(ranks)
        if i
    }


def _resampled(ranks: Mapping[str, Ranks], session: npt.NDArray[np.integer], seed: int) -> tuple[F64, F64]:
    """The means of RESAMPLED of m methods, (m, 2), and the same of each of the bootstrap's draws, (RESAMPLES, m, 2)."""
    _, which = np.unique(session, return_inverse=True)
    sessions = int(which.max()) + 1
    columns = [gain for rank in ranks.values() for gain in gains(rank, K)[:2]]
    sums = np.stack([np.bincount(which, column, sessions) for column in columns], axis=1)
    clicks = np.bincount(which, minlength=sessions).astype(np.float64)
    rng = np.random.default_rng(seed)
    drawn = np.empty((RESAMPLES, len(columns)))
    for row in drawn:
        times = np.bincount(rng.integers(0, sessions, sessions), minlength=sessions).astype(np.float64)
        row[:] = times @ sums / (times @ clicks)
    shape = len(ranks), len(RESAMPLED)
    return (sums.sum(0) / clicks.sum()).reshape(shape), drawn.reshape(RESAMPLES, *shape)


def _range(values: F64) -> list[float]:
    return [float(value) for value in np.percentile(values, INTERVAL)]
