"""Attention: one block of a causal transformer over the last R clicks, read for the newest of them.

The row keeps no keys and values. With q the query of the newest click and x the input of an earlier one,
q . (K x) = (K^T q) . x, and sum a V x = V sum a x. So one click costs one product with K and one with V, whether keys
and values of the earlier clicks are kept or not, and a row with them would have 8 H bytes more for each click.

Relative positions are a learned logit for each head and age. An empty position has the input zero: it takes a share
of the attention and adds nothing.

Sources: Vaswani et al. 2017 (transformer); Kang & McAuley 2018 (SASRec, the same for items); Raffel et al. 2020
(positions as learned logits).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from export.cells.window import WINDOW, WindowCell

HEADS = 4


class AttentionCell(WindowCell):
    """Attention over the window and a feed-forward layer, each with its input added."""

    name = "attention"

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.heads = math.gcd(HEADS, hidden)
        self.width = hidden // self.heads
        bound = 1 / math.sqrt(hidden)
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Parameter(torch.empty(self.heads, self.width, hidden).uniform_(-bound, bound))
        self.value = nn.Parameter(torch.empty(self.heads, hidden, self.width).uniform_(-bound, bound))
        self.age = nn.Parameter(torch.zeros(self.heads, WINDOW))  # of each position, oldest first
        self.joined = nn.Linear(hidden, hidden)
        self.inner = nn.Linear(hidden, hidden)
        self.outer = nn.Linear(hidden, hidden)

    def read(self, window: Tensor) -> Tensor:
        newest = window[:, -1]
        query = self._by_head(self._query(newest)).transpose(0, 1)
        wanted = torch.matmul(query, self.key).transpose(0, 1)  # (B, heads, H)
        share = torch.softmax(torch.matmul(wanted, window.transpose(1, 2)) + self.age, dim=2)
        mean = torch.matmul(share, window).transpose(0, 1)  # (heads, B, H)
        return self._out(torch.matmul(mean, self.value).transpose(0, 1).flatten(1), newest)

    def read_all(self, inputs: Tensor) -> Tensor:
        newest = inputs[:, WINDOW - 1 :]
        count, length = newest.shape[1], inputs.shape[1]
        query = self._by_head(self._query(newest)).transpose(1, 2)
        key = self._by_head(linear(inputs, self.key.flatten(0, 1))).transpose(1, 2)
        value = torch.matmul(inputs.unsqueeze(1), self.value)  # (B, heads, length, width)
        logits = torch.matmul(query, key.transpose(2, 3)) + self._ages(count, length)
        mean = torch.matmul(torch.softmax(logits, dim=3), value)
        return self._out(mean.transpose(1, 2).flatten(2), newest)

    def _query(self, newest: Tensor) -> Tensor:
        query: Tensor = self.query(newest)
        return query / math.sqrt(self.width)

    def _by_head(self, values: Tensor) -> Tensor:
        """(..., H) -> (..., heads, width)."""
        return values.reshape(*values.shape[:-1], self.heads, self.width)

    def _ages(self, count: int, length: int) -> Tensor:
        """The logits of all positions for each of the windows (heads, count, length), -inf outside the window."""
        device = self.age.device
        position = torch.arange(length, device=device) - torch.arange(count, device=device).unsqueeze(1)
        inside = (position >= 0) & (position < WINDOW)
        return self.age[:, position.clamp(0, WINDOW - 1)].masked_fill(~inside, -math.inf)

    def _out(self, mean: Tensor, newest: Tensor) -> Tensor:
        found = newest + self.joined(mean)
        return torch.tanh(found + self.outer(torch.relu(self.inner(found))))
