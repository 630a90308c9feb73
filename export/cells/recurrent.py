"""The recurrent cells (LSTM, GRU, RNN): their state is all that they know of the earlier clicks.

`sequence` runs PyTorch's own layer.

Sources: Hochreiter & Schmidhuber 1997 and Gers et al. 2000 (LSTM), Cho et al. 2014 (GRU), Elman 1990 (RNN).
"""

import torch
from torch import Tensor, nn

from export.cells.cell import Cell
from stream.manifest import Tensor as StateTensor


class LstmCell(Cell):
    """State (h, c). nn.LSTM's gate order is i, f, g, o."""

    name = "lstm"

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden)
        self.lstm = nn.LSTM(hidden, hidden, batch_first=True)
        with torch.no_grad():  # a forget gate that starts open keeps earlier clicks in the state
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
    """State (h,): half the size of an LSTM's. nn.GRU's gate order is r, z, n; r is applied after the product with h."""

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
    """State (h,), tanh, no gates. Of all cells it has the fastest step and the shortest memory."""

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
    """Pre-activations of all gates, (B, gates * H): one product with [x, h], which is faster than two products."""
    get = layer.get_parameter
    weight = torch.cat([get("weight_ih_l0"), get("weight_hh_l0")], dim=1)
    return torch.addmm(get("bias_ih_l0") + get("bias_hh_l0"), torch.cat([x, h], dim=1), weight.t())
