"""The recurrent cells: a user's input and state -> the state after a click, in two forms from one set of weights.

`sequence` is PyTorch's own layer, for training; `step` is one click in a few Gemms, for step.onnx. Both must stay the
same function: model/parity.py refuses a model where they differ. Which tensors a state has is the cell's to say; all
start as zeros, and the heads read the first, `h`.

Sources: Hochreiter & Schmidhuber 1997 and Gers et al. 2000 (LSTM), Cho et al. 2014 (GRU), Elman 1990 (RNN).
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from stream.manifest import Tensor as StateTensor


class Cell(nn.Module, ABC):
    """A recurrent layer of H units whose input is H wide too."""

    name: str
    """What `eddy train --cell` and the manifest call it."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden

    @property
    def state(self) -> tuple[StateTensor, ...]:
        """The tensors of one user's state, the one the heads read first."""
        return (StateTensor("h", (self.hidden,)),)

    def zero_state(self, batch: int) -> tuple[Tensor, ...]:
        """A new user's state, (batch, *shape) each."""
        return tuple(torch.zeros(batch, *part.shape) for part in self.state)

    @abstractmethod
    def sequence(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x (B, T, H), state (B, H) each -> the outputs after every click (B, T, H) and the last state."""

    @abstractmethod
    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """x (B, H), state (B, H) each -> the new state. Gemms beat ONNX Runtime's own recurrent operators."""

    def output(self, state: tuple[Tensor, ...]) -> Tensor:
        """The part of the state that the heads read, (B, H)."""
        return state[0]


class LstmCell(Cell):
    """State (h, c). nn.LSTM's gate order is i, f, g, o."""

    name = "lstm"

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        with torch.no_grad():  # a forget gate that starts open keeps what came before
            self.lstm.get_parameter("bias_ih_l0")[hidden : 2 * hidden].fill_(1.0)

    @property
    def state(self) -> tuple[StateTensor, ...]:
        return StateTensor("h", (self.hidden,)), StateTensor("c", (self.hidden,))

    def sequence(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        out, last = self.lstm(x, tuple(part.unsqueeze(0).contiguous() for part in state))
        return out, tuple(part.squeeze(0) for part in last)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h, c = state
        i, f, g, o = _one_gemm(self.lstm, x, h).chunk(4, dim=1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


class GruCell(Cell):
    """State (h,): half a row of an LSTM's. nn.GRU's gate order is r, z, n; r resets after the product with h."""

    name = "gru"

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)

    def sequence(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        out, last = self.gru(x, state[0].unsqueeze(0).contiguous())
        return out, (last.squeeze(0),)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (h,) = state
        get = self.gru.get_parameter
        from_x = torch.addmm(get("bias_ih_l0"), x, get("weight_ih_l0").t())
        from_h = torch.addmm(get("bias_hh_l0"), h, get("weight_hh_l0").t())
        (rx, zx, nx), (rh, zh, nh) = from_x.chunk(3, dim=1), from_h.chunk(3, dim=1)
        z = torch.sigmoid(zx + zh)
        new = torch.tanh(nx + torch.sigmoid(rx + rh) * nh)
        return (new + z * (h - new),)


class RnnCell(Cell):
    """State (h,), tanh, no gates: the cheapest step and the shortest memory."""

    name = "rnn"

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.rnn = nn.RNN(hidden, hidden, batch_first=True)

    def sequence(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        out, last = self.rnn(x, state[0].unsqueeze(0).contiguous())
        return out, (last.squeeze(0),)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.tanh(_one_gemm(self.rnn, x, state[0])),)


def _one_gemm(layer: nn.RNNBase, x: Tensor, h: Tensor) -> Tensor:
    """What all gates see, (B, gates * H): one Gemm over [x, h], which is faster than two."""
    get = layer.get_parameter
    weight = torch.cat([get("weight_ih_l0"), get("weight_hh_l0")], dim=1)
    return torch.addmm(get("bias_ih_l0") + get("bias_hh_l0"), torch.cat([x, h], dim=1), weight.t())


CELLS: dict[str, type[Cell]] = {cell.name: cell for cell in (LstmCell, GruCell, RnnCell)}
