"""Calibrates the logits of the head on clicks whose users the member was not trained on.

The intent, leaving and returning get a slope and an offset each; the event types get a slope, which is 1 / temperature.

Sources: Platt 1999; Guo et al. 2017 (temperature).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from export.ahead.network import OUTPUTS, spans, time_logits
from export.ahead.upcoming import RETURN_AFTER, UNKNOWN, Upcoming

L2 = 10.0
"""Penalty in nats on the squared distance of a calibration from none: few clicks hardly change it."""


class Labels(NamedTuple):
    """Labels as tensors of n clicks; UNKNOWN where not known. next_type is so where the user left, too."""

    next_type: Tensor
    passed: Tensor
    clicked: Tensor
    left: Tensor
    returned: Tensor
    intent: Tensor

    @classmethod
    def of(cls, label: Upcoming, event_types: int) -> "Labels":
        left = np.where(label.next_type < 0, UNKNOWN, label.next_type > event_types)
        stays = np.where(left == 1, UNKNOWN, label.next_type)
        columns = (stays, label.passed, label.clicked, left, label.returned, label.intent)
        return cls(*(torch.from_numpy(np.asarray(one)) for one in columns))

    def at(self, rows: Tensor) -> "Labels":
        return Labels(*(one[rows] for one in self))

    def binary(self) -> Tensor:
        """Those of the intent, leaving and returning, (3, n)."""
        return torch.stack([self.intent, self.left, self.returned])

    def each(self) -> tuple[Tensor, ...]:
        """Those of OUTPUTS, each (n,)."""
        return self.next_type, *self.binary()


def calibration(logits: list[Tensor], label: Labels) -> tuple[Tensor, Tensor]:
    """Slopes and offsets (4,) of the logits of OUTPUTS. logits: of each task, (n, size)."""
    types, intent, hazards = logits
    known = label.next_type >= 0
    slope, offset = torch.ones(len(OUTPUTS)), torch.zeros(len(OUTPUTS))
    slope[0] = _temperature(types[known], label.next_type[known])
    binary = torch.cat([intent, time_logits(hazards, spans(RETURN_AFTER))], dim=1).t()
    for number, (logit, target) in enumerate(zip(binary, label.binary(), strict=True), start=1):
        slope[number], offset[number] = _platt(logit[target >= 0], target[target >= 0].float())
    return slope, offset


def _platt(logit: Tensor, target: Tensor) -> tuple[float, float]:
    """Slope and offset of the logits (n,) with the highest penalised likelihood of the targets (n,) 0.0 or 1.0."""
    point = torch.tensor([1.0, 0.0], requires_grad=True)

    def loss() -> Tensor:
        penalty = L2 * ((point[0] - 1).square() + point[1].square())
        return binary_cross_entropy_with_logits(point[0] * logit + point[1], target, reduction="sum") + penalty

    slope, offset = _minimised(point, loss).tolist()
    return slope, offset


def _temperature(logits: Tensor, target: Tensor) -> float:
    """Slope of the logits (n, K) with the highest penalised likelihood of the classes (n,)."""
    point = torch.ones(1, requires_grad=True)

    def loss() -> Tensor:
        penalty = L2 * (point - 1).square().sum()
        return cross_entropy(point * logits, target, reduction="sum") + penalty

    return float(_minimised(point, loss))


def _minimised(point: Tensor, loss: Callable[[], Tensor]) -> Tensor:
    optimizer = torch.optim.LBFGS([point], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return point.detach()
