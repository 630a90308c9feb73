"""The training steps of one epoch: clicks -> updated network weights.

The loss is sampled softmax with shared negatives, drawn with p ~ count^alpha and corrected by log Q (network/loss.py).
The cell is updated by Adam, item rows and biases by Adagrad. A step reads and writes only the item rows of its batch
(clicked items, targets, negatives), never all V rows.
"""

import copy
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding

from export.arrays import I64
from export.dataset.popularity import Recency
from export.dataset.windows import Batch, Clicks, Windows
from export.network.loss import sampled_softmax_loss
from export.network.network import INPUT_LENGTH, Network, unit
from export.network.states import CarriedStates
from export.progress import Progress
from export.train.settings import TrainSettings
from stream.lists.rules import NO_CATEGORY

ALL_ALIKE = Recency(None)


class RowAdagrad:
    """Adagrad that updates only the rows of one step: updating all V rows would cost more than the LSTM.

    The first gradients of a row move it by the full learning rate, so the row of an item with few clicks converges in a
    few steps; Adam would need hundreds. The accumulator starts at zero, or at the sums of an older training: rows that
    were trained before then move little. Source: Duchi et al. 2011, as used by GRU4Rec.
    """

    def __init__(self, rows: nn.Parameter, squares: Tensor | None = None) -> None:
        """squares: initial sums of squared gradients, in a shape that expands to that of rows; None = zeros."""
        self._rows = rows.data
        self.squares = torch.zeros_like(rows.data) if squares is None else squares.expand_as(rows).clone()

    def step(self, index: Tensor, gradient: Tensor, rate: float) -> None:
        """Update some rows in place: index (m,) int64 without duplicates, gradient (m, ...) of these rows."""
        squares = self.squares[index].addcmul_(gradient, gradient)
        self.squares.index_copy_(0, index, squares)
        self._rows.index_add_(0, index, gradient / squares.sqrt_().add_(1e-6), alpha=-rate)


class Trainer:
    """Trains a network on `clicks`, one epoch per call of `epoch`."""

    def __init__(
        self,
        network: Network,
        clicks: Clicks,
        settings: TrainSettings,
        progress: Progress,
        popularity: Recency = ALL_ALIKE,
        category: I64 | None = None,
    ) -> None:
        """
        network     trained in place, moved to settings.device
        popularity  initial item bias and sampling distribution of the negatives; without recency correction
        category    (V,) int64, category of each item, NO_CATEGORY = none; None = no categories
        """
        device = torch.device(settings.device)
        self._network = network.to(device)
        self._settings = settings
        self._progress = progress
        self._windows = Windows(clicks)
        self._dropout_rng = torch.cuda if device.type == "cuda" else torch  # dropout draws from the global generator
        self._rng = np.random.default_rng(settings.seed)
        self._generator = torch.Generator(device).manual_seed(settings.seed)
        unknown = network.sizes.items
        share = popularity.share(clicks.item, clicks.time_ms, unknown)
        q = torch.from_numpy(share**settings.alpha)
        self._log_q = (q / q.sum()).log().float().to(device)
        self._cumulative = torch.cumsum(q / q.sum(), 0).to(device)
        with torch.no_grad():  # from zero, gradient steps would not reach biases of several nats in time
            network.item_bias.copy_(torch.from_numpy(share).log())
        self._dense = [*network.cell.parameters(), network.event_rows, network.gap_rows]
        self._adam = torch.optim.Adam(self._dense, betas=(0.9, 0.98))
        self._item_rows = RowAdagrad(network.item_rows, network.row_squares.unsqueeze(1))
        self._item_bias = RowAdagrad(network.item_bias, network.bias_squares)
        # Each item's row is the sum of an item part and a category part, so a click also trains the similar items.
        named = np.zeros(unknown + 1, np.int64)  # of each item and of the unknown one; 0 = no category
        if category is not None:
            named[:-1] = np.where(category == NO_CATEGORY, 0, category + 1)
        self._category = torch.from_numpy(named).to(device)
        self._shared = nn.Parameter(torch.zeros(int(self._category.max()) + 1, network.sizes.hidden, device=device))
        learned = torch.zeros(len(self._shared), device=device).index_add_(0, self._category, network.row_squares)
        self._shared_rows = RowAdagrad(self._shared, learned.unsqueeze(1))
        self.steps_per_epoch = max(1, len(clicks) // settings.tokens)
        self._steps = settings.epochs * self.steps_per_epoch
        self._number = 0

    def epoch(self, label: str) -> float:
        """Train one epoch, older clicks first; returns the mean loss per target, nats. label: of the progress bar."""
        self._network.train()
        carried = CarriedStates(self._network, self._windows)
        self._progress.begin(label, len(self._windows.clicks))
        total, judged = 0.0, 0
        for batch in self._windows.shuffled(self._settings.tokens, self._rng):
            if (self._windows.clicks.target[batch.rows][batch.real] >= 0).any():
                loss, count = self._step(self._windows.clicks, batch, carried)
                total, judged = total + loss * count, judged + count
            self._progress.seen(int(batch.real.sum()))
        return total / max(1, judged)

    def trained(self) -> Network:
        """A copy of the current network in evaluation mode; item rows include the category part and have length 1."""
        copied = copy.deepcopy(self._network)
        rows = copied.item_rows.data + self._shared.data[self._category]
        copied.item_rows.data = unit(rows)
        # A row of length L is rescaled to length 1, so its Adagrad sums must be rescaled too. At length 1 the gradient
        # is L times as large, and a step of the same size turns the row L times as far. The next step turns the row by
        # the same angle if the square root of the sums is L^2 times as large.
        copied.row_squares = self._item_rows.squares.mean(dim=1) * rows.square().sum(dim=1).square()
        copied.bias_squares = self._item_bias.squares.clone()
        return copied.eval()

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on, for a checkpoint."""
        return {
            "network": self._network.state_dict(),
            "shared": self._shared.data,
            "adam": self._adam.state_dict(),
            "moments": self._moments(),
            "number": self._number,
            "rng": json.dumps(self._rng.bit_generator.state),
            "generator": self._generator.get_state(),
            "torch": self._dropout_rng.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`; the following epochs give the same bits as without the interruption."""
        self._network.load_state_dict(state["network"])
        self._shared.data.copy_(state["shared"])
        self._adam.load_state_dict(state["adam"])
        for mine, saved in zip(self._moments(), state["moments"], strict=True):
            mine.copy_(saved)
        self._number = state["number"]
        self._rng.bit_generator.state = json.loads(state["rng"])
        self._generator.set_state(state["generator"])
        self._dropout_rng.set_rng_state(state["torch"])

    def _moments(self) -> list[Tensor]:
        """Adagrad sums of the item rows, the category rows and the item biases."""
        return [self._item_rows.squares, self._shared_rows.squares, self._item_bias.squares]

    def _pace(self) -> float:
        """Learning-rate factor of the current step: linear warm-up over 50 steps, then linear decay to a twentieth."""
        done = self._number / max(1, self._steps)
        return min(1.0, self._number / 50) * max(0.05, 1 - 0.95 * done)

    def _step(self, clicks: Clicks, batch: Batch, carried: CarriedStates) -> tuple[float, int]:
        """One training step; returns the mean loss of the batch, nats, and its count of targets."""
        network, unknown = self._network, self._network.sizes.items
        item, target, at = (part.to(self._generator.device) for part in self._with_unknowns(clicks, batch))
        drawn = torch.rand(
            self._settings.negatives, generator=self._generator, dtype=torch.float64, device=self._generator.device
        )
        negatives = torch.searchsorted(self._cumulative, drawn).clamp(max=unknown)
        index, local = torch.unique(torch.cat([item.flatten(), target, negatives]), return_inverse=True)
        mine, wanted, others = local.split([item.numel(), len(target), len(negatives)])
        free = network.item_rows.data[index].requires_grad_()
        category, which = torch.unique(self._category[index], return_inverse=True)
        shared = self._shared.data[category].requires_grad_()
        rows = unit(free + shared[which])
        bias = network.item_bias.data[index].requires_grad_()

        x = self._clicked(item, embedding(mine.view(item.shape), rows))
        _, event_type, gap = (part.to(item.device) for part in clicks.inputs(batch.rows))
        x = x + embedding(event_type, network.event_rows) + embedding(gap, network.gap_rows)
        out, last = network.cell.sequence(dropout(x, self._settings.dropout), carried.take(batch))
        carried.leave(batch, last)
        out = network.output(dropout(out[at], self._settings.dropout))
        loss = self._loss(out, rows, bias, wanted, others, self._log_q[negatives])
        mean = loss.mean()

        self._number += 1
        for group in self._adam.param_groups:
            group["lr"] = self._settings.rate * self._pace()
        self._adam.zero_grad()
        mean.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([*self._dense, free, shared, bias], 1.0)
        self._adam.step()
        assert free.grad is not None
        assert shared.grad is not None
        assert bias.grad is not None
        self._item_rows.step(index, free.grad, self._settings.row_rate * self._pace())
        self._shared_rows.step(category, shared.grad, self._settings.row_rate * self._pace())
        self._shared.data[0] = 0.0  # row 0 is "no category" and stays zero
        self._item_bias.step(index, bias.grad, self._settings.row_rate * self._pace())
        return mean.item(), len(loss)

    def _clicked(self, item: Tensor, rows: Tensor) -> Tensor:
        """Cell input of the clicked items, (B, T, H): their ranking rows (B, T, H), scaled. item is (B, T) int64.

        A method, so that bench/ways.py can compare a second table of rows.
        """
        return rows * INPUT_LENGTH

    def _with_unknowns(self, clicks: Clicks, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Replace half of the clicks on fresh items by the unknown item, as input and as target.

        In production every new item is the unknown item, so the network must learn a row for it.

        returns  item (B, T) int64; target (m,) int64; (B, T) bool, True at the m positions that have a target
        """
        unknown = self._network.sizes.items
        rows = batch.rows
        hidden = self._rng.random(rows.shape) < 0.5
        item = np.where(clicks.fresh[rows] & hidden, unknown, clicks.item[rows])
        target = clicks.target[rows]
        following = np.minimum(rows + 1, len(clicks) - 1)
        next_hidden = np.roll(hidden, -1, axis=1)
        target = np.where((target >= 0) & clicks.fresh[following] & next_hidden, unknown, target)
        at = batch.real & (clicks.target[rows] >= 0)
        return torch.from_numpy(item).long(), torch.from_numpy(target[at]).long(), torch.from_numpy(at)

    def _loss(self, out: Tensor, rows: Tensor, bias: Tensor, wanted: Tensor, others: Tensor, log_q: Tensor) -> Tensor:
        """(m,) loss of each position, nats (network/loss.py). bench/ways.py overrides this method with other losses."""
        return sampled_softmax_loss(out, rows, bias, wanted, others, log_q)
