"""Frozen states -> the mixture's gates, the event head and the two-level surprise head.

The ranking head is left as it was trained. Within a cluster the surprise uses its rows and bias as they are, so only
the distribution over clusters is fitted: an ordinary softmax regression on C + 1 classes, minutes even for large logs.
Gates and temperature say how far the network is to be trusted, so they are fitted on clicks it was not trained on.
"""

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout

from export.arrays import F64, I64
from export.dataset.cooccurrence import Counted, count_neighbours
from export.dataset.popularity import Recency
from export.dataset.windows import Clicks, Windows, drawn
from export.fit.trust import TRUSTS, Chances, choose_trust, fit_mixture
from export.measure.ranking import list_ranks, places, recall_and_mrr
from export.network.mixture import Mixture, visit_so_far
from export.network.network import Network
from export.network.states import memories, outputs
from export.network.surprise import SurpriseHead, balanced_clusters, cluster_count
from export.train.holdout import halves
from export.train.warm_start import Older

ROUNDS, TOKENS, DROPOUT = 3, 2048, 0.15
RATE = 2e-3
"""Nats of held-out clusters, three networks of bolcom: 4.54 at 1e-3, 4.50 at 2e-3, 4.52 at 4e-3, 4.57 at 8e-3."""

FITTED, TRUSTED = 20_000, 2_000
"""Clicks that gates are fitted to, and how far the network is to be trusted: each of those costs V for every trust."""

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


def set_mixture(network: Network, clicks: Clicks, weight: F64, before: Counted | None = None) -> None:
    """Count the neighbours of `clicks`, each of weight (n,), on top of what was counted before them.

    Gates, temperature and bias weight stay, if there are any.
    """
    counted = Mixture(count_neighbours(clicks, weight, network.sizes.items, before))
    if hasattr(network, "mixture"):
        older = network.mixture
        counted.gates, counted.temperature, counted.bias_weight = older.gates, older.temperature, older.bias_weight
    network.mixture = counted


def count_on(network: Network, clicks: Clicks, recency: Recency, counted: Counted | None, older: Older | None) -> None:
    """Set the mixture: neighbours counted in the clicks, on top of the older model's where those have not been.

    Its gates are where the fit of the new ones begins.
    """
    weight = recency.weights(clicks.time_ms)
    if older is None:
        set_mixture(network, clicks, weight)
        return
    if not hasattr(network, "mixture"):
        network.mixture = copy.deepcopy(older.network.mixture)
    newer = clicks.time_ms > older.until_ms
    set_mixture(network, clicks.where(newer), weight[newer], counted)


def clicks_of(clicks: Clicks, items: int, counted: Counted | None) -> F64:
    """(V,) how often each item was clicked in `clicks` or in what the older model has counted."""
    own = np.bincount(clicks.item, minlength=items).astype(np.float64)
    return own if counted is None else own + counted.clicks[:items]


def mix(network: Network, seen: Clicks, cut_ms: int, seed: int) -> dict[str, float]:
    """Fit the mixture on every other held-out click; returns what it ranks the rest at, recall@20 and MRR@20.

    seen  the users of the slice with all their clicks, as they will come in service
    """
    fitted, judged = halves(seen, cut_ms)
    fit_gates(network, seen, fitted[seen.target[fitted] < network.sizes.items], seed)
    out, remembered = outputs(network, Windows(seen), judged), memories(seen, judged)
    recall, mrr = recall_and_mrr(list_ranks(network, out, remembered, seen.target[judged]))
    return {"recall20": recall, "mrr20": mrr}


def fit_gates(network: Network, clicks: Clicks, rows: I64, seed: int) -> None:
    """Fit the mixture to the clicks that come after `rows` (n,), which the network was not trained on.

    At most FITTED of them are used, drawn by `seed`; with none the gates stay closed.
    """
    rows, mixture = drawn(rows, FITTED, seed), network.mixture
    if len(rows):
        choose_trust(mixture, _chances(network, clicks, drawn(rows, TRUSTED, seed), TRUSTS))
        trust = mixture.temperature.item(), mixture.bias_weight.item()
        fit_mixture(mixture, _chances(network, clicks, rows, [trust]))


@torch.no_grad()
def _chances(network: Network, clicks: Clicks, rows: I64, trusts: Sequence[tuple[float, float]]) -> Chances:
    """What the mixture is fitted to, of the clicks that follow `rows` (n,), all of known items.

    clicks  whole histories, as the network meets them
    trusts  temperatures and bias weights, as in TRUSTS
    """
    network.eval()
    mixture, out = network.mixture, outputs(network, Windows(clicks), rows)
    recent, visit = (torch.from_numpy(part) for part in memories(clicks, rows))
    gap = torch.from_numpy(clicks.gap[rows + 1].astype(np.int64))
    target = torch.from_numpy(clicks.target[rows].astype(np.int64))
    parts: list[Chances] = []
    for some in places(len(rows), network.sizes.items):
        wanted, own = target[some], visit_so_far(gap[some], visit[some])
        says = torch.empty(len(some), len(trusts))  # one for all: small tensors kept between large ones fragment memory
        fits, bias = network.fits(out[some]), network.item_bias[:-1]
        for column, (temperature, bias_weight) in enumerate(trusts):
            scores = fits / temperature + bias_weight * bias
            says[:, column] = scores.gather(1, wanted.unsqueeze(1)).squeeze(1) - scores.logsumexp(dim=1)
        features = mixture.features(recent[some], own)
        sources = mixture.masses(recent[some], own)
        parts.append(Chances(says, features, *sources, mixture.at(wanted, recent[some])))
    return Chances(*(torch.cat(column) for column in zip(*parts, strict=True)))


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
