"""Computes the rank of the next item from the scores of all items, and recall@20 and MRR@20 over many clicks.

The training uses these functions for its choices, with the network in PyTorch. The reported metrics of a model come
from its ONNX graphs and the engine instead (evaluate/evaluate.py).
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from export.arrays import I32
from export.measure.metrics import K, Ranks, gains
from export.network.network import Network

JUDGED = 20_000
"""Largest number of clicks on which a network is judged."""

SCORED = 1 << 22
"""Largest number of scores in one batch: a few times 16 MB."""

Scores = Callable[[Tensor], Tensor]
"""Indices (k,) of some of m clicks -> the scores of all known items after each of these clicks, (k, V)."""


def ranks(scores: Tensor, wanted: Tensor) -> Tensor:
    """The rank of each item of `wanted` (m,) among the scores (m, V): (m,) int64, 1 = best; ties to the lower index."""
    wanted = wanted.unsqueeze(1)
    own = scores.gather(1, wanted)
    lower = torch.arange(scores.shape[1], device=scores.device).unsqueeze(0) < wanted
    return 1 + ((scores > own) | ((scores == own) & lower)).count_nonzero(
        1
    )  # sum(1) would convert the whole array to int64 first


def row_batches(clicks: int, items: int) -> Iterator[Tensor]:
    """The indices 0 to clicks - 1 in batches: at most 512 clicks, and at most SCORED scores over all items."""
    yield from torch.arange(clicks).split(max(1, min(512, SCORED // items)))  # type: ignore[no-untyped-call]


@torch.no_grad()
def target_ranks(target: I32, items: int, scores: Scores) -> Ranks:
    """(m,) uint8, the rank of each target in a full ranking, 1 = best; 0 = not among the first 20, or unknown.

    target  (m,) index of the item after each click
    items   V, the number of known items
    """
    found: Ranks = np.zeros(len(target), np.uint8)
    for some in row_batches(len(target), items):
        ranked = scores(some)
        wanted = torch.from_numpy(target)[some].long().to(ranked.device)
        known = wanted < items
        rank = ranks(ranked[known], wanted[known])
        found[some[known.cpu()].numpy()] = torch.where(rank <= K, rank, 0).to(torch.uint8).cpu().numpy()
    return found


def list_ranks(network: Network, out: Tensor, remembered: tuple[I32, I32], target: I32) -> Ranks:
    """(m,) uint8, the rank of each target in the ranking of the served mixture; 0 as in `target_ranks`.

    out         (m, H) result of `outputs` after the click before each target
    remembered  result of `memories` after the same clicks
    """
    recent, session = (torch.from_numpy(part) for part in remembered)

    def scores(some: Tensor) -> Tensor:
        return network.mixture.mixed(network.calibrated_logits(out[some]), recent[some], session[some])

    return target_ranks(target, network.sizes.items, scores)


def recall_and_mrr(rank: Ranks) -> tuple[float, float]:
    """recall@20 and MRR@20 of ranks (m,); both are 0 if m is 0."""
    recall, mrr, _ = gains(rank, K)
    return float(recall.sum()) / max(1, len(rank)), float(mrr.sum()) / max(1, len(rank))


def ranking_quality(target: I32, items: int, scores: Scores) -> tuple[float, float]:
    """recall@20 and MRR@20 of full rankings; arguments as in `target_ranks`."""
    return recall_and_mrr(target_ranks(target, items, scores))
