"""Eddy's behaviour head on a split log: the network as `eddy train` trains it, then the head on its states."""

from typing import NamedTuple

import numpy as np
import torch

from bench.behaviour.logs import Part, Split
from bench.command import say
from export.ahead.fit import Examples, fit_behaviour, states_that_help
from export.ahead.network import TASKS, BehaviourHead, time_logits
from export.ahead.upcoming import EDGES_MS, upcoming
from export.arrays import F64
from export.dataset.windows import Windows, birth_period, encode
from export.log.log import GAP_EDGES_MS
from export.network.network import SHARPNESS, Network, Sizes
from export.network.states import outputs
from export.progress import NullProgress
from export.train.epochs import fit_held_out
from export.train.holdout import hold_out, known_only
from export.train.settings import TrainSettings

DAY_MS = 86_400_000


class Answers(NamedTuple):
    """Probabilities of the clicks of the test part.

    next     (n, T + 2) event types, the unknown one, "leaves"
    intent   (n, 2)
    returns  days -> (n, 2)
    state    for each task, whether the head reads the state
    head     as it was fitted
    """

    next: F64
    intent: F64
    returns: dict[int, F64]
    state: dict[str, bool]
    head: BehaviourHead
    examples: Examples


def answers(split: Split, over_ms: int, days: tuple[int, ...], seed: int) -> Answers:
    train_log = split.log.between(None, split.cut_ms)
    held_out = hold_out(train_log)
    settings = TrainSettings.for_log(len(train_log), None, None, seed)
    torch.manual_seed(seed)
    vocabulary, event_types = held_out.vocabulary, len(split.event_types)
    sizes = Sizes(len(vocabulary.items), event_types, len(GAP_EDGES_MS) + 2, settings.hidden, settings.cell)
    say(f"training the network on {len(held_out.head):,} clicks")
    network = fit_held_out(Network(sizes), held_out, settings, NullProgress()).network
    clicks = known_only(held_out.known, encode(split.log, vocabulary, birth_period(train_log.time_ms)))
    direction = outputs(network, Windows(clicks), np.arange(len(clicks))) / SHARPNESS
    before = clicks.time_ms < split.cut_ms
    train = _examples(direction[torch.from_numpy(before)], split.train)
    head_only = clicks.where(clicks.time_ms < held_out.cut_ms)
    early = upcoming(
        head_only.user,
        head_only.time_ms,
        head_only.event_type,
        event_types,
        split.intent,
        held_out.cut_ms,
        over_ms,
    )
    in_slice = clicks.time_ms[before] >= held_out.cut_ms
    say("fitting the head")
    uses_state = states_that_help(
        train.where(~in_slice)._replace(label=early), train.where(in_slice), event_types, seed
    )
    head = fit_behaviour(train, event_types, uses_state, seed)
    test = _examples(direction[torch.from_numpy(~before)], split.test)
    with torch.no_grad():
        told = head.told(test.direction, test.counters, test.event_type)
        hazards = head.logits(test.direction, test.counters, test.event_type)[1]
        unknown = (1 - told.leaves - told.next.sum(dim=1)).clamp(min=0)
        found = torch.cat([told.next, unknown.unsqueeze(1), told.leaves.unsqueeze(1)], dim=1)
        returns = {7: told.returns_7d}
        for number in days:
            if number != 7:
                after = EDGES_MS.index(number * DAY_MS) + 1
                returns[number] = torch.sigmoid(time_logits(hazards, after)[1])
    return Answers(
        found.double().numpy(),
        both(told.intent),
        {number: both(returns[number]) for number in days},
        dict(zip(TASKS, uses_state, strict=True)),
        head,
        test,
    )


def both(p: torch.Tensor) -> F64:
    found = p.double().numpy()
    return np.stack([1 - found, found], axis=1)


def _examples(direction: torch.Tensor, part: Part) -> Examples:
    counters, event_type = torch.from_numpy(part.counters), torch.from_numpy(part.event_type)
    return Examples(direction, counters, event_type, part.user, part.label)
