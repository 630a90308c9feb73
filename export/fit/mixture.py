"""A trained network -> the same network with its mixture: what the last items bring, counted and weighed.

Gates and temperature say how far the network is to be trusted, so they are fitted on clicks it was not trained on.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch

from export.arrays import F64, I64
from export.dataset.cooccurrence import Counted, count_neighbours
from export.dataset.popularity import Recency
from export.dataset.windows import Clicks, Windows, drawn
from export.fit.trust import TRUSTS, Chances, choose_trust, fit_mixture
from export.measure.ranking import list_ranks, places, recall_and_mrr
from export.network.mixture import Mixture, visit_so_far
from export.network.network import Network
from export.network.states import memories, outputs
from export.train.holdout import halves
from export.train.warm_start import Older

FITTED, TRUSTED = 20_000, 2_000
"""Clicks that gates are fitted to, and how far the network is to be trusted: each of those costs V for every trust."""


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
