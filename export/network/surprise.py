"""How surprising an item is: p(item) = p(cluster) p(item | cluster), a normalised likelihood at O(sqrt V)
instead of O(V).

Source: Goodman 2001 for class-factored softmax.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from export.arrays import F32, I64, Flags


class SurpriseHead(nn.Module):
    """p(item | state) by a two-level softmax: which cluster, then which item of it.

    The rows within a cluster are the ranking head's; only `top` is fitted. The unknown item is its own cluster, and
    the `new_items` that are live share its probability: without that an unknown id looks like a popular item.
    """

    blocks: Tensor  # (C + 1, H, S) item rows
    biases: Tensor  # (C + 1, S)
    share: Tensor  # (C + 1,) of one of the items that share a slot
    cluster: Tensor  # (V + 1,) int64
    slot: Tensor  # (V + 1,) int64

    def __init__(self, clusters: I64, rows: Tensor, bias: Tensor, new_items: int) -> None:
        """clusters (V,) int64: the cluster of each item, 0 .. C-1; rows (V, H) and bias (V,) of the ranking head."""
        super().__init__()
        items, hidden = rows.shape
        count = int(clusters.max()) + 1
        sizes = np.bincount(clusters, minlength=count)
        order = np.argsort(clusters, kind="stable")
        slots = np.empty(items, np.int64)
        slots[order] = np.arange(items) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        blocks = torch.zeros(count + 1, int(sizes.max()), hidden)
        biases = torch.full((count + 1, int(sizes.max())), -1e9)  # empty slots have no mass
        at = torch.from_numpy(clusters), torch.from_numpy(slots)
        blocks[at], biases[at] = rows.detach(), bias.detach()
        biases[count, 0] = 0.0
        share = torch.ones(count + 1)
        share[count] = 1 / max(1, new_items)
        self.register_buffer("blocks", blocks.transpose(1, 2).contiguous())
        self.register_buffer("biases", biases)
        self.register_buffer("share", share)
        self.register_buffer("cluster", torch.from_numpy(np.append(clusters, count)))
        self.register_buffer("slot", torch.from_numpy(np.append(slots, 0)))
        self.top = nn.Linear(hidden, count + 1)

    def forward(self, item: Tensor, out: Tensor) -> Tensor:
        """item (B,) int64 with V = unknown, out (B, H) -> the item's probability (B,)."""
        cluster = torch.index_select(self.cluster, 0, item)
        slot = torch.index_select(self.slot, 0, item)
        top = torch.softmax(self.top(out), dim=1).gather(1, cluster.unsqueeze(1))
        logits = torch.matmul(out.unsqueeze(1), torch.index_select(self.blocks, 0, cluster)).squeeze(1)
        logits = logits + torch.index_select(self.biases, 0, cluster)
        inner = torch.softmax(logits, dim=1).gather(1, slot.unsqueeze(1))
        return (top * inner).squeeze(1) * torch.index_select(self.share, 0, cluster)


def cluster_count(items: int) -> int:
    """C of the surprise head: about 4 sqrt(V), but never clusters of fewer than four items."""
    return max(1, min(round(4 * math.sqrt(items)), items // 4))


def balanced_clusters(rows: F32, count: int, seed: int) -> I64:
    """The cluster of each row: 2-means, split in halves of equal share again and again, so that blocks are dense.

    rows (V, H) float32; returns (V,) int64 in 0 .. count-1, sizes differing by at most a few
    """
    rng = np.random.default_rng(seed)
    clusters = np.zeros(len(rows), np.int64)
    pending = [(np.arange(len(rows)), 0, count)]
    while pending:
        members, first, parts = pending.pop()
        if parts == 1:
            clusters[members] = first
            continue
        left = parts // 2
        cut = len(members) * left // parts
        near = _nearer_half(rows[members], cut, rng)
        pending.append((members[near], first, left))
        pending.append((members[~near], first + left, parts - left))
    return clusters


def _nearer_half(rows: F32, cut: int, rng: np.random.Generator) -> Flags:
    """2-means with the sizes fixed at (cut, n - cut): True for the first part."""
    one, two = rows[rng.choice(len(rows), 2, replace=False)]
    near = np.zeros(len(rows), np.bool_)
    for _ in range(8):
        order = np.argsort(rows @ (two - one), kind="stable")
        near = np.zeros(len(rows), np.bool_)
        near[order[:cut]] = True
        one, two = rows[near].mean(axis=0), rows[~near].mean(axis=0)
    return near
