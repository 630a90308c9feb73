"""Scores of all items -> where the item that came next stands among them, and recall@20 and MRR@20 over many clicks.

For choices during a training, on the network in PyTorch; what is reported of a model comes from its graphs through the
engine (evaluate.py).
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

I64 = npt.NDArray[np.int64]

DEPTH = 20

Scores = Callable[[I64], Tensor]
"""Rows (m,) of a Clicks -> the scores of all known items after each of them, (m, V)."""


def ranks(scores: Tensor, wanted: Tensor) -> Tensor:
    """(m,) int64, 1 = best, of the items wanted (m,) among scores (m, V); ties to the lower index."""
    wanted = wanted.unsqueeze(1)
    own = scores.gather(1, wanted)
    lower = torch.arange(scores.shape[1]).unsqueeze(0) < wanted
    return 1 + ((scores > own) | ((scores == own) & lower)).sum(1)


def drawn(rows: I64, limit: int, seed: int = 0) -> I64:
    """At most `limit` of the rows, drawn by `seed`, in their order."""
    if len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))


@torch.no_grad()
def ranking_quality(target: I64, rows: I64, scores: Scores, limit: int = 20_000, seed: int = 0) -> tuple[float, float]:
    """recall@20 and MRR@20 of full rankings; unknown targets are misses.

    target  (n,) each click's next item
    rows    (m,) the clicks to judge; at most `limit` of them are, drawn by `seed`
    """
    rows = drawn(rows, limit, seed)
    hits = reciprocal = 0.0
    for chunk in np.array_split(rows, max(1, len(rows) // 512)):
        ranked = scores(chunk)
        wanted = torch.from_numpy(target[chunk])
        known = wanted < ranked.shape[1]
        rank = ranks(ranked[known], wanted[known])
        hit = rank <= DEPTH
        hits += float(hit.sum())
        reciprocal += float((hit / rank).sum())
    return hits / max(1, len(rows)), reciprocal / max(1, len(rows))
