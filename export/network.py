"""The network: a user's clicks -> one recurrent state -> which item comes next, and how surprising that one was.

One state feeds three heads: ranking (flat, tied to the item rows), event type, and surprise, a two-level softmax
p(item) = p(cluster) p(item | cluster) that is a normalised likelihood at O(sqrt V) instead of O(V). Ranking and
surprise are mixed with what the user's last items bring (mixture.py). `sequence` (for training) and `step` (exported)
must stay the same function: convert.py refuses to write a model where they differ.

Item rows and outputs are compared by direction alone: a row's length would be its popularity a second time, which the
bias has already, and what a rare item is like would count for little.

Sources: Hidasi et al. 2016 (GRU4Rec) for the recommender; Gupta et al. 2019 (NISER) for unit rows; Goodman 2001 for
class-factored softmax.
"""

import math
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from export import mixture
from export.arrays import F32, I64, Flags
from export.cells import CELLS, LstmCell
from export.mixture import LANES, Mixture, log, remember, visit_so_far
from stream.manifest import Tensor as StateTensor

SHARPNESS = 16.0
"""Length of an output: the logit of an item that lies exactly in its direction, before the bias."""

INPUT_LENGTH = 4.0
"""Length of an item's row where the cell reads it."""


SMALLEST = 1e-12
"""Square of the length below which a row has no direction."""


class Sizes(NamedTuple):
    """What fixes the network's shapes: V known items, T event types, gap buckets, H units of state, which of CELLS."""

    items: int
    event_types: int
    gaps: int
    hidden: int
    cell: str = LstmCell.name


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


class Network(nn.Module):
    """Embeddings, the cell and the heads; `mixture` and `surprise` are fitted last, on frozen states (heads.py)."""

    mixture: Mixture
    surprise: SurpriseHead
    row_squares: Tensor  # (V + 1,) sum of the squared gradients of each item row, mean over H. This and
    bias_squares: Tensor  # (V + 1,) serve no graph, but a training that starts from the model: known items move little

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        hidden = sizes.hidden
        self.item_rows = nn.Parameter(unit(torch.randn(sizes.items + 1, hidden)))  # the last row is <unk>
        self.item_bias = nn.Parameter(torch.zeros(sizes.items + 1))
        self.register_buffer("row_squares", torch.zeros(sizes.items + 1))
        self.register_buffer("bias_squares", torch.zeros(sizes.items + 1))
        self.event_rows = nn.Parameter(torch.zeros(sizes.event_types + 1, hidden))
        self.gap_rows = nn.Parameter(torch.zeros(sizes.gaps, hidden))
        self.cell = CELLS[sizes.cell](hidden)
        self.event_head = nn.Linear(hidden, sizes.event_types + 1)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.item_rows.device

    def embed(self, item: Tensor, event_type: Tensor, gap: Tensor) -> Tensor:
        """int64 of any one shape -> (..., H): the sum of the three rows."""
        x = embedding(item, self.item_rows) * INPUT_LENGTH + embedding(event_type, self.event_rows)
        return x + embedding(gap, self.gap_rows)

    def output(self, h: Tensor) -> Tensor:
        """The cell's h (..., H) -> what all heads read, (..., H): its direction; zeros before a user's first click."""
        return unit(h) * SHARPNESS

    @property
    def state(self) -> tuple[StateTensor, ...]:
        """The tensors of one user's state: the cell's, then what the mixture remembers."""
        return (*self.cell.state, *mixture.STATE)

    def zero_state(self, batch: int) -> tuple[Tensor, ...]:
        """A new user's state, (batch, *shape) each."""
        return tuple(torch.zeros(batch, *part.shape, dtype=getattr(torch, part.dtype)) for part in self.state)

    def fits(self, out: Tensor) -> Tensor:
        """out (B, H) of `output` -> how near each of the V known items lies to it, (B, V)."""
        return torch.matmul(out, self.item_rows[:-1].t())

    def logits(self, out: Tensor) -> Tensor:
        """out (B, H) of `output` -> the network's own scores of the V known items, (B, V)."""
        return torch.addmm(self.item_bias[:-1], out, self.item_rows[:-1].t())

    def cooled(self, out: Tensor) -> Tensor:
        """The same as far as the mixture trusts the network: its state by its temperature, its bias by its weight."""
        bias = self.item_bias[:-1] * self.mixture.bias_weight
        return torch.addmm(bias, out / self.mixture.temperature, self.item_rows[:-1].t())

    def log_probs(self, out: Tensor, recent: Tensor, visit: Tensor) -> Tensor:
        """Log-probabilities over the V known items, (B, V), as served: out (B, H), and the mixture's memory."""
        return self.mixture.log_probs(self.cooled(out), recent, visit)


class Step(nn.Module):
    """One click: what step.onnx computes. The surprise is under the state before the click."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, item: Tensor, event_type: Tensor, gap: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        net = self.network
        *cell, recent, visit = state
        before = tuple(cell)
        own = net.surprise(item, net.output(net.cell.output(before)))
        surprise = net.mixture.surprise(own, item, recent, visit_so_far(gap, visit))
        after = net.cell.step(net.embed(item, event_type, gap), before)
        return surprise, *after, *remember(item, gap, recent, visit)


class Score(nn.Module):
    """A state's best k items and the next event's type: what score.onnx computes. Equal scores: lower index first."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, h: Tensor, last_items: Tensor, visit_items: Tensor, k: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """State parts h (B, H), last_items (B, R), visit_items (B, 1) and k (1,) int64 -> the k best of each user.

        returns  items (B, k) int64, log_probs (B, k) float32, event_probs (B, T + 1) float32
        """
        best = cast(int, k.item())  # not int(): that would fix the example's k in the graph
        torch._check(best >= 1)
        torch._check(best <= self.network.sizes.items)
        network = self.network
        out = network.output(h)
        values, items = torch.topk(network.mixture.mixed(network.cooled(out), last_items, visit_items), best, dim=1)
        return items, log(values), torch.softmax(network.event_head(out), dim=1)


def unit(rows: Tensor) -> Tensor:
    """(..., H) -> the same directions with length 1; zeros stay zeros.

    Squares are summed by a product with ones: ONNX Runtime's own sums depend on a row's alignment.
    """
    squares = torch.matmul(rows * rows, torch.ones(rows.shape[-1], LANES, dtype=rows.dtype))[..., :1]
    return rows / torch.sqrt(torch.clamp(squares, min=SMALLEST))


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
