"""The behaviour head, the graph of behaviour.onnx: a user's state and counters -> what the user does next.

It has three tasks: the event type of the next click if there is one in this session, the time to the next click, and
whether the session still has an event of the intent's type. Each task is an average of MEMBERS small networks with one
hidden layer and a linear part. The average is over logits, which are linear in the hidden units. So the graph has one
hidden layer for all tasks and members.

Counters and times enter as logarithms. The first STEPPED of them also enter in steps, so that a network with few units
can tell one click from two and ten seconds from a minute, as a tree can.

The time to the next click is a discrete hazard: the probability that the click is in a bucket of EDGES_MS if it was not
in an earlier one. "Leaves the session" and "returns within 7 days" are products of the same hazards, so they cannot
contradict each other.

Sources: Gensheimer and Narasimhan 2019 (discrete hazards by a network); Gorishniy et al. 2022 (inputs in steps); Platt
1999 (calibration of logits).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, logsigmoid

from export.ahead.counters import COUNTERS, counters
from export.ahead.upcoming import LEFT_AFTER, RETURN_AFTER
from export.network.network import unit

TASKS = ("next", "time", "intent")

HARMONICS = (1, 2)
"""Periods per day of the sine and cosine of the hour."""


LIMIT = 3.0
"""Largest standardised input, so that a rare count cannot decide alone."""

STEPPED = 6
"""The first logarithms: of the first five COUNTERS, and of the seconds per click of the session."""

STEPS = (0.0, 0.7, 1.1, 1.6, 2.1, 2.7, 3.4, 4.1, 5.3, 6.6, 7.9, 9.5, 12.0)
"""Edges of the steps in log(1 + x): counts from 1 to 30, and seconds from 1 to two days."""


def feature_count(event_types: int) -> int:
    """The number of features of a log with so many event types."""
    of_counters = len(COUNTERS) - 1 + 1  # the hour is not one of them, but the seconds per click
    return of_counters + 2 + 2 * len(HARMONICS) + 5 * (event_types + 1) + STEPPED * (len(STEPS) - 1)


def hour_features(event_types: int) -> slice:
    """Where `features` has those of the hour."""
    first = len(COUNTERS) - 1 + 2 * (event_types + 1) + 1  # after the logarithms and `repeats`
    return slice(first, first + 2 * len(HARMONICS))


def features(counters: Tensor, event_type: Tensor) -> Tensor:
    """The inputs that are made of the counters (B, C) and the event type (B,) int64 of the click: (B, F) float32."""
    kinds = (counters.shape[1] - len(COUNTERS)) // 2
    clicks, clicks_ever = counters[:, 0:1], counters[:, 3:4]
    of_session, ever = counters[:, len(COUNTERS) : len(COUNTERS) + kinds], counters[:, len(COUNTERS) + kinds :]
    angle = counters[:, 6:7] * (2 * math.pi / 24)
    day = [part(angle * times) for times in HARMONICS for part in (torch.sin, torch.cos)]
    pace = counters[:, 1:2] / torch.clamp(clicks - 1, min=1)
    logs = torch.log1p(torch.cat([counters[:, :5], pace, of_session, ever], dim=1))
    last = (event_type.unsqueeze(1) == torch.arange(kinds)).to(torch.float32)
    low, high = torch.tensor(STEPS[:-1]), torch.tensor(STEPS[1:])
    steps = ((logs[:, :STEPPED].unsqueeze(2) - low) / (high - low)).clamp(0, 1).flatten(1)
    first = (clicks_ever == 1).to(torch.float32)
    opening = (clicks == 1).to(torch.float32)
    return torch.cat(
        [logs, counters[:, 5:6], *day, of_session / clicks, ever / clicks_ever, last, first, opening, steps], dim=1
    )


class Told(NamedTuple):
    """What the head says about B clicks; all float32.

    next        (B, T) probability that the session's next event has this type, for each known event type
    leaves      (B,) probability that no click follows in this session; with `next` and the unknown type the sum is 1
    returns_7d  (B,) probability that the user comes back within 7 days, if this click ends the session
    intent      (B,) probability that the session still has an event of the intent's type
    """

    next: Tensor
    leaves: Tensor
    returns_7d: Tensor
    intent: Tensor


class BehaviourHead(nn.Module):
    """The head with fitted weights. fit.py makes it.

    hidden, hidden_bias  (U, F + P), (U,): the units of all tasks and members
    linear, bias         (O, F + P), (O,): the linear part of the O logits: T + 1 types, the hazards, the intent
    out                  (O, U): weights of the units, divided by the members; zeros where a unit is of another task
    mean, scale          (F + P,) of the inputs
    axes                 (P, H) directions of the state, its main axes
    slope, offset        (4,) calibration of the logits of: types (no offset), leaves, returns, intent
    """

    mean: Tensor
    scale: Tensor
    axes: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    linear: Tensor
    bias: Tensor
    out: Tensor
    slope: Tensor
    offset: Tensor

    def __init__(self, event_types: int, **tensors: Tensor) -> None:
        super().__init__()
        self.event_types = event_types
        self.counters = counters(event_types)
        for name, value in tensors.items():
            self.register_buffer(name, value)

    def forward(self, h: Tensor, counters: Tensor, event_type: Tensor) -> tuple[Tensor, ...]:
        """h (B, H) state after the click; counters (B, C) and event_type (B,) int64 of the click -> Told."""
        return self.told(unit(h), counters, event_type)

    def told(self, direction: Tensor, counters: Tensor, event_type: Tensor) -> Told:
        """The same for h of length 1."""
        types, hazards, intent = self.logits(direction, counters, event_type)
        leaves, returns = time_logits(hazards)
        stays = torch.sigmoid(-(self.slope[1] * leaves + self.offset[1]))
        return Told(
            torch.softmax(self.slope[0] * types, dim=1)[:, : self.event_types] * stays.unsqueeze(1),
            1 - stays,
            torch.sigmoid(self.slope[2] * returns + self.offset[2]),
            torch.sigmoid(self.slope[3] * intent + self.offset[3]),
        )

    def logits(self, direction: Tensor, counters: Tensor, event_type: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits before the calibration: types (B, T + 1), hazards (B, EDGES), intent (B,)."""
        x = ((inputs(direction, counters, event_type, self.axes) - self.mean) * self.scale).clamp(-LIMIT, LIMIT)
        units = gelu(linear(x, self.hidden, self.hidden_bias), approximate="tanh")
        logits = linear(x, self.linear, self.bias) + linear(units, self.out)
        kinds = self.event_types + 1
        return logits[:, :kinds], logits[:, kinds:-1], logits[:, -1]


def inputs(direction: Tensor, counters: Tensor, event_type: Tensor, axes: Tensor) -> Tensor:
    """All inputs of the networks, (B, F + P), before they are standardised."""
    return torch.cat([features(counters, event_type), linear(direction, axes)], dim=1)


def time_logits(hazards: Tensor, return_after: int = RETURN_AFTER) -> tuple[Tensor, Tensor]:
    """Logits of "leaves" and "returns within 7 days after leaving", each (B,), of the logits of the hazards.

    P(leaves) = P(no click in the first LEFT_AFTER buckets)
    P(returns) = P(a click in the buckets up to return_after, if none in the first LEFT_AFTER)
    """
    passes = logsigmoid(-hazards)
    stay_away = passes[:, LEFT_AFTER:return_after].sum(dim=1)
    return log_odds(passes[:, :LEFT_AFTER].sum(dim=1)), -log_odds(stay_away)


def log_odds(log_probability: Tensor) -> Tensor:
    """log p -> log(p / (1 - p)), for p < 1."""
    return log_probability - torch.log(-torch.expm1(torch.clamp(log_probability, max=-1e-6)))
