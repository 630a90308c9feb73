"""A log -> the head that its model serves (network.py), or why it has none.

The head must not be worse than what is known without it: the table of what followed each event type. So it is fitted
at least twice, first on the clicks before the held-out slice. There the slice says, for each output, how much weight
the networks get in the logits beside the table. Then it is fitted on all clicks, with these weights. The slice is the
newest part of the log, so networks that do not hold over time lose their weight.

What is not known yet in the slice is decided by an earlier one, the newest clicks whose label is known: whether users
return, and in a log of a few hours how its sessions go on. The clicks before it then have labels that were known later.
Where even this slice is too short, the earlier clicks decide, each with the member and a table that were fitted
without its user.

The head reads no state of the network. On the public logs of bench.behaviour a head with the state was not better on
held-out clicks, and on its training clicks the network knows too much: there its state says which item follows.

It has no boosted trees beside the networks. There a mixture with trees was better on held-out clicks for some outputs
and worse for others, and 60 small trees of one output take three quarters of the time of this whole graph.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from export.ahead.calibration import Labels
from export.ahead.counters import counters_of
from export.ahead.fit import Examples, fit_head
from export.ahead.network import OUTPUTS, AheadHead, Logits, by_logit
from export.ahead.upcoming import upcoming
from export.arrays import I64, Flags
from export.dataset.windows import Clicks
from stream.ahead.counters import MOST_TYPES
from stream.manifest import Ahead
from stream.model.gaps import SESSION_GAP_MS

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the networks. 0 = the table alone."""

LEAST = 50
"""Labels of a task, without which there is no such output; and on the slice, without which it does not decide."""

HELD_OUT = 0.2
"""Share of the clicks with a known label, the newest, that decides the weight of an output of which the slice knows too
little."""

MOST = 100_000
"""Clicks on which the head is fitted, of users drawn at random. It has about 5,000 weights."""


class FittedAhead(NamedTuple):
    """A fitted head, and what of it is served."""

    head: AheadHead
    facts: Ahead

    def describe(self) -> str:
        """The weights of the networks, in words."""
        weights = ", ".join(f"{name} {weight:g}" for name, weight in self.facts.weights.items())
        return f"what a user does next is predicted; weights of the networks beside the table of event types: {weights}"


def fit_ahead(clicks: Clicks, cut_ms: int, event_types: tuple[str, ...], intent: str, seed: int) -> FittedAhead | str:
    """The head of a log, or the reason why it has none.

    clicks  of the log; the held-out slice begins at cut_ms
    intent  name of the intent's event type
    """
    if len(event_types) > MOST_TYPES:
        return f"the log has {len(event_types):,} event types, and rows keep counts of at most {MOST_TYPES}"
    clicks = _some_users(clicks, seed)
    wanted = event_types.index(intent) if intent in event_types else None
    label = Labels.of(examples(clicks, len(event_types), wanted).label, len(event_types))
    rarer = [int(min((of == 0).sum(), (of == 1).sum())) for of in label.binary()]
    follows, ends, returns = (count >= LEAST for count in rarer)
    if not ends:
        stays, left = int((label.left == 0).sum()), int((label.left == 1).sum())
        return (
            f"the log says of {stays:,} clicks that the session goes on, and of {left:,} that it ends; {LEAST} of each "
            "are needed"
        )
    head = chosen_head(clicks, cut_ms, len(event_types), wanted, seed)
    served = {"next": True, "intent": follows, "leaves": True, "returns_7d": returns}
    of_each = {name: round(weight, 3) for name, weight in zip(OUTPUTS, head.weights, strict=True) if served[name]}
    return FittedAhead(head, Ahead(returns, len(clicks), of_each, intent if follows else None))


def chosen_head(
    clicks: Clicks, cut_ms: int, event_types: int, intent: int | None, seed: int, over_ms: int = SESSION_GAP_MS
) -> AheadHead:
    """The head of the clicks of a log, with the weights of the slice that begins at cut_ms.

    intent, over_ms  as in `upcoming`
    """
    every = examples(clicks, event_types, intent, over_ms=over_ms)
    label = Labels.of(every.label, event_types)

    def chosen(before: Examples, later: Flags) -> Tensor:
        if int((before.label.next_type >= 0).sum()) < LEAST:
            return torch.zeros(len(OUTPUTS))
        head, unseen = fit_head(before, event_types, seed)
        own = every.where(later)
        told = head.sources(own.counters, own.event_type)
        return weights(label.at(torch.from_numpy(later)), told, Labels.of(before.label, event_types), unseen)

    early, time_ms = clicks.where(clicks.time_ms < cut_ms), clicks.time_ms
    trust = chosen(examples(early, event_types, intent, cut_ms, over_ms), time_ms >= cut_ms)
    for number, target in enumerate(label.each()):
        known = time_ms[(target >= 0).numpy()]
        if len(known) >= LEAST and (known >= cut_ms).sum() < LEAST:
            since_ms = int(np.quantile(known, 1 - HELD_OUT))
            trust[number] = chosen(every.where(time_ms < since_ms), time_ms >= since_ms)[number]
    head = fit_head(every, event_types, seed).head
    head.trust = by_logit(trust, event_types)
    return head


def examples(
    clicks: Clicks,
    event_types: int,
    intent: int | None,
    until_ms: int | None = None,
    over_ms: int = SESSION_GAP_MS,
) -> Examples:
    """The clicks of whole users with their counters and labels. until_ms: None = the time of the last click.

    intent, over_ms  as in `upcoming`
    """
    user, time_ms, event_type = clicks.user, clicks.time_ms, clicks.event_type
    until_ms = int(time_ms.max()) if until_ms is None else until_ms
    counted = counters_of(user, time_ms, event_type, clicks.item, event_types)
    label = upcoming(user, time_ms, event_type, event_types, intent, until_ms, over_ms)
    return Examples(
        torch.from_numpy(counted), torch.from_numpy(event_type.astype(np.int64)), user.astype(np.int64), label
    )


@torch.no_grad()
def weights(later: Labels, of_later: Logits, before: Labels, of_before: Logits) -> Tensor:
    """The weight (4,) of the networks for each of OUTPUTS: the mean of WEIGHTS, each as likely as it makes the labels.

    So few labels say little, and many choose the best weight. All are equally likely before.

    later, of_later    labels of the slice, and the logits of its clicks
    before, of_before  those of the earlier clicks, whose logits are without the click's user
    """
    losses, of_earlier = (
        torch.stack([_losses(logits, label, weight) for weight in WEIGHTS])
        for label, logits in ((later, of_later), (before, of_before))
    )
    known = torch.stack([(target >= 0).sum() for target in later.each()])
    likely = torch.softmax(-torch.where(known >= LEAST, losses, of_earlier).double(), dim=0)
    return torch.tensor(WEIGHTS) @ likely.float()


def _losses(logits: Logits, label: Labels, weight: float) -> Tensor:
    """The loss (4,) of each of OUTPUTS with one weight, nats."""
    served = logits.mixed(torch.tensor(weight))
    types, binary = served[:, :-3], served[:, -3:]
    known = label.next_type >= 0
    found = [cross_entropy(types[known], label.next_type[known], reduction="sum")]
    for logit, target in zip(binary.t(), label.binary(), strict=True):
        of, seen = logit[target >= 0], target[target >= 0].float()
        found.append(binary_cross_entropy_with_logits(of, seen, reduction="sum"))
    return torch.stack(found)


def _some_users(clicks: Clicks, seed: int) -> Clicks:
    """All clicks, or those of so many users, drawn at random, that there are about MOST."""
    if len(clicks) <= MOST:
        return clicks
    users = np.unique(clicks.user)
    number: I64 = np.random.default_rng(seed).permutation(len(users))
    keep: Flags = number[users.searchsorted(clicks.user)] < len(users) * MOST / len(clicks)
    return clicks.where(keep)
