"""The network: a user's clicks -> one recurrent state -> scores of the next item, and the surprise of each click.

Three heads read the state:

- ranking: the logits of all V items, from the item rows that the cell also reads (tied weights);
- event type: a softmax over the type of the next event;
- surprise: the probability of one item by a two-level softmax, O(sqrt V) instead of O(V) (surprise.py).

The probabilities of ranking and surprise are mixed with co-occurrence and repeat components (mixture.py). The training
loss is in loss.py. The rule: `Cell.sequence` (training) and `Cell.step` (exported) must compute the same function;
model/parity.py rejects a model where they differ.

Item rows and outputs have fixed lengths, so logits depend on directions and on the bias. With free lengths, the length
of a row would encode popularity, which the bias already does, and rare items would get small logits.

Sources: Hidasi et al. 2016 (GRU4Rec) for the recommender; Gupta et al. 2019 (NISER) for unit rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from export.cells.names import CELLS
from export.cells.recurrent import LstmCell
from export.network.mixture import LANES, Mixture, log, remember, session_before
from export.network.surprise import SurpriseHead
from stream.manifest import Tensor as StateTensor

SHARPNESS = 16.0
"""Length of an output: the logit, without the bias, of an item row that has the direction of the output."""

INPUT_LENGTH = 4.0
"""Length of an item's row in the input of the cell."""

SMALLEST = 1e-12
"""Smallest squared length that a row is divided by; it keeps zeros as zeros."""


class Sizes(NamedTuple):
    """The sizes of a network: V known items, T event types, gap buckets, H units of state, and the name of the cell."""

    items: int
    event_types: int
    gaps: int
    hidden: int
    cell: str = LstmCell.name


class Network(nn.Module):
    """Embeddings, the cell and the heads.

    `mixture` and `surprise` are absent until they are fitted, after the training, on frozen states (fit/).
    """

    mixture: Mixture
    surprise: SurpriseHead
    # Adagrad sums, for a training that starts from this model; no ONNX graph reads them. Known items then move little.
    row_squares: Tensor  # (V + 1,) sum of the squared gradients of each item row, mean over H
    bias_squares: Tensor  # (V + 1,) sum of the squared gradients of each item bias

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
        """The device of the weights."""
        return self.item_rows.device

    def embed(self, item: Tensor, event_type: Tensor, gap: Tensor) -> Tensor:
        """Cell input of clicks: int64 indices (...) -> (..., H), the sum of the item, event type and gap rows."""
        x = embedding(item, self.item_rows) * INPUT_LENGTH + embedding(event_type, self.event_rows)
        return x + embedding(gap, self.gap_rows)

    def output(self, h: Tensor) -> Tensor:
        """Cell output h (..., H) -> input of all heads (..., H): h scaled to length SHARPNESS; zeros stay zeros."""
        return unit(h) * SHARPNESS

    @property
    def state(self) -> tuple[StateTensor, ...]:
        """Names, shapes and dtypes of one user's state: what the cell keeps in a row, then the mixture."""
        return (*self.cell.row, *self.mixture.state)

    def zero_state(self, batch: int) -> tuple[Tensor, ...]:
        """The state of users without clicks: zeros, (batch, *shape) for each tensor."""
        return tuple(torch.zeros(batch, *part.shape, dtype=getattr(torch, part.dtype)) for part in self.state)

    def row_products(self, out: Tensor) -> Tensor:
        """out (B, H) of `output` -> dot products with the V known items' rows, (B, V): logits without the bias."""
        return torch.matmul(out, self.item_rows[:-1].t())

    def logits(self, out: Tensor) -> Tensor:
        """out (B, H) of `output` -> logits of the V known items, (B, V), without the mixture and its temperature."""
        return torch.addmm(self.item_bias[:-1], out, self.item_rows[:-1].t())

    def calibrated_logits(self, out: Tensor) -> Tensor:
        """out (B, H) -> calibrated logits (B, V): the mixture's temperature and bias weight are applied."""
        bias = self.item_bias[:-1] * self.mixture.bias_weight
        return torch.addmm(bias, out / self.mixture.temperature, self.item_rows[:-1].t())

    def log_probs(self, out: Tensor, recent: Tensor, session: Tensor) -> Tensor:
        """Log-probabilities of the V known items as in production, (B, V), nats.

        out (B, H) of `output`; mixture memory recent, session (B, R)
        """
        return self.mixture.log_probs(self.calibrated_logits(out), recent, session)


class Step(nn.Module):
    """One step of step.onnx: one click of B users and their states before it -> their states after it.

    step.onnx repeats it for T clicks of each user (model/onnx.py). It has only what a user's next click needs.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, item: Tensor, event_type: Tensor, gap: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        net = self.network
        *cell, recent, session = state
        after = net.cell.row_step((item, event_type, gap), net.embed, tuple(cell))
        return *after, *remember(item, gap, recent, session)


class Surprise(nn.Module):
    """The graph of surprise.onnx: clicks and the states before them -> surprises of item and event type (B,), nats.

    It is a graph of its own because it does not depend on the user's earlier results in the same batch: it runs on all
    clicks of a batch together, in parts that fit into the CPU's cache.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, item: Tensor, event_type: Tensor, gap: Tensor, h: Tensor, last_items: Tensor, visit_clicks: Tensor
    ) -> tuple[Tensor, Tensor]:
        net = self.network
        out = net.output(h)
        of_item = net.mixture.surprise(net.surprise(item, out), item, last_items, session_before(gap, visit_clicks))
        return of_item, -log(torch.softmax(net.event_head(out), dim=1).gather(1, event_type.unsqueeze(1)).squeeze(1))


def unit(rows: Tensor) -> Tensor:
    """(..., H) -> rows of the same direction with length 1; zeros stay zeros.

    The squares are summed by a matrix product with ones: results of ONNX Runtime's sum operators depend on the
    alignment of a row in memory.
    """
    squares = torch.matmul(rows * rows, torch.ones(rows.shape[-1], LANES, dtype=rows.dtype, device=rows.device))[
        ..., :1
    ]
    return rows / torch.sqrt(torch.clamp(squares, min=SMALLEST))
