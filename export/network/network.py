"""The network: a user's clicks -> one recurrent state -> which item comes next, and how surprising that one was.

One state feeds three heads: ranking (flat, tied to the item rows), event type, and surprise, a two-level softmax that
is a normalised likelihood at O(sqrt V) instead of O(V) (surprise.py). Ranking and surprise are mixed with what the
user's last items bring (mixture.py). `sequence` (for training) and `step` (exported) must stay the same function:
model/parity.py refuses to write a model where they differ.

Item rows and outputs are compared by direction alone: a row's length would be its popularity a second time, which the
bias has already, and what a rare item is like would count for little.

Sources: Hidasi et al. 2016 (GRU4Rec) for the recommender; Gupta et al. 2019 (NISER) for unit rows.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from export.network import mixture
from export.network.cells import CELLS, LstmCell
from export.network.mixture import LANES, Mixture, log, remember, visit_so_far
from export.network.surprise import SurpriseHead
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


class Network(nn.Module):
    """Embeddings, the cell and the heads; `mixture` and `surprise` are fitted last, on frozen states (fit/heads.py)."""

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
