"""Cells that read a window of the last R clicks: feed-forward and convolution here, attention in attention.py.

Their output is a function of the inputs of the last R clicks, oldest first. A position before the user's first click
has the input zero. So a zero state is an empty window, and no mask is needed: training and serving add the same zeros.

The state in training is the inputs of the last R - 1 clicks. A row keeps item, event type and gap of those clicks
instead, 7 bytes per click, and reads their inputs again from the tables of embeddings. With 192 units the inputs
themselves would have 768 bytes per click.

Sources: Bengio et al. 2003 (feed-forward network over the last embeddings); van den Oord et al. 2016 (causal dilated
convolutions, WaveNet); Yuan et al. 2019 (NextItNet, the same for items).
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from export.cells.cell import Cell, Embed
from stream.manifest import Tensor as StateTensor

WINDOW = 16
"""R, the clicks of a window, a power of two. Few sessions of a shop are longer."""


class WindowCell(Cell):
    """State (h, past): past (R - 1, H) has the inputs of the earlier clicks of the window, oldest first."""

    @property
    def state(self) -> tuple[StateTensor, ...]:
        return StateTensor("h", (self.hidden,)), StateTensor("past", (WINDOW - 1, self.hidden))

    @property
    def row(self) -> tuple[StateTensor, ...]:
        """h, and the earlier clicks of the window, oldest first: item + 1 (0 = no click), event type and gap bucket."""
        earlier = (WINDOW - 1,)
        return (
            StateTensor("h", (self.hidden,)),
            StateTensor("window_items", earlier, "int32"),
            StateTensor("window_types", earlier, "int16"),
            StateTensor("window_gaps", earlier, "int8"),
        )

    @abstractmethod
    def read(self, window: Tensor) -> Tensor:
        """The inputs of one window of B users (B, R, H), oldest first -> h (B, H)."""

    @abstractmethod
    def read_all(self, inputs: Tensor) -> Tensor:
        """Inputs (B, R - 1 + T, H) of T overlapping windows -> h of each (B, T, H)."""

    def sequence(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        inputs = torch.cat([state[1], x], dim=1)
        out = self.read_all(inputs)
        return out, (out[:, -1], inputs[:, 1 - WINDOW :])

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        window = torch.cat([state[1], x.unsqueeze(1)], dim=1)
        return self.read(window), window[:, 1:]

    def row_step(
        self, click: tuple[Tensor, Tensor, Tensor], embed: Embed, row: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        item, event_type, gap = click
        now = (item + 1).to(torch.int32), event_type.to(torch.int16), gap.to(torch.int8)
        items, types, gaps = (
            torch.cat([earlier, one.unsqueeze(1)], dim=1) for earlier, one in zip(row[1:], now, strict=True)
        )
        inputs = embed(torch.clamp(items.to(torch.int64) - 1, min=0), types.to(torch.int64), gaps.to(torch.int64))
        clicked = torch.clamp(items, max=1).to(inputs.dtype).unsqueeze(2)
        return self.read(inputs * clicked), items[:, 1:], types[:, 1:], gaps[:, 1:]


class FfnCell(WindowCell):
    """Feed-forward: one hidden layer over the R inputs side by side, and the newest input added."""

    name = "ffn"

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.inner = nn.Linear(WINDOW * hidden, hidden)
        self.outer = nn.Linear(hidden, hidden)

    def read(self, window: Tensor) -> Tensor:
        return self._out(self.inner(window.flatten(1)), window[:, -1])

    def read_all(self, inputs: Tensor) -> Tensor:
        """One product for each position of the window: the windows side by side would need R times the memory."""
        count = inputs.shape[1] - WINDOW + 1
        parts = self.inner.weight.chunk(WINDOW, dim=1)
        inner = self.inner.bias + sum(
            linear(inputs[:, position : position + count], part) for position, part in enumerate(parts)
        )
        return self._out(inner, inputs[:, WINDOW - 1 :])

    def _out(self, inner: Tensor, newest: Tensor) -> Tensor:
        return torch.tanh(newest + self.outer(torch.relu(inner)))


class CnnCell(WindowCell):
    """Causal convolutions of two inputs with dilations 1, 2, 4, 8, each with its newer input added.

    One window needs R - 1 products: half as many in each layer, because the others are in no path to the newest click.
    """

    name = "cnn"

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.layers = nn.ModuleList(nn.Linear(2 * hidden, hidden) for _ in range(WINDOW.bit_length() - 1))
        self.outer = nn.Linear(hidden, hidden)

    def read(self, window: Tensor) -> Tensor:
        for layer in self.layers:
            newer = window[:, 1::2]
            window = newer + torch.relu(layer(torch.cat([window[:, ::2], newer], dim=2)))
        return torch.tanh(self.outer(window[:, 0]))

    def read_all(self, inputs: Tensor) -> Tensor:
        for number, layer in enumerate(self.layers):
            dilation = 1 << number
            older, newer = inputs[:, :-dilation], inputs[:, dilation:]
            inputs = newer + torch.relu(layer(torch.cat([older, newer], dim=2)))
        return torch.tanh(self.outer(inputs))
