"""Fits the head (network.py) on the clicks of a log.

1. The users are divided into MEMBERS parts. Each member of a task is trained without one part. So each click has a
   member that never saw its user, and these members together say when to stop, and calibrate.
2. Each task is kept after its own best epoch: the intent, with few positive sessions, ends earlier than the types.

The loss is the likelihood, without weights of classes: probabilities have to be right, and a rank does not depend on
the share of a class.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, dropout, gelu, softplus

from export.ahead.calibration import Labels, calibration
from export.ahead.network import LIMIT, TASKS, AheadHead, by_logit, features, hour_features
from export.ahead.upcoming import EDGES_MS, UNKNOWN, Upcoming
from export.arrays import I64, Flags
from stream.ahead.counters import COUNTERS

MEMBERS, UNITS = 4, 8
"""Members of each task, and hidden units of each. With three times the units no held-out loss was lower."""

EPOCHS, PATIENCE = 15, 3
RATE, DECAY, DROPOUT = 6e-3, 0.1, 0.2
AVERAGED = 0.98
"""Share of the averaged weights that stays after a step; the averaged weights are kept."""

WHOLE_DAY_H = 22
"""A log whose hours span less is shorter than a day. There the hour only says how old a click is, so it is not read."""


class Examples(NamedTuple):
    """m clicks.

    counters    (m, C) float32
    event_type  (m,) int64
    user        (m,) int64
    label       Upcoming of the clicks
    """

    counters: Tensor
    event_type: Tensor
    user: I64
    label: Upcoming

    def where(self, keep: Flags) -> "Examples":
        """The clicks where keep (m,) is True."""
        rows = torch.from_numpy(keep)
        return Examples(self.counters[rows], self.event_type[rows], self.user[keep], self.label.where(keep))


def fit_head(examples: Examples, event_types: int, seed: int) -> AheadHead:
    """A calibrated head, which trusts the networks fully."""
    fit, label = _Fit(examples, event_types, seed), Labels.of(examples.label, event_types)
    hidden, hidden_bias, outs, linears, biases = [], [], [], [], []
    for task, kept in zip(TASKS, fit.kept, strict=True):
        hidden.append(kept["hidden"].transpose(1, 2).flatten(0, 1))
        hidden_bias.append(kept["hidden_bias"].flatten())
        outs.append(kept[f"{task} out"].flatten(0, 1).t() / MEMBERS)
        linears.append(kept[f"{task} linear"].mean(dim=0).t())
        biases.append(kept[f"{task} bias"].mean(dim=0).squeeze(0))
    slope, offset = calibration([fit.unseen_logits(number) for number in range(len(TASKS))], label)
    return AheadHead(
        event_types,
        mean=fit.mean,
        scale=fit.scale,
        hidden=torch.cat(hidden).contiguous(),
        hidden_bias=torch.cat(hidden_bias),
        linear=torch.cat(linears).contiguous(),
        bias=torch.cat(biases),
        out=torch.block_diag(*outs),  # type: ignore[no-untyped-call]
        slope=by_logit(slope, event_types),
        offset=by_logit(offset, event_types),
        table=_table(examples.event_type, label, event_types),
    ).eval()


def _table(event_type: Tensor, label: Labels, event_types: int) -> Tensor:
    """The table of a head: what followed each event type, smoothed by one click of all types."""
    known, kinds = label.next_type >= 0, event_types + 1
    columns = [_shares(event_type[known], label.next_type[known], kinds, kinds).log()]
    for target in label.binary():
        share = _shares(event_type[target >= 0], target[target >= 0], kinds, 2)
        columns.append((share[:, 1:] / share[:, :1]).log())
    return torch.cat(columns, dim=1).float()


def _shares(group: Tensor, target: Tensor, groups: int, classes: int) -> Tensor:
    """(groups, classes) the shares of the classes of the targets (m,) in each group (m,)."""
    base = torch.bincount(target, minlength=classes).double() + 0.5
    counts = torch.bincount(group * classes + target, minlength=groups * classes).view(groups, classes)
    found = counts + base / base.sum()
    return found / found.sum(dim=1, keepdim=True)


def _losses(types: Tensor, intent: Tensor, hazards: Tensor, label: Labels) -> list[Tensor]:
    """Loss of each task for M members, (M, n) nats; 0 where the label is unknown.

    types (M, n, T + 1), intent (M, n), hazards (M, n, E)
    """
    members = len(types)
    target = label.next_type.expand(members, -1)
    of_type = cross_entropy(types.flatten(0, 1), target.flatten(), ignore_index=UNKNOWN, reduction="none")
    passed = torch.arange(len(EDGES_MS)) < label.passed.unsqueeze(1)
    at = label.passed.clamp(max=len(EDGES_MS) - 1).unsqueeze(1).expand(members, -1, 1)
    hit = softplus(-hazards.gather(2, at)).squeeze(2) * label.clicked
    of_intent = binary_cross_entropy_with_logits(intent, label.intent.float().expand(members, -1), reduction="none")
    return [
        of_type.view(members, -1),
        torch.where(label.intent >= 0, of_intent, 0.0),
        (softplus(hazards) * passed).sum(dim=2) + hit,
    ]


class _Fit:
    """The training of all members at once. In the training the tasks of a member share its hidden units."""

    def __init__(self, examples: Examples, event_types: int, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._label = Labels.of(examples.label, event_types)
        x = features(examples.counters, examples.event_type)
        self.mean, self.scale = x.mean(dim=0), 1 / (x.std(dim=0, unbiased=False) + 0.01)
        hour = examples.counters[:, COUNTERS.index("hour")]
        if float(hour.max() - hour.min()) < WHOLE_DAY_H:
            self.scale[hour_features(event_types)] = 0.0
        self._x = ((x - self.mean) * self.scale).clamp(-LIMIT, LIMIT)
        _, number = np.unique(examples.user, return_inverse=True)
        shuffled = np.random.default_rng(seed).permutation(int(number.max()) + 1) % MEMBERS
        self._left_out = torch.from_numpy(shuffled[number])  # the member that is trained without the click
        width = x.shape[1]
        self._weights = {
            "hidden": torch.randn(MEMBERS, width, UNITS, generator=self._generator) / width**0.5,
            "hidden_bias": torch.zeros(MEMBERS, 1, UNITS),
        }
        for task, size in zip(TASKS, (event_types + 1, 1, len(EDGES_MS)), strict=True):
            self._weights[f"{task} out"] = torch.randn(MEMBERS, UNITS, size, generator=self._generator) * 0.05
            self._weights[f"{task} linear"] = torch.zeros(MEMBERS, width, size)
            self._weights[f"{task} bias"] = torch.full((MEMBERS, 1, size), -2.0 if task != "next" else 0.0)
        self.kept: list[dict[str, Tensor]] = [{} for _ in TASKS]
        self.epochs = [0] * len(TASKS)
        self._train()

    def _forward(self, weights: dict[str, Tensor], x: Tensor, training: bool) -> list[Tensor]:
        """Logits of each task, (M, n, size), of standardised inputs (n, F)."""
        wide = x.expand(MEMBERS, -1, -1)
        units = gelu(torch.baddbmm(weights["hidden_bias"], wide, weights["hidden"]), approximate="tanh")
        if training:
            units = dropout(units, DROPOUT)
        return [
            torch.baddbmm(weights[f"{task} bias"], units, weights[f"{task} out"])
            + torch.bmm(wide, weights[f"{task} linear"])
            for task in TASKS
        ]

    def _train(self) -> None:
        torch.manual_seed(int(torch.randint(1 << 31, (1,), generator=self._generator)))  # of the dropout
        for weight in self._weights.values():
            weight.requires_grad_()
        optimizer = torch.optim.AdamW(self._weights.values(), RATE, weight_decay=DECAY)
        n = len(self._x)
        tokens = int(np.clip(n // 32, 64, 1024))
        averaged = {name: weight.detach().clone() for name, weight in self._weights.items()}
        best, since = [float("inf")] * len(TASKS), 0
        for epoch in range(EPOCHS):
            for rows in torch.randperm(n, generator=self._generator).split(tokens):  # type: ignore[no-untyped-call]
                losses = self._of_rows(self._weights, rows, True)
                seen = self._left_out[rows] != torch.arange(MEMBERS).unsqueeze(1)
                loss = sum(((one * seen).sum() for one in losses), torch.zeros(())) / len(rows)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                for name, weight in self._weights.items():
                    averaged[name].lerp_(weight.detach(), 1 - AVERAGED)
            since += 1
            for number, loss_of in enumerate(self._unseen_losses(averaged)):
                if loss_of < best[number] - 1e-5:
                    best[number], since, self.epochs[number] = loss_of, 0, epoch + 1
                    self.kept[number] = {name: weight.clone() for name, weight in averaged.items()}
            if since >= PATIENCE:
                break

    def _of_rows(self, weights: dict[str, Tensor], rows: Tensor, training: bool) -> list[Tensor]:
        types, intent, hazards = self._forward(weights, self._x[rows], training)
        return _losses(types, intent.squeeze(2), hazards, self._label.at(rows))

    @torch.no_grad()
    def _unseen_losses(self, weights: dict[str, Tensor]) -> list[float]:
        """Mean loss of each task over all clicks, each by the member that is trained without its user."""
        total = [0.0] * len(TASKS)
        for rows in torch.arange(len(self._x)).split(8192):  # type: ignore[no-untyped-call]
            own = self._left_out[rows].unsqueeze(0)
            for number, loss in enumerate(self._of_rows(weights, rows, False)):
                total[number] += float(loss.gather(0, own).sum()) / len(self._x)
        return total

    @torch.no_grad()
    def unseen_logits(self, number: int) -> Tensor:
        """Logits of a task, (n, size), each by the member that is trained without the click's user."""
        parts = []
        for rows in torch.arange(len(self._x)).split(8192):  # type: ignore[no-untyped-call]
            logits = self._forward(self.kept[number], self._x[rows], False)[number]
            parts.append(logits[self._left_out[rows], torch.arange(len(rows))])
        return torch.cat(parts)
