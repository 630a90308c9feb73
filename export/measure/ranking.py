"""Scores of all items -> where the item that came next stands among them, and recall@20 and MRR@20 over many clicks.

For choices during a training, on the network in PyTorch; what is reported of a model comes from its graphs through the
engine (evaluate/evaluate.py).
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from export.arrays import I32
from export.measure.metrics import K, Ranks, gains
from export.network.network import Network

JUDGED = 20_000
"""Clicks that say how good a network is, at most."""

SCORED = 1 << 22
"""Scores that are computed at a time: a few times 16 MB."""

Scores = Callable[[Tensor], Tensor]
"""Places (k,) among m clicks -> the scores of all known items after each of them, (k, V)."""


def ranks(scores: Tensor, wanted: Tensor) -> Tensor:
    """(m,) int64, 1 = best, of the items wanted (m,) among scores (m, V); ties to the lower index."""
    wanted = wanted.unsqueeze(1)
    own = scores.gather(1, wanted)
    lower = torch.arange(scores.shape[1], device=scores.device).unsqueeze(0) < wanted
    return 1 + ((scores > own) | ((scores == own) & lower)).count_nonzero(1)  # sum(1) makes int64 of all of them first


def places(clicks: int, items: int) -> Iterator[Tensor]:
    """The numbers from 0 to clicks - 1, at most 512 at a time, and no more than have SCORED scores of all items."""
    yield from torch.arange(clicks).split(max(1, min(512, SCORED // items)))  # type: ignore[no-untyped-call]


@torch.no_grad()
def target_ranks(target: I32, items: int, scores: Scores) -> Ranks:
    """(m,) the place of each target in a full ranking, 1 = best; 0: not among the first 20, or unknown.

    target  (m,) what came after each click
    items   V, known ones
    """
    found: Ranks = np.zeros(len(target), np.uint8)
    for some in places(len(target), items):
        ranked = scores(some)
        wanted = torch.from_numpy(target)[some].long().to(ranked.device)
        known = wanted < items
        rank = ranks(ranked[known], wanted[known])
        found[some[known.cpu()].numpy()] = torch.where(rank <= K, rank, 0).to(torch.uint8).cpu().numpy()
    return found


def list_ranks(network: Network, out: Tensor, remembered: tuple[I32, I32], target: I32) -> Ranks:
    """(m,) the place of each target in the list as served; 0 as above.

    out         (m, H) of `outputs` after the clicks before the targets
    remembered  of `memories` after them
    """
    recent, visit = (torch.from_numpy(part) for part in remembered)

    def scores(some: Tensor) -> Tensor:
        return network.mixture.mixed(network.cooled(out[some]), recent[some], visit[some])

    return target_ranks(target, network.sizes.items, scores)


def recall_and_mrr(rank: Ranks) -> tuple[float, float]:
    """recall@20 and MRR@20 of ranks (m,); none are 0."""
    recall, mrr, _ = gains(rank, K)
    return float(recall.sum()) / max(1, len(rank)), float(mrr.sum()) / max(1, len(rank))


def ranking_quality(target: I32, items: int, scores: Scores) -> tuple[float, float]:
    """recall@20 and MRR@20 of full rankings, as of `target_ranks`."""
    return recall_and_mrr(target_ranks(target, items, scores))
