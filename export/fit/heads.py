"""Fits the event head and the two-level surprise head on the states of a trained network; the network does not change.

Within a cluster the surprise head uses the rows and biases of the ranking head. So only its distribution over clusters
is fitted: a softmax regression with C + 1 classes, which takes minutes even for large logs.
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
"""Learning rate. Nats of held-out clusters, three networks of bolcom: 4.54 at 1e-3, 4.50 at 2e-3, 4.52 at 4e-3, 4.57 at
8e-3."""

STATES = 1_000_000
"""Maximum clicks on which the heads are fitted: a state of 192 units has 768 bytes."""

LEAST_STEPS = 300
"""Minimum optimizer steps: a short log gets more rounds and smaller batches."""


def fit_heads(network: Network, clicks: Clicks, weight: F64, new_items: int, seed: int) -> None:
    """Fit `event_head` and set `surprise`, in place, on the state before each click; zeros before a user's first click.

    weight     (n,) float64, weight of each click
    new_items  count of new items that exist at the same time; they share the probability of the unknown item
    """
    generator = torch.Generator().manual_seed(seed)
    examples = surprise_examples(network, clicks, weight, seed)
    rows = network.item_rows[:-1].detach().numpy()
    clusters = balanced_clusters(rows, cluster_count(network.sizes.items), seed)
    network.surprise = fitted_surprise(network, examples, clusters, new_items, generator)
    _fit(network.event_head, examples.states, examples.event_type, examples.weight, generator)


class PreClickStates(NamedTuple):
    """For each of m clicks, the user's state just before the click. The state before a user's first click is zeros.

    after          (r, H) float32, states after the r preceding clicks
    row            (m,) int64, row of `after` for each click; ignored where has_preceding is False
    has_preceding  (m,) bool, False for a user's first click
    """

    after: Tensor
    row: Tensor
    has_preceding: Tensor

    def at(self, chosen: Tensor) -> Tensor:
        """(k, H) float32, the states before the clicks `chosen` (k,), indices into the m clicks."""
        found: Tensor = self.after[self.row[chosen].clamp(min=0)] * self.has_preceding[chosen].unsqueeze(1)
        return found


class SurpriseExamples(NamedTuple):
    """Training examples of the heads: m clicks, each with the state before it.

    item, event_type  (m,) int64 indices; half of the clicks on new items have the unknown item, as in training
    weight            (m,) float32 with mean 1
    """

    states: PreClickStates
    item: Tensor
    event_type: Tensor
    weight: Tensor


def surprise_examples(network: Network, clicks: Clicks, weight: F64, seed: int) -> SurpriseExamples:
    """Training examples from a random sample of at most STATES clicks. weight (n,) float64, weight of each click."""
    rng = np.random.default_rng(seed)
    hidden = clicks.fresh & (rng.random(len(clicks)) < 0.5)
    clicks = clicks.with_items(np.where(hidden, network.sizes.items, clicks.item))
    rows = drawn(np.arange(len(clicks)), STATES, seed)
    item, event_type, _ = clicks.inputs(rows)
    states = states_before(network, clicks, rows)
    return SurpriseExamples(states, item, event_type, torch.from_numpy(weight[rows] / weight[rows].mean()).float())


def states_before(network: Network, clicks: Clicks, rows: I64) -> PreClickStates:
    """The states before the clicks at rows (m,) int64, ascending."""
    network.eval()
    first = (rows == 0) | (clicks.user[rows] != clicks.user[np.maximum(0, rows - 1)])
    after = outputs(network, Windows(clicks), rows[~first] - 1)
    return PreClickStates(after, torch.from_numpy(np.cumsum(~first) - 1), torch.from_numpy(~first))


def fitted_surprise(
    network: Network, examples: SurpriseExamples, clusters: I64, new_items: int, generator: torch.Generator
) -> SurpriseHead:
    """A surprise head whose distribution over clusters is fitted to the examples.

    The network was trained on these clicks, so it is more confident on them than on later clicks. Therefore both levels
    are corrected as the lists are: by the mixture's temperature and bias weight, which are fitted on held-out clicks.
    The bias of the first level, the frequency of each cluster, is not corrected.

    clusters   (V,) int64, cluster of each known item
    new_items  count of new items that exist at the same time
    """
    mixture = network.mixture
    sharpness = 1 / mixture.temperature
    rows, bias = network.item_rows[:-1].detach(), network.item_bias[:-1].detach()
    head = SurpriseHead(clusters, rows * sharpness, bias * mixture.bias_weight, new_items)
    cluster_of = torch.from_numpy(np.append(clusters, clusters.max() + 1))
    _fit(head.top, examples.states, cluster_of[examples.item], examples.weight, generator)
    head.top.weight.data *= sharpness
    return head.eval()


def _fit(layer: nn.Linear, states: PreClickStates, label: Tensor, weight: Tensor, generator: torch.Generator) -> None:
    """Fit the layer, in place, by softmax regression of the class label (m,) int64 on the m states; weight (m,)."""
    frequency = torch.bincount(label, weights=weight, minlength=layer.out_features) + 0.5
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_((frequency / frequency.sum()).log())
    optimizer = torch.optim.Adam(layer.parameters(), RATE, betas=(0.9, 0.98))
    tokens = min(TOKENS, max(64, len(label) // 32))
    per_round = math.ceil(len(label) / tokens)
    rounds = max(ROUNDS, math.ceil(LEAST_STEPS / per_round))
    steps = rounds * per_round
    number = 0
    for _ in range(rounds):
        for rows in torch.randperm(len(label), generator=generator).split(tokens):  # type: ignore[no-untyped-call]
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - 0.95 * number / steps)
            number += 1
            loss = cross_entropy(layer(dropout(states.at(rows), DROPOUT)), label[rows], reduction="none")
            mean = (loss * weight[rows]).mean()
            optimizer.zero_grad()
            mean.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
