"""The list of a large catalogue: candidates by a product in bytes, then the exact scores of the candidates only.

score.onnx ranks all V items in float32, so its time grows with V. This module computes nearly the same list:

1. The network's output and the rows of the N items with the most clicks are rounded to bytes. Their product gives
   approximate logits (byte_product.py).
2. The candidates are the best of the N items and all items of the mixture's sources, which may be any of the V items.
3. The best candidates get their exact logits, in float32. So they are in the order of score.onnx.
4. The sum in the softmax is estimated: the largest item of each block and a sample of all other items.

What is lost: an item beyond the N is listed only if a source names it with enough weight, and the network's weight
against the sources has the error of the sum. fit/shortlist.py measures the loss.
"""

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from export.arrays import I64
from export.network.mixture import LANES, log
from export.network.network import Network
from export.ranking.byte_product import OutputBytes, RowBytes, exact_logits
from export.ranking.exact import BLOCK
from export.ranking.rounded import RoundedScore

MARGIN = 12
"""Candidates beyond k. The rounding changes a logit by about .02, and the next 12 items are farther away."""

SAMPLED = 8
"""One block of so many is summed completely for the softmax."""

REST = 4096
"""Items of the sample that stands for the items beyond the N in the sum of the softmax."""

SLOTS = 4096
"""Slots of the tables that find the occurrences of an item among a user's candidates."""


def ranking_of(network: Network, ranked: int) -> "Ranking":
    """The graph of shortlist.onnx for the `ranked` items with the most clicks; V = all."""
    return ShortlistScore(network, ranked) if ranked < network.sizes.items else RoundedScore(network)


class ShortlistScore(nn.Module):
    """The graph of shortlist.onnx that ranks some of the items: inputs and results as in `Score`.

    The columns of the product are the N items in random order, filled up with absent columns. The random order puts the
    best items into different blocks, and makes the first blocks a sample of all.
    """

    item_of: Tensor  # (C,) int64, column -> item
    column_of: Tensor  # (V + 1,) int64, item -> column; an absent one for items beyond the N
    block_weight: Tensor  # (C / BLOCK, LANES) of the largest item of each block in the sum of the softmax
    sample_weight: Tensor  # (C / SAMPLED, LANES) of each item of the first blocks
    rest_weight: Tensor  # (S, LANES)
    rows: Tensor  # (V + 1, H), the network's
    item_bias: Tensor  # (V + 1,), with the mixture's weight

    def __init__(self, network: Network, ranked: int, seed: int = 0) -> None:
        """ranked  N < V, the number of items with the most clicks that the network ranks"""
        super().__init__()
        self.network, self.ranked = network, ranked
        items = network.sizes.items
        rng = np.random.default_rng(seed)
        by_clicks = np.argsort(-network.mixture.clicks.numpy(), kind="stable")
        columns = rng.permutation(by_clicks[:ranked])
        rest = rng.permutation(by_clicks[ranked:])[:REST]
        self.outputs = OutputBytes(network, rng)
        rows = network.item_rows.detach()
        bias = network.item_bias.detach() * network.mixture.bias_weight
        bias = bias - bias[:-1].max()  # it cancels in the softmax, and keeps its sum finite
        size = -(-(ranked + 1) // (BLOCK * SAMPLED)) * BLOCK * SAMPLED
        for name, value in (
            ("rows", rows),
            ("item_bias", bias),
            ("block_weight", torch.ones(size // BLOCK, LANES)),
            ("sample_weight", torch.full((size // SAMPLED, LANES), float(SAMPLED))),
            ("item_of", torch.from_numpy(np.pad(columns, (0, size - ranked)))),
            ("column_of", _places(columns, items + 1, absent=size - 1)),
        ):
            self.register_buffer(name, value)
        self.block_weight[: size // BLOCK // SAMPLED] -= SAMPLED
        self.most_clicked = RowBytes(rows[columns], bias[columns], self.outputs, size)
        each_for = float(np.log((items - ranked) / len(rest)))  # of the items beyond the N
        sampled = len(rest) + -len(rest) % BLOCK
        self.sample = RowBytes(rows[rest], bias[rest] + each_for, self.outputs, sampled)
        self.register_buffer("rest_weight", torch.ones(sampled, LANES))

    def forward(self, h: Tensor, last_items: Tensor, visit_clicks: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """State tensors h (B, H), last_items and visit_clicks (B, R), and k (1,) int64 -> the top k of each user.

        returns  items (B, k) int64, log_probs (B, k) float32
        """
        best = cast(int, k.item())
        torch._check(best >= 1)
        torch._check(best + MARGIN <= len(self.item_of))
        network, mixture, count = self.network, self.network.mixture, h.shape[0]
        x = network.output(h) / mixture.temperature
        output = self.outputs(x)
        logits, rest = self.most_clicked(output), self.sample(output)
        maxima = logits.view(count, -1, BLOCK).amax(dim=2)
        total = self._total(logits, maxima, rest)
        sources, added, left = mixture.additions(last_items, visit_clicks)
        front = torch.index_select(self.item_of, 0, _best_columns(logits, maxima, best + MARGIN).flatten())
        items = torch.cat([sources, front.view(count, -1)], dim=1)
        added = pad(added, (0, items.shape[1] - sources.shape[1]))
        first, added = _once(items, added)
        column = torch.index_select(self.column_of, 0, items.flatten()).view(items.shape)
        rough = torch.exp(torch.gather(logits, 1, column)) / total + added
        at = torch.topk(torch.where(first, rough, -torch.ones_like(rough)), best + MARGIN, dim=1).indices
        items, added = torch.gather(items, 1, at), torch.gather(added, 1, at)
        exact = torch.exp(exact_logits(self.rows, self.item_bias, x, items)) / total + added
        values, at = torch.topk(exact, best, dim=1)
        return torch.gather(items, 1, at), log(values * left)

    def _total(self, logits: Tensor, maxima: Tensor, rest: Tensor) -> Tensor:
        """The estimated sum of the softmax over all V items, (B, 1)."""
        sample = torch.matmul(torch.exp(logits[:, : len(self.sample_weight)]), self.sample_weight)
        largest = torch.matmul(torch.exp(maxima), self.block_weight)
        return (sample + largest + torch.matmul(torch.exp(rest), self.rest_weight))[:, :1]


def _best_columns(logits: Tensor, maxima: Tensor, most: int) -> Tensor:
    """The columns of the `most` largest logits of each row, (B, most), through the blocks with the largest maxima."""
    count, blocks = maxima.shape
    chosen = torch.topk(maxima, torch.sym_min(most, blocks), dim=1).indices
    flat = chosen + torch.arange(count).unsqueeze(1) * blocks
    some = torch.index_select(logits.view(-1, BLOCK), 0, flat.flatten()).view(count, -1)
    at = torch.topk(some, most, dim=1).indices
    return torch.gather(chosen, 1, at // BLOCK) * BLOCK + at % BLOCK


def _once(items: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
    """Items (B, E), which may occur several times, and what is added to each occurrence (B, E).

    A table over all V items would cost more than the product. So the occurrences share two tables of SLOTS, and the
    second one has the items that lost their slot in the first one. An item that loses both is dropped: about one of
    5,000.

    returns  whether an occurrence is the item's last one, (B, E); and there the sum over all occurrences, else 0
    """
    number = torch.arange(1, items.shape[1] + 1, dtype=added.dtype).unsqueeze(0).expand(items.shape)
    last, kept = _last(items, number, items % SLOTS)
    second, kept_second = _last(items, torch.where(kept, torch.zeros_like(added), number), items // 64 % SLOTS)
    last = torch.where(kept, last, torch.where(kept_second, second, number))
    total = torch.zeros_like(added).scatter_add(1, last.to(torch.int64) - 1, added)
    return (last == number) & (kept | kept_second), total


def _last(items: Tensor, number: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
    """The largest number > 0 in each occurrence's slot (B, E), and whether it belongs to the same item (B, E)."""
    table = torch.zeros(items.shape[0], SLOTS, dtype=number.dtype).scatter_reduce(1, slot, number, "amax")
    largest = torch.gather(table, 1, slot)
    return largest, torch.gather(items, 1, torch.clamp(largest.to(torch.int64) - 1, min=0)) == items


def _places(columns: I64, size: int, absent: int) -> Tensor:
    found = np.full(size, absent)
    found[columns] = np.arange(len(columns))
    return torch.from_numpy(found)


Ranking = ShortlistScore | RoundedScore
"""A graph of shortlist.onnx."""
