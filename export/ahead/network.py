"""The head that predicts what a user does next, the graph of ahead.onnx: a user's counters -> probabilities.

It has three tasks: the event type of the next click if there is one in this session, the time to the next click, and
whether the session still has an event of the intent's type. Each task is an average of MEMBERS small networks with one
hidden layer and a linear part. The average is over logits, which are linear in the hidden units. So the graph has one
hidden layer for all tasks and members.

Beside the networks it has a table: what followed each event type in the training. A served logit is the table's, moved
towards the networks' by the weight that the held-out slice has chosen (choose.py). With a weight of 0 it is the table.

Counters and times enter as logarithms. The first STEPPED of them also enter in steps, so that a network with few units
can tell one click from two and ten seconds from a minute, as a tree can.

The time to the next click is a discrete hazard: the probability that the click is in a bucket of EDGES_MS if it was not
in an earlier one. "Leaves the session" and "returns within 7 days" are products of the same hazards.

Sums over buckets are products with a matrix, as in network.unit: results of ONNX Runtime's sum operators depend on the
alignment of a row in memory.

Sources: Gensheimer and Narasimhan 2019 (discrete hazards by a network); Gorishniy et al. 2022 (inputs in steps); Platt
1999 (calibration of logits).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu, linear, softplus

from export.ahead.upcoming import EDGES_MS, LEFT_AFTER, RETURN_AFTER
from export.network.mixture import LANES
from stream.ahead.counters import COUNTERS, counters

TASKS = ("next", "time", "intent")
"""What the networks are fitted for."""

OUTPUTS = ("next", "leaves", "returns_7d", "intent")
"""What is served, and what a weight and a calibration belong to; the outputs of the graph."""

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
    logs = torch.log(1 + torch.cat([counters[:, :5], pace, of_session, ever], dim=1))
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


class AheadHead(nn.Module):
    """The head with fitted weights. fit.py makes it.

    hidden, hidden_bias  (U, F), (U,): the units of all tasks and members
    linear, bias         (O, F), (O,): the linear part of the O logits: T + 1 types, the hazards, the intent
    out                  (O, U): weights of the units, divided by the members; zeros where a unit is of another task
    mean, scale          (F,) of the inputs
    slope, offset        (4,) calibration of the logits of OUTPUTS (`next` has no offset)
    table                (T + 1, T + 1 + 3) by the event type of the click: log-probabilities of the types, and the
                         log-odds of leaving, returning and the intent
    trust                (4,) in [0, 1], weight of the networks in the logits of each of OUTPUTS
    spans                (E, LANES): the first two columns choose the buckets of leaving and of returning
    """

    mean: Tensor
    scale: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    linear: Tensor
    bias: Tensor
    out: Tensor
    slope: Tensor
    offset: Tensor
    table: Tensor
    trust: Tensor
    spans: Tensor

    def __init__(self, event_types: int, **tensors: Tensor) -> None:
        super().__init__()
        self.event_types = event_types
        self.counters = counters(event_types)
        tensors.setdefault("trust", torch.ones(len(OUTPUTS)))
        for name, value in {**tensors, "spans": spans(RETURN_AFTER)}.items():
            self.register_buffer(name, value)

    def forward(self, counters: Tensor, event_type: Tensor) -> tuple[Tensor, ...]:
        """Counters (B, C) float32 and event type (B,) int64 of the clicks -> Told."""
        types, binary = self.served(counters, event_type, self.trust)
        of_type = torch.softmax(types, dim=1)[:, : self.event_types] * torch.sigmoid(-binary[:, :1])
        leaves, returns, intent = (torch.sigmoid(binary[:, task]) for task in range(3))
        return Told(of_type, leaves, returns, intent)

    def served(self, counters: Tensor, event_type: Tensor, trust: Tensor) -> tuple[Tensor, Tensor]:
        """Logits with the weights `trust` (4,): of the types (B, T + 1), and of leaving, returning, intent (B, 3)."""
        types, hazards, intent = self.logits(counters, event_type)
        kinds = self.event_types + 1
        own = torch.cat([types, time_logits(hazards, self.spans), intent.unsqueeze(1)], dim=1)
        repeats = torch.tensor([kinds, 1, 1, 1])
        own = own * self.slope.repeat_interleave(repeats) + self.offset.repeat_interleave(repeats)
        before = embedding(event_type, self.table)
        found = before + trust.repeat_interleave(repeats) * (own - before)
        return found[:, :kinds], found[:, kinds:]

    def logits(self, counters: Tensor, event_type: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The networks' logits before the calibration: types (B, T + 1), hazards (B, EDGES), intent (B,)."""
        x = ((features(counters, event_type) - self.mean) * self.scale).clamp(-LIMIT, LIMIT)
        units = gelu(linear(x, self.hidden, self.hidden_bias), approximate="tanh")
        logits = linear(x, self.linear, self.bias) + linear(units, self.out)
        kinds = self.event_types + 1
        return logits[:, :kinds], logits[:, kinds:-1], logits[:, -1]


def spans(return_after: int) -> Tensor:
    """(E, LANES) for `time_logits`: a return is a click in the buckets up to return_after."""
    found = torch.zeros(len(EDGES_MS), LANES)
    found[:LEFT_AFTER, 0] = 1
    found[LEFT_AFTER:return_after, 1] = 1
    return found


def time_logits(hazards: Tensor, spans: Tensor) -> Tensor:
    """Logits of "leaves" and "returns after leaving", (B, 2), of the logits of the hazards (B, E).

    P(leaves) = P(no click in the first LEFT_AFTER buckets)
    P(returns) = P(a click in the buckets of the second column of `spans`, if none in the first LEFT_AFTER)
    """
    stays_away = torch.matmul(-softplus(hazards), spans)
    odds = stays_away - torch.log(-torch.expm1(torch.clamp(stays_away, max=-1e-6)))  # log p -> log(p / (1 - p))
    return torch.cat([odds[:, :1], -odds[:, 1:2]], dim=1)
