"""Fits the behaviour head (network.py) on the states of a trained network; the network does not change.

1. The users are divided into MEMBERS parts. Each member of a task is trained without one part. So each click has a
   member that never saw its user, and these members together say when to stop, and calibrate.
2. Each task is kept after its own best epoch: the intent, with few positive sessions, ends earlier than the types.
3. A head with the state and one without it are compared on clicks on which the network was not trained; each task gets
   the better one. On its training clicks the network knows the users' next items, so its state says too much there.

The loss is the likelihood, without weights of classes: probabilities have to be right, and a rank does not depend on
the share of a class.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, dropout, gelu, softplus

from export.ahead.calibration import Labels, calibration
from export.ahead.counters import COUNTERS
from export.ahead.network import LIMIT, TASKS, BehaviourHead, feature_count, hour_features, inputs
from export.ahead.upcoming import EDGES_MS, UNKNOWN, Upcoming
from export.arrays import I64, Flags

MEMBERS, UNITS, AXES = 4, 24, 16
"""Members of each task, hidden units of each, and directions of the state that they read."""

EPOCHS, PATIENCE = 15, 3
RATE, DECAY, DROPOUT = 3e-3, 0.1, 0.2
AVERAGED = 0.98
"""Share of the averaged weights that stays after a step; the averaged weights are kept."""


WHOLE_DAY_H = 22
"""A log whose hours span less is shorter than a day. There the hour only says how old a click is, so it is not read."""


class Examples(NamedTuple):
    """m clicks with the state after each.

    direction   (m, H) float32, h scaled to length 1
    counters    (m, C) float32
    event_type  (m,) int64
    user        (m,) int64
    label       Upcoming of the clicks
    """

    direction: Tensor
    counters: Tensor
    event_type: Tensor
    user: I64
    label: Upcoming

    def where(self, keep: Flags) -> "Examples":
        """The clicks where keep (m,) is True."""
        rows = torch.from_numpy(keep)
        return Examples(
            self.direction[rows], self.counters[rows], self.event_type[rows], self.user[keep], self.label.where(keep)
        )


def fit_behaviour(examples: Examples, event_types: int, uses_state: tuple[bool, ...], seed: int) -> BehaviourHead:
    """A calibrated head. uses_state: whether each of TASKS reads the state."""
    fits = {state: _Fit(examples, event_types, state, seed) for state in sorted(set(uses_state))}
    return _head([fits[state] for state in uses_state], event_types, Labels.of(examples.label, event_types))


def states_that_help(fitted: Examples, later: Examples, event_types: int, seed: int) -> tuple[bool, ...]:
    """For each of TASKS, whether a head on the clicks `fitted` predicts the clicks `later` better with the state."""
    losses = []
    for state in (False, True):
        head = fit_behaviour(fitted, event_types, (state,) * len(TASKS), seed)
        losses.append(held_out_losses(head, later))
    without, with_state = losses
    return tuple(bool(ours < theirs) for ours, theirs in zip(with_state, without, strict=True))


@torch.no_grad()
def held_out_losses(head: BehaviourHead, later: Examples) -> list[float]:
    """Mean loss of each of TASKS, nats per click; a click without a label of the task counts as 0."""
    types, hazards, intent = head.logits(later.direction, later.counters, later.event_type)
    label = Labels.of(later.label, head.event_types)
    losses = _losses(types.unsqueeze(0), hazards.unsqueeze(0), intent.unsqueeze(0), label)
    return [float(loss.mean()) for loss in losses]


def _losses(types: Tensor, hazards: Tensor, intent: Tensor, label: Labels) -> list[Tensor]:
    """Loss of each task for M members, (M, n) nats; 0 where the label is unknown.

    types (M, n, T + 1), hazards (M, n, E), intent (M, n)
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
        (softplus(hazards) * passed).sum(dim=2) + hit,
        torch.where(label.intent >= 0, of_intent, 0.0),
    ]


class _Fit:
    """The training of all members at once. In the training the tasks of a member share its hidden units."""

    def __init__(self, examples: Examples, event_types: int, uses_state: bool, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._label = Labels.of(examples.label, event_types)
        direction = examples.direction
        _, _, axes = torch.linalg.svd(direction[:: max(1, len(direction) // 20_000)], full_matrices=False)
        self.axes = axes[:AXES].contiguous()
        x = inputs(direction, examples.counters, examples.event_type, self.axes)
        self.mean, self.scale = x.mean(dim=0), 1 / (x.std(dim=0, unbiased=False) + 0.01)
        if not uses_state:
            self.scale[feature_count(event_types) :] = 0.0
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
        for task, size in zip(TASKS, (event_types + 1, len(EDGES_MS), 1), strict=True):
            self._weights[f"{task} out"] = torch.randn(MEMBERS, UNITS, size, generator=self._generator) * 0.05
            self._weights[f"{task} linear"] = torch.zeros(MEMBERS, width, size)
            self._weights[f"{task} bias"] = torch.full((MEMBERS, 1, size), -2.0 if task != "next" else 0.0)
        self.kept: list[dict[str, Tensor]] = [{} for _ in TASKS]
        self.epochs = [0] * len(TASKS)
        self._train()

    def _forward(self, weights: dict[str, Tensor], x: Tensor, training: bool) -> list[Tensor]:
        """Logits of each task, (M, n, size), of standardised inputs (n, F + P)."""
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
        tokens = int(np.clip(n // 64, 64, 1024))
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
        types, hazards, intent = self._forward(weights, self._x[rows], training)
        return _losses(types, hazards, intent.squeeze(2), self._label.at(rows))

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


def _head(fits: list[_Fit], event_types: int, label: Labels) -> BehaviourHead:
    """The head of one fit for each task."""
    hidden, hidden_bias, outs, linears, biases = [], [], [], [], []
    scale = torch.stack([fit.scale for fit in fits]).amax(dim=0)
    for number, (task, fit) in enumerate(zip(TASKS, fits, strict=True)):
        kept, read = fit.kept[number], (fit.scale > 0).float().unsqueeze(1)
        hidden.append((kept["hidden"] * read).transpose(1, 2).flatten(0, 1))
        hidden_bias.append(kept["hidden_bias"].flatten())
        outs.append(kept[f"{task} out"].flatten(0, 1).t() / MEMBERS)
        linears.append((kept[f"{task} linear"].mean(dim=0) * read).t())
        biases.append(kept[f"{task} bias"].mean(dim=0).squeeze(0))
    slope, offset = calibration([fit.unseen_logits(number) for number, fit in enumerate(fits)], label)
    return BehaviourHead(
        event_types,
        mean=fits[0].mean,
        scale=scale,
        axes=fits[0].axes,
        hidden=torch.cat(hidden).contiguous(),
        hidden_bias=torch.cat(hidden_bias),
        linear=torch.cat(linears).contiguous(),
        bias=torch.cat(biases),
        out=torch.block_diag(*outs),  # type: ignore[no-untyped-call]
        slope=slope,
        offset=offset,
    ).eval()
