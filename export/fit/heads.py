"""Frozen states -> the event head and the two-level surprise head.

The ranking head is left as it was trained. Within a cluster the surprise uses its rows and bias as they are, so only
the distribution over clusters is fitted: an ordinary softmax regression on C + 1 classes, minutes even for large logs.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout

from export.arrays import F64, I64
from export.dataset.windows import Clicks, Windows, drawn
from export.network.network import Network
from export.network.states import outputs
from export.network.surprise import SurpriseHead, balanced_clusters, cluster_count

ROUNDS, TOKENS, DROPOUT = 3, 2048, 0.15
RATE = 2e-3
"""Nats of held-out clusters, three networks of bolcom: 4.54 at 1e-3, 4.50 at 2e-3, 4.52 at 4e-3, 4.57 at 8e-3."""

STATES = 1_000_000
"""Clicks that the heads are fitted on, at most: a state of 192 units has 768 bytes."""

LEAST_STEPS = 300
"""A short log is gone over more often, in smaller batches."""


def fit_heads(network: Network, clicks: Clicks, weight: F64, new_items: int, seed: int) -> None:
    """Fit `event_head` and set `surprise` on the states after each click, and on the zero state before a user's first.

    weight     (n,) how much each click counts
    new_items  items that are unknown and live at a time: they share the mass of the unknown item
    """
    generator = torch.Generator().manual_seed(seed)
    met = meetings(network, clicks, weight, seed)
    rows = network.item_rows[:-1].detach().numpy()
    clusters = balanced_clusters(rows, cluster_count(network.sizes.items), seed)
    network.surprise = fitted_surprise(network, met, clusters, new_items, generator)
    _fit(network.event_head, met.states, met.event_type, met.weight, generator)


class States(NamedTuple):
    """What m clicks came upon: after[place] (H,), or zeros where `later` is False, before a user's first click."""

    after: Tensor
    place: Tensor
    later: Tensor

    def at(self, rows: Tensor) -> Tensor:
        """(k, H) of some of them."""
        found: Tensor = self.after[self.place[rows].clamp(min=0)] * self.later[rows].unsqueeze(1)
        return found


class Meetings(NamedTuple):
    """What the heads are fitted on: m clicks, each with the state it came upon.

    item, event_type  (m,) int64 indices; new items are unknown as often as in training
    weight            (m,) float32, with mean 1
    """

    states: States
    item: Tensor
    event_type: Tensor
    weight: Tensor


def meetings(network: Network, clicks: Clicks, weight: F64, seed: int) -> Meetings:
    """At most STATES of the clicks, drawn by `seed`. Half of the clicks on new items become unknown, as in training."""
    rng = np.random.default_rng(seed)
    hidden = clicks.fresh & (rng.random(len(clicks)) < 0.5)
    clicks = clicks.with_items(np.where(hidden, network.sizes.items, clicks.item))
    rows = drawn(np.arange(len(clicks)), STATES, seed)
    item, event_type, _ = clicks.inputs(rows)
    states = states_before(network, clicks, rows)
    return Meetings(states, item, event_type, torch.from_numpy(weight[rows] / weight[rows].mean()).float())


def states_before(network: Network, clicks: Clicks, rows: I64) -> States:
    """What the clicks at rows (m,), ascending, came upon."""
    network.eval()
    first = (rows == 0) | (clicks.user[rows] != clicks.user[np.maximum(0, rows - 1)])
    after = outputs(network, Windows(clicks), rows[~first] - 1)
    return States(after, torch.from_numpy(np.cumsum(~first) - 1), torch.from_numpy(~first))


def fitted_surprise(
    network: Network, met: Meetings, clusters: I64, new_items: int, generator: torch.Generator
) -> SurpriseHead:
    """The surprise head over clusters (V,) of the known items, its distribution over them fitted.

    It is fitted on clicks that the network was trained on, whose states are surer than later ones will be. So both
    levels are cooled as the lists are, by the mixture's temperature and bias weight, which are fitted on held-out
    clicks; how often a cluster comes at all, the bias of the first level, stays.
    """
    mixture = network.mixture
    sharpness = 1 / mixture.temperature
    rows, bias = network.item_rows[:-1].detach(), network.item_bias[:-1].detach()
    head = SurpriseHead(clusters, rows * sharpness, bias * mixture.bias_weight, new_items)
    cluster_of = torch.from_numpy(np.append(clusters, clusters.max() + 1))
    _fit(head.top, met.states, cluster_of[met.item], met.weight, generator)
    head.top.weight.data *= sharpness
    return head.eval()


def _fit(layer: nn.Linear, states: States, came: Tensor, weight: Tensor, generator: torch.Generator) -> None:
    """Softmax regression of the class that came (n,) int64, weight (n,), on the n states."""
    mass = torch.bincount(came, weights=weight, minlength=layer.out_features) + 0.5
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_((mass / mass.sum()).log())
    optimizer = torch.optim.Adam(layer.parameters(), RATE, betas=(0.9, 0.98))
    tokens = min(TOKENS, max(64, len(came) // 32))
    per_round = math.ceil(len(came) / tokens)
    rounds = max(ROUNDS, math.ceil(LEAST_STEPS / per_round))
    steps = rounds * per_round
    number = 0
    for _ in range(rounds):
        for rows in torch.randperm(len(came), generator=generator).split(tokens):  # type: ignore[no-untyped-call]
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - 0.95 * number / steps)
            number += 1
            loss = cross_entropy(layer(dropout(states.at(rows), DROPOUT)), came[rows], reduction="none")
            mean = (loss * weight[rows]).mean()
            optimizer.zero_grad()
            mean.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
