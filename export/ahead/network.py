"""The head that predicts what a user does next, the graph of ahead.onnx: a user's counters -> probabilities.

It has three tasks: the event type of the next click if there is one in this session, the time to the next click, and
whether the session still has an event of the intent's type. Each task is an average of MEMBERS small networks with one
hidden layer and a linear part. The average is over logits, which are linear in the hidden units. So the graph has one
hidden layer for all tasks and members.

Beside the networks it has a table: what followed each event type in the training. A served logit is the table's, moved
towards the networks' by the weight that the held-out slice has chosen (choose.py). With a weight of 0 it is the table.

Counters and times enter as logarithms. Those of the session also enter in steps, so that a network with few units can
tell one click from two and ten seconds from a minute, as a tree can. The event types of the click and of the one before
it enter together, as one of all pairs. A gap that many clicks have to the millisecond is a program's (a news site sends
a last click of each session, 30.000 s after the one before it), so the commonest ones are inputs of their own. Of a
batch of a few clicks the cost is the number of nodes of the graph, so it has few.

The time to the next click is a discrete hazard: the probability that the click is in a bucket of EDGES_MS if it was not
in an earlier one. "Leaves the session" and "returns within 7 days" are products of the same hazards.

Sums over buckets are products with a matrix, as in network.unit: results of ONNX Runtime's sum operators depend on the
alignment of a row in memory.

Sources: Gensheimer and Narasimhan 2019 (discrete hazards by a network); Gorishniy et al. 2022 (inputs in steps); Platt
1999 (calibration of logits).
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, gelu, linear

from export.ahead.upcoming import EDGES_MS, LEFT_AFTER, RETURN_AFTER
from export.network.mixture import LANES
from stream.ahead.counters import COUNTERS, EARLIER, counters

TASKS = ("next", "intent", "time")
"""What the networks are fitted for."""

OUTPUTS = ("next", "intent", "leaves", "returns_7d")
"""What is served, and what a weight and a calibration belong to."""

HARMONICS = (1, 2)
"""Periods per day of the sine and cosine of the hour."""

LIMIT = 3.0
"""Largest standardised input, so that a rare count cannot decide alone."""

STEPPED = 5
"""The first COUNTERS enter in steps too, and the clicks of the session by event type."""

STEPS = (0.0, 0.7, 1.1, 1.6, 2.1, 2.7, 3.4, 4.1, 5.3, 6.6, 7.9, 9.5, 12.0)
"""Edges of the steps in log(1 + x): counts from 1 to 30, and seconds from 1 to two days."""

TYPE_STEPS = (0.0, 0.7, 1.1, 1.6, 2.4)
"""The same of the clicks by event type: counts from 1 to 10."""

SURE = 12.0
"""Largest logit of a hazard. From about 18 on ONNX Runtime's sigmoid of the opposite is 0, which has no logarithm."""

TIMERS, TIMER_SHARE, FEWEST = 4, 0.01, 50
"""At most so many gaps are inputs of their own, each of at least this share of the clicks, and of so many clicks."""


def layout(event_types: int) -> dict[str, range]:
    """Where `features` has which of its parts."""
    kinds = event_types + 1
    sizes = {
        "logs": counters(event_types) - 1,
        "time of the day": 2 * len(HARMONICS),
        "shares in the session": kinds,
        "shares ever": kinds,
        "type": kinds,
        "pair": (kinds + 1) * kinds,
        "steps": STEPPED * (len(STEPS) - 1) + kinds * (len(TYPE_STEPS) - 1),
        "timers": TIMERS,
    }
    stops = list(itertools.accumulate(sizes.values()))
    return {name: range(stop - size, stop) for (name, size), stop in zip(sizes.items(), stops, strict=True)}


def of_days(event_types: int) -> list[int]:
    """Where `features` has the hour, and what the user did in earlier sessions too."""
    parts, kinds, each = layout(event_types), event_types + 1, len(STEPS) - 1
    ever = [COUNTERS.index("clicks"), COUNTERS.index("sessions")]
    steps = [parts["steps"][at * each + step] for at in ever for step in range(each)]
    types = range(len(COUNTERS) + kinds, len(COUNTERS) + 2 * kinds)
    return [COUNTERS.index("hour"), *parts["time of the day"], *ever, *types, *parts["shares ever"], *steps]


def features(counters: Tensor, event_type: Tensor, timers: Tensor) -> Tensor:
    """The inputs that are made of the counters (B, C) and the event type (B,) int64 of the click: (B, F) float32.

    timers  (TIMERS,) seconds, as in AheadHead
    """
    fixed = len(COUNTERS)
    kinds = (counters.shape[1] - fixed - len(EARLIER)) // 2
    clicks, ever = counters[:, fixed : fixed + kinds], counters[:, fixed + kinds : -len(EARLIER)]
    angle = counters[:, fixed - 1 : fixed] * torch.tensor([2 * math.pi / 24 * times for times in HARMONICS])
    logs = torch.log(counters[:, :-1] + 1)
    shares = [clicks / counters[:, 0:1], ever / counters[:, 3:4]]
    last = embedding(event_type, torch.eye(kinds))
    before = counters[:, -1].to(torch.int64).clamp(0, kinds)
    pair = embedding(before * kinds + event_type, torch.eye((kinds + 1) * kinds))
    gap_s = counters[:, COUNTERS.index("gap_s")].unsqueeze(1)
    timed = (1 - (gap_s - timers).abs() * 1000).clamp(min=0)
    return torch.cat(
        [logs, torch.sin(angle), torch.cos(angle), *shares, last, pair, steps(logs, fixed, kinds), timed], dim=1
    )


def steps(logs: Tensor, fixed: int, kinds: int) -> Tensor:
    """How far each of the first STEPPED logarithms (B, C), and each of the `kinds` after the `fixed` first ones, is
    through each of its steps, from 0 to 1: (B, steps)."""
    edges = {**dict.fromkeys(range(STEPPED), STEPS), **dict.fromkeys(range(fixed, fixed + kinds), TYPE_STEPS)}
    weight = torch.zeros(sum(len(its) - 1 for its in edges.values()), logs.shape[1])
    offset, row = torch.zeros(len(weight)), 0
    for column, its in edges.items():
        for low, high in itertools.pairwise(its):
            weight[row, column], offset[row] = 1 / (high - low), -low / (high - low)
            row += 1
    return linear(logs, weight, offset).clamp(0, 1)


def timers_of(gap_s: Tensor) -> Tensor:
    """The commonest gaps (TIMERS,) of n clicks, seconds with whole milliseconds, rarer ones last; -1 = there is no
    further one that is common enough."""
    values, counts = torch.unique(gap_s[gap_s > 0], return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:TIMERS]
    common = values[order[counts[order] >= max(FEWEST, TIMER_SHARE * len(gap_s))]]
    return torch.cat([common, torch.full((TIMERS - len(common),), -1.0)])


class Logits(NamedTuple):
    """Logits of n clicks, (n, T + 1 + 3): of the types, of the intent, leaving and returning.

    networks  calibrated; table: what followed each event type
    """

    networks: Tensor
    table: Tensor

    def mixed(self, trust: Tensor) -> Tensor:
        """The table's logits, moved towards the networks' by the weight `trust`, a number or one for each logit."""
        return self.table + trust * (self.networks - self.table)


class AheadHead(nn.Module):
    """The head with fitted weights. fit.py makes it.

    hidden, hidden_bias  (U, F), (U,): the units of all tasks and members
    linear, bias         (O, F), (O,): the linear part of the O logits: T + 1 types, the intent, the hazards
    out                  (O, U): weights of the units, divided by the members; zeros where a unit is of another task
    mean, scale          (F,) of the inputs
    timers               (TIMERS,) gaps in seconds that are inputs of their own; -1 = none
    slope, offset        (T + 1 + 3,) calibration of the logits of the types, of the intent, leaving and returning
    table                (T + 1, T + 1 + 3) by the event type of the click: log-probabilities of the types, and the
                         log-odds of the intent, leaving and returning
    trust                (T + 1 + 3,) in [0, 1], weight of the networks in these logits
    spans                (E, LANES): the first two columns choose the buckets of leaving and of returning
    """

    mean: Tensor
    scale: Tensor
    timers: Tensor
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
        tensors.setdefault("trust", torch.ones(event_types + len(OUTPUTS)))
        for name, value in {**tensors, "spans": spans(RETURN_AFTER)}.items():
            self.register_buffer(name, value)

    def forward(self, counters: Tensor, event_type: Tensor) -> Tensor:
        """Counters (B, C) float32 and event type (B,) int64 of the clicks -> probabilities (B, T + 3).

        They are: that the session's next event has each of the T types; that the session still has an event of the
        intent's type; that no click follows in it; that the user comes back within 7 days, if this click ends it. The
        first T, the third last and the unknown type sum to 1.
        """
        served = self.sources(counters, event_type).mixed(self.trust)
        types, others = served[:, : self.event_types + 1], torch.sigmoid(served[:, self.event_types + 1 :])
        of_type = torch.softmax(types, dim=1)[:, : self.event_types]
        return torch.cat([of_type * (1 - others[:, 1:2]), others], dim=1)

    @property
    def weights(self) -> list[float]:
        """The weight of the networks in each of OUTPUTS."""
        found: list[float] = self.trust[self.event_types :].tolist()
        return found

    def sources(self, counters: Tensor, event_type: Tensor) -> Logits:
        """The logits of the networks and of the table, after B clicks."""
        plain, hazards = self.logits(counters, event_type)
        own = torch.cat([plain, time_logits(hazards, self.spans)], dim=1)
        return Logits(own * self.slope + self.offset, embedding(event_type, self.table))

    def logits(self, counters: Tensor, event_type: Tensor) -> tuple[Tensor, Tensor]:
        """The networks' logits before the calibration: types and intent (B, T + 2), hazards (B, EDGES)."""
        x = ((features(counters, event_type, self.timers) - self.mean) * self.scale).clamp(-LIMIT, LIMIT)
        units = gelu(linear(x, self.hidden, self.hidden_bias), approximate="tanh")
        logits = linear(x, self.linear, self.bias) + linear(units, self.out)
        return logits[:, : self.event_types + 2], logits[:, self.event_types + 2 :]


def by_logit(values: Tensor, event_types: int) -> Tensor:
    """Values of OUTPUTS (4,) -> of each served logit, (T + 1 + 3,)."""
    return torch.cat([values[:1].expand(event_types), values])


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
    passes = torch.sigmoid(-hazards.clamp(-SURE, SURE))
    stays_away = torch.matmul(torch.log(passes), spans)[:, :2].clamp(max=-1e-6)
    odds = stays_away - torch.log(1 - torch.exp(stays_away))  # log p -> log(p / (1 - p))
    return odds * torch.tensor([1.0, -1.0])
