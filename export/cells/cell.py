"""The contract of all cells: the input of a click and the state before it -> the state after it.

Each cell has two forms with the same weights:

- `sequence` computes whole sequences at once, for training.
- `step` computes one click in a few matrix products, for export to step.onnx.

The rule: both forms must compute the same function. model/parity.py rejects a model where they differ. Each cell
defines the tensors of its state; all start as zeros, and the heads read the first one, `h`.

What a user's row keeps can be smaller than the state: `row` and `row_step`. A recurrent cell keeps its state. A window
cell keeps the clicks from which its state is made (window.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stream.manifest import Tensor as StateTensor

Embed = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Item, event type and gap of clicks, int64 (...) each -> inputs of the cell (..., H), as Network.embed."""


class Cell(nn.Module, ABC):
    """The part of a network that reads clicks: inputs of width H -> an output h of H units."""

    name: str
    """Name of the cell in `eddy train --network` and in the manifest."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden

    @property
    def state(self) -> tuple[StateTensor, ...]:
        """Names and shapes of the tensors of one user's state; the heads read the first one."""
        return (StateTensor("h", (self.hidden,)),)

    def zero_state(self, batch: int) -> tuple[Tensor, ...]:
        """The state of users without clicks: zeros, (batch, *shape) float32 for each tensor."""
        return tuple(torch.zeros(batch, *part.shape) for part in self.state)

    @abstractmethod
    def sequence(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """T clicks of B users: x (B, T, H), state (B, *shape) each -> outputs (B, T, H) and the last state."""

    @abstractmethod
    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One click of B users: x (B, H), state (B, *shape) each -> the new state.

        Written as matrix products, because they are faster than ONNX Runtime's recurrent operators.
        """

    def output(self, state: tuple[Tensor, ...]) -> Tensor:
        """The tensor of the state that the heads read, (B, H)."""
        return state[0]

    @property
    def row(self) -> tuple[StateTensor, ...]:
        """Names, shapes and dtypes of what a user's row keeps; the first one is `h`, and zeros are a new user."""
        return self.state

    def row_step(
        self, click: tuple[Tensor, Tensor, Tensor], embed: Embed, row: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """One click of B users, as step.onnx computes it.

        click    item, event type and gap, (B,) int64 each
        row      the tensors of `row` before the click, (B, *shape) each
        returns  those after it; the first one is the output of `step`
        """
        return self.step(embed(*click), row)
