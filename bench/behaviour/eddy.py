"""Eddy's head on a split log, as `eddy train` fits it."""

from typing import NamedTuple

import torch

from bench.behaviour.logs import Part, Split
from bench.command import say
from export.ahead.choose import chosen_head
from export.ahead.network import OUTPUTS, AheadHead, spans, time_logits
from export.ahead.upcoming import EDGES_MS
from export.arrays import F64
from export.dataset.windows import encode
from export.train.holdout import held_out_from, vocabulary_of

DAY_MS = 86_400_000


class Answers(NamedTuple):
    """Probabilities of the clicks of the test part.

    next     (n, T + 2) event types, the unknown one, "leaves"
    intent   (n, 2)
    returns  days -> (n, 2)
    trust    for each output, the weight of the networks beside the table
    head     as it was fitted
    """

    next: F64
    intent: F64
    returns: dict[int, F64]
    trust: dict[str, float]
    head: AheadHead


def answers(split: Split, over_ms: int, days: tuple[int, ...], seed: int) -> Answers:
    train_log = split.log.between(None, split.cut_ms)
    clicks = encode(train_log, vocabulary_of(train_log), 1)
    say(f"fitting the head on {len(clicks):,} clicks")
    head = chosen_head(clicks, held_out_from(train_log.time_ms), len(split.event_types), split.intent, seed, over_ms)
    counters, event_type = _inputs(split.test)
    with torch.no_grad():
        told = head(counters, event_type)
        following, leaves = told[:, :-3], told[:, -2:-1]
        unknown = (1 - leaves - following.sum(dim=1, keepdim=True)).clamp(min=0)
        found = torch.cat([following, unknown, leaves], dim=1)
        hazards = head.logits(counters, event_type)[1]
        returns = {
            number: torch.sigmoid(time_logits(hazards, spans(EDGES_MS.index(number * DAY_MS) + 1))[:, 1])
            for number in days
        }
    if 7 in days:
        returns[7] = told[:, -1]
    trust = dict(zip(OUTPUTS, head.weights, strict=True))
    return Answers(found.double().numpy(), both(told[:, -3]), {day: both(p) for day, p in returns.items()}, trust, head)


def both(p: torch.Tensor) -> F64:
    found = torch.stack([1 - p.double(), p.double()], dim=1)
    numbers: F64 = found.numpy()
    return numbers


def _inputs(part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(part.counters), torch.from_numpy(part.event_type)
