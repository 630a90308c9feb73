"""Clicks -> network: the steps of one epoch.

The ranking head is trained as GRU4Rec is (Hidasi & Karatzoglou 2018): sampled softmax with shared negatives drawn with
p ~ count^alpha and corrected by log Q. A step touches the item rows of its batch only, never all V.
"""

import copy
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, embedding

from export.arrays import I64
from export.dataset.popularity import Recency
from export.dataset.windows import Batch, Clicks, Windows
from export.network.network import INPUT_LENGTH, Network, unit
from export.network.states import CarriedStates
from export.progress import Progress
from export.train.settings import TrainSettings
from stream.lists.rules import NO_CATEGORY

ALL_ALIKE = Recency(None)


class RowAdagrad:
    """Adagrad for the rows a step touched: all V rows for every small batch would cost more than the LSTM does.

    A row's first gradients move it by the whole rate, so an item of few clicks finds its place; Adam would take
    hundreds. The accumulator starts at zero, or a row's at what an older training has learned of it: that row is to
    be adjusted, not moved anew. Source: Duchi et al. 2011, as GRU4Rec uses it.
    """

    def __init__(self, rows: nn.Parameter, squares: Tensor | None = None) -> None:
        """squares: sums of the gradients' squares so far, of a shape that expands to the rows'; None = zeros."""
        self._rows = rows.data
        self.squares = torch.zeros_like(rows.data) if squares is None else squares.expand_as(rows).clone()

    def step(self, index: Tensor, gradient: Tensor, rate: float) -> None:
        """index (m,) int64 without repeats, gradient (m, ...) of those rows."""
        squares = self.squares[index].addcmul_(gradient, gradient)
        self.squares.index_copy_(0, index, squares)
        self._rows.index_add_(0, index, gradient / squares.sqrt_().add_(1e-6), alpha=-rate)


class Trainer:
    """Steps the network through the windows of `clicks`, for `epochs` rounds."""

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
        popularity  of all clicks alike: the item bias begins with it, and negatives are drawn by it
        category    (V,) of each item, NO_CATEGORY = none
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
        with torch.no_grad():  # Adam alone would take longer to move a bias by nats than there are steps
            network.item_bias.copy_(torch.from_numpy(share).log())
        self._dense = [*network.cell.parameters(), network.event_rows, network.gap_rows]
        self._adam = torch.optim.Adam(self._dense, betas=(0.9, 0.98))
        self._item_rows = RowAdagrad(network.item_rows, network.row_squares.unsqueeze(1))
        self._item_bias = RowAdagrad(network.item_bias, network.bias_squares)
        # An item's row is its own and its category's together: few clicks on an item teach about all that are like it.
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
        """One round, older clicks first; returns the mean loss."""
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
        """A copy of the network as it stands, its rows with their category's, and of length 1."""
        copied = copy.deepcopy(self._network)
        rows = copied.item_rows.data + self._shared.data[self._category]
        copied.item_rows.data = unit(rows)
        # At length 1 a gradient is `length` times as large, and a step turns the row `length` times as far: the square
        # root of the sums must be `length` squared times as large for the next step to turn it as this one would.
        copied.row_squares = self._item_rows.squares.mean(dim=1) * rows.square().sum(dim=1).square()
        copied.bias_squares = self._item_bias.squares.clone()
        return copied.eval()

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, for a checkpoint."""
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
        """Go on from where `state` was taken, to the same bits."""
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
        """What the item and category rows' optimizers remember."""
        return [self._item_rows.squares, self._shared_rows.squares, self._item_bias.squares]

    def _pace(self) -> float:
        """The share of the rates that holds now: up within fifty steps, then down to a twentieth at the end."""
        done = self._number / max(1, self._steps)
        return min(1.0, self._number / 50) * max(0.05, 1 - 0.95 * done)

    def _step(self, clicks: Clicks, batch: Batch, carried: CarriedStates) -> tuple[float, int]:
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
        self._shared.data[0] = 0.0  # of no category
        self._item_bias.step(index, bias.grad, self._settings.row_rate * self._pace())
        return mean.item(), len(loss)

    def _clicked(self, item: Tensor, rows: Tensor) -> Tensor:
        """What the cell reads of the items clicked (B, T): the rows (B, T, H) that the list is ranked by too."""
        return rows * INPUT_LENGTH

    def _with_unknowns(self, clicks: Clicks, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Half of the clicks on new items become <unk>, as input and as target: that is what a new item will be.

        returns  item (B, T), target (m,), and where the m positions that have a target are, (B, T) bool
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
        """(m,) sampled softmax cross-entropy: the others' share of the normaliser is an importance-sampled estimate.

        The wanted item is in the normaliser for certain, so log Q corrects the others only; a negative that happens to
        be the wanted item is taken out.
        """
        own = (out * rows[wanted]).sum(1) + bias[wanted]
        correction = bias[others] - log_q - float(np.log(self._settings.negatives))
        rivals = torch.addmm(correction, out, rows[others].t())
        rivals = rivals.masked_fill(wanted.unsqueeze(1) == others.unsqueeze(0), -1e9)
        logits = torch.cat([own.unsqueeze(1), rivals], dim=1)
        return cross_entropy(logits, torch.zeros_like(wanted), reduction="none")
