"""Fits the head (network.py) on the clicks of a log.

1. The users are divided into MEMBERS parts. Each member of a task is trained without one part. So each click has a
   member that never saw its user, and these members together say when to stop, and calibrate.
2. Each task begins at the shares of its labels. It is kept after few epochs, and a task that begins elsewhere is still
   on the way to the shares of rare labels then.
3. Each task is kept after its own best epoch: the intent, with few positive sessions, ends earlier than the types.

The loss is the likelihood, without weights of classes: probabilities have to be right, and a rank does not depend on
the share of a class.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, dropout, gelu, softplus

from export.ahead.calibration import Labels, calibration
from export.ahead.network import (
    LIMIT,
    OUTPUTS,
    TASKS,
    AheadHead,
    Logits,
    by_logit,
    features,
    of_days,
    spans,
    time_logits,
    timers_of,
)
from export.ahead.upcoming import EDGES_MS, RETURN_AFTER, UNKNOWN, Upcoming
from export.arrays import I64, Flags
from stream.ahead.counters import COUNTERS

MEMBERS, UNITS = 4, 8
"""Members of each task, and hidden units of each. With three times the units no held-out loss was lower."""

EPOCHS, PATIENCE = 15, 3
RATE, DECAY, DROPOUT = 6e-3, 0.1, 0.2
AVERAGED = 0.98
"""Share of the averaged weights that stays after a step; the averaged weights are kept."""

WHOLE_DAY_H = 22
"""A log whose hours span less is shorter than a day. There the hour, and the clicks of a user in all sessions, only say
how old the log is at a click. So they are not read: later they are other ones."""

RARE, RARE_SHARE = 20, 1 / 1500
"""An input with another value than usual in fewer clicks, or in a smaller share of them, is not read: it would keep the
weights of the first step, and a later log may have it often."""


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


class Fitted(NamedTuple):
    """A calibrated head, which trusts the networks fully.

    unseen  logits of the clicks it was fitted on, each from a member and a table without the click's user
    """

    head: AheadHead
    unseen: Logits


def fit_head(examples: Examples, event_types: int, seed: int) -> Fitted:
    fit, label = _Fit(examples, event_types, seed), Labels.of(examples.label, event_types)
    hidden, hidden_bias, outs, linears, biases = [], [], [], [], []
    for task, kept in zip(TASKS, fit.kept, strict=True):
        hidden.append(kept["hidden"].transpose(1, 2).flatten(0, 1))
        hidden_bias.append(kept["hidden_bias"].flatten())
        outs.append(kept[f"{task} out"].flatten(0, 1).t() / MEMBERS)
        linears.append(kept[f"{task} linear"].mean(dim=0).t())
        biases.append(kept[f"{task} bias"].mean(dim=0).squeeze(0))
    logits = [fit.unseen_logits(number) for number in range(len(TASKS))]
    slope, offset = (by_logit(values, event_types) for values in calibration(logits, label))
    head = AheadHead(
        event_types,
        mean=fit.mean,
        scale=fit.scale,
        timers=fit.timers,
        hidden=torch.cat(hidden).contiguous(),
        hidden_bias=torch.cat(hidden_bias),
        linear=torch.cat(linears).contiguous(),
        bias=torch.cat(biases),
        out=torch.block_diag(*outs),  # type: ignore[no-untyped-call]
        slope=slope,
        offset=offset,
        table=_table(examples.event_type, label, event_types),
    ).eval()
    types, intent, hazards = logits
    networks = torch.cat([types, intent, time_logits(hazards, spans(RETURN_AFTER))], dim=1) * slope + offset
    return Fitted(head, Logits(networks, _unseen_table(examples.event_type, label, event_types, fit.left_out)))


def _unseen_table(event_type: Tensor, label: Labels, event_types: int, left_out: Tensor) -> Tensor:
    """Logits (n, T + 1 + 3) of the clicks, each from a table without the users of its part `left_out` (n,)."""
    found = torch.empty(len(event_type), event_types + len(OUTPUTS))
    for part in range(MEMBERS):
        own = left_out == part
        found[own] = _table(event_type[~own], label.at(~own), event_types)[event_type[own]]
    return found


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


def _first_biases(label: Labels, event_types: int) -> list[Tensor]:
    """The bias (size,) with which each task has the shares of its labels; each label counts half a click more."""
    types = torch.bincount(label.next_type[label.next_type >= 0], minlength=event_types + 1) + 0.5
    follows, not_so = ((label.intent == value).sum() + 0.5 for value in (1, 0))
    passed = (torch.arange(len(EDGES_MS)) < label.passed.unsqueeze(1)).sum(dim=0) + 0.5
    clicked = torch.bincount(label.passed[label.clicked], minlength=len(EDGES_MS)) + 0.5
    return [(types / types.sum()).log(), (follows / not_so).log().unsqueeze(0), (clicked / passed).log()]


class _Fit:
    """The training of all members at once. In the training the tasks of a member share its hidden units."""

    def __init__(self, examples: Examples, event_types: int, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._label = Labels.of(examples.label, event_types)
        self.timers = timers_of(examples.counters[:, COUNTERS.index("gap_s")])
        x = features(examples.counters, examples.event_type, self.timers)
        self.mean, self.scale = x.mean(dim=0), 1 / (x.std(dim=0, unbiased=False) + 0.01)
        varied = torch.minimum((x > x.amin(dim=0)).sum(dim=0), (x < x.amax(dim=0)).sum(dim=0))
        self.scale[varied < max(RARE, RARE_SHARE * len(x))] = 0.0
        hour = examples.counters[:, COUNTERS.index("hour")]
        if float(hour.max() - hour.min()) < WHOLE_DAY_H:
            self.scale[of_days(event_types)] = 0.0
        self._x = ((x - self.mean) * self.scale).clamp(-LIMIT, LIMIT)
        _, number = np.unique(examples.user, return_inverse=True)
        shuffled = np.random.default_rng(seed).permutation(int(number.max()) + 1) % MEMBERS
        self.left_out = torch.from_numpy(shuffled[number])  # the member that is trained without the click
        width = x.shape[1]
        self._weights = {
            "hidden": torch.randn(MEMBERS, width, UNITS, generator=self._generator) / width**0.5,
            "hidden_bias": torch.zeros(MEMBERS, 1, UNITS),
        }
        for task, bias in zip(TASKS, _first_biases(self._label, event_types), strict=True):
            self._weights[f"{task} out"] = torch.randn(MEMBERS, UNITS, len(bias), generator=self._generator) * 0.05
            self._weights[f"{task} linear"] = torch.zeros(MEMBERS, width, len(bias))
            self._weights[f"{task} bias"] = bias.repeat(MEMBERS, 1, 1)
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
                seen = self.left_out[rows] != torch.arange(MEMBERS).unsqueeze(1)
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
            own = self.left_out[rows].unsqueeze(0)
            for number, loss in enumerate(self._of_rows(weights, rows, False)):
                total[number] += float(loss.gather(0, own).sum()) / len(self._x)
        return total

    @torch.no_grad()
    def unseen_logits(self, number: int) -> Tensor:
        """Logits of a task, (n, size), each by the member that is trained without the click's user."""
        parts = []
        for rows in torch.arange(len(self._x)).split(8192):  # type: ignore[no-untyped-call]
            logits = self._forward(self.kept[number], self._x[rows], False)[number]
            parts.append(logits[self.left_out[rows], torch.arange(len(rows))])
        return torch.cat(parts)
