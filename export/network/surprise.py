"""The surprise head: p(item | state) = p(cluster | state) p(item | cluster, state), by a two-level softmax.

The result is a normalised likelihood that costs O(sqrt V) instead of O(V). Surprise is -log p, in nats.

Source: Goodman 2001 (class-factored softmax).
"""

import math

import numpy as np
import torch
from torch import Tensor, nn

from export.arrays import F32, I64, Flags


class SurpriseHead(nn.Module):
    """p(item | state) by a two-level softmax: over clusters, then over the items of the cluster.

    Rows and biases within a cluster are copies of the ranking head's; only `top`, the layer over clusters, is fitted.
    The unknown item is a cluster of its own. Its probability is divided by `new_items`, the count of new items that
    exist at the same time; without this division, an unknown id would have the low surprise of a popular item.
    """

    blocks: Tensor  # (C + 1, H, S) item rows by cluster; S = size of the largest cluster
    biases: Tensor  # (C + 1, S)
    share: Tensor  # (C + 1,) 1, and 1 / new_items for the unknown item's cluster
    cluster: Tensor  # (V + 1,) int64, cluster of each item
    slot: Tensor  # (V + 1,) int64, index of each item in its cluster

    def __init__(self, clusters: I64, rows: Tensor, bias: Tensor, new_items: int) -> None:
        """
        clusters   (V,) int64, cluster of each item, 0 .. C - 1
        rows       (V, H) float32, item rows of the ranking head; copied
        bias       (V,) float32, biases of the ranking head; copied
        new_items  count of new items that exist at the same time
        """
        super().__init__()
        items, hidden = rows.shape
        count = int(clusters.max()) + 1
        sizes = np.bincount(clusters, minlength=count)
        order = np.argsort(clusters, kind="stable")
        slots = np.empty(items, np.int64)
        slots[order] = np.arange(items) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        blocks = torch.zeros(count + 1, int(sizes.max()), hidden)
        biases = torch.full((count + 1, int(sizes.max())), -1e9)  # exp(-1e9) = 0: empty slots get no probability
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
        """item (B,) int64, V = unknown; out (B, H) of Network.output -> probability of each item (B, 1)."""
        cluster = self.cluster[item]
        column, slot = cluster.unsqueeze(1), self.slot[item].unsqueeze(1)
        top = torch.softmax(self.top(out), dim=1).gather(1, column)
        logits = torch.matmul(out.unsqueeze(1), self.blocks[cluster]).squeeze(1) + self.biases[cluster]
        inner = torch.softmax(logits, dim=1).gather(1, slot)
        return top * inner * self.share[column]


def cluster_count(items: int) -> int:
    """Count of clusters C for V items: about 4 sqrt(V), with at least four items per cluster on average."""
    return max(1, min(round(4 * math.sqrt(items)), items // 4))


def balanced_clusters(rows: F32, count: int, seed: int) -> I64:
    """Cluster of each row, by recursive 2-means with fixed sizes: equal sizes waste little memory on padding.

    rows     (V, H) float32
    returns  (V,) int64 in 0 .. count - 1; cluster sizes differ by at most a few rows
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
    """2-means with fixed sizes (cut, n - cut): (n,) bool, True for the first cluster."""
    one, two = rows[rng.choice(len(rows), 2, replace=False)]
    near = np.zeros(len(rows), np.bool_)
    for _ in range(8):
        order = np.argsort(rows @ (two - one), kind="stable")
        near = np.zeros(len(rows), np.bool_)
        near[order[:cut]] = True
        one, two = rows[near].mean(axis=0), rows[~near].mean(axis=0)
    return near
