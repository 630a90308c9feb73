"""A trained network -> the same network with its mixture: what the last items bring, counted and weighed.

Gates and temperature say how far the network is to be trusted, so they are fitted on clicks it was not trained on.
"""

import copy
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from export.arrays import F64, I64
from export.dataset.cooccurrence import Counted, count_neighbours
from export.dataset.popularity import Recency
from export.dataset.windows import Clicks, Windows, drawn
from export.fit.gates import Examples, Expansion, fit_gates, fit_jointly
from export.fit.popularity_shift import best_recency, shift_bias
from export.measure.ranking import list_ranks, places, recall_and_mrr
from export.network.mixture import Mixture, visit_so_far
from export.network.network import Network
from export.network.states import memories, outputs
from export.train.cold_items import Catalogued, with_new_items
from export.train.holdout import HeldOut, halves
from export.train.warm_start import Older

FITTED = 20_000
"""Clicks that the gates are fitted to, at most."""

JOINTLY = 2_000
"""Of them, those that temperature and bias weight are fitted to: each costs V at every expansion."""


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


class Mixed(NamedTuple):
    """A network with its mixture, as it would be served if the log ended where the held-out slice begins.

    held_out  what it was mixed with: the one that was given, with the catalogue's items
    recency   how popularity passes in the log
    quality   recall20 and mrr20 on the held-out clicks that the mixture was not fitted to
    """

    network: Network
    held_out: HeldOut
    recency: Recency
    quality: dict[str, float]


def mixed(
    network: Network, held_out: HeldOut, seed: int, older: Older | None = None, catalogued: Catalogued | None = None
) -> Mixed:
    """A network that was trained on the clicks before the held-out slice -> what would be served of it.

    1. How popularity passes (recency), chosen on the slice.
    2. The bias is moved to the end of the clicks before it; the catalogue's items are added.
    3. Neighbours are counted in the same clicks.
    4. The mixture is fitted to every other click of the slice, and judged on the rest.
    """
    head = held_out.head
    recency = best_recency(network, head, held_out.tail, held_out.popularity)  # 1
    network = at_the_end(network, head, recency, held_out.counted, catalogued)  # 2
    if catalogued is not None:
        held_out = held_out.with_items(catalogued)
    count_on(network, head, recency, held_out.counted, older)  # 3
    return Mixed(network, held_out, recency, mix(network, held_out.seen, held_out.cut_ms, seed))  # 4


def at_the_end(
    network: Network, clicks: Clicks, recency: Recency, counted: Counted | None, catalogued: Catalogued | None
) -> Network:
    """A network that was trained on `clicks`, as of their end: popularity is that of the end, new items are added.

    counted  what an older model has counted: its items have clicks too
    """
    network = shift_bias(network, clicks, recency)
    if catalogued is None:
        return network
    clicked = np.bincount(clicks.item, minlength=network.sizes.items).astype(np.float64)
    if counted is not None:
        clicked += counted.clicks[: network.sizes.items]
    return with_new_items(network, clicked, catalogued.category)


def mix(network: Network, seen: Clicks, cut_ms: int, seed: int) -> dict[str, float]:
    """Fit the mixture on every other held-out click; returns what it ranks the rest at, recall@20 and MRR@20.

    seen  the users of the slice with all their clicks, as they will come in service
    """
    fitted, judged = halves(seen, cut_ms)
    fit_mixture(network, seen, fitted[seen.target[fitted] < network.sizes.items], seed)
    out, remembered = outputs(network, Windows(seen), judged), memories(seen, judged)
    recall, mrr = recall_and_mrr(list_ranks(network, out, remembered, seen.target[judged]))
    return {"recall20": recall, "mrr20": mrr}


def fit_mixture(network: Network, clicks: Clicks, rows: I64, seed: int) -> None:
    """Fit the mixture to the clicks that come after `rows` (n,), which the network was not trained on.

    At most FITTED of them are used, drawn by `seed`; with none the gates stay closed.
    clicks  whole histories, as the network meets them
    """
    rows = drawn(rows, FITTED, seed)
    if not len(rows):
        return
    network.eval()
    few = drawn(rows, JOINTLY, seed)
    out, target = outputs(network, Windows(clicks), few), torch.from_numpy(clicks.target[few]).long()
    fit_jointly(network.mixture, _examples(network, clicks, few), partial(expansion, network, out, target))
    fit_gates(network.mixture, _examples(network, clicks, rows), _log_probs(network, clicks, rows))


@torch.no_grad()
def expansion(network: Network, out: Tensor, target: Tensor, around: Tensor) -> Expansion:
    """The network's log-probability of known items `target` (n,) after outputs (n, H), around a point (2,)."""
    bias = network.item_bias[:-1]
    found = torch.empty(len(out), 6)  # one for all: small tensors kept between large ones fragment memory
    for some in places(len(out), len(bias)):
        fits, wanted = network.fits(out[some]), target[some]
        scores = around[0] * fits + around[1] * bias
        whole = scores.logsumexp(dim=1, keepdim=True)
        share = (scores - whole).exp()
        by_fit = share * fits
        fit, popular = by_fit.sum(dim=1), share @ bias
        own = fits.gather(1, wanted.unsqueeze(1)).squeeze(1)
        found[some, 0] = around[0] * own + around[1] * bias[wanted] - whole.squeeze(1)
        found[some, 1], found[some, 2] = own - fit, bias[wanted] - popular
        found[some, 3] = (by_fit * fits).sum(dim=1) - fit.square()
        found[some, 4] = by_fit @ bias - fit * popular
        found[some, 5] = share @ bias.square() - popular.square()
    return Expansion(around, found[:, 0], found[:, 1:3], found[:, [3, 4, 4, 5]].view(-1, 2, 2))


@torch.no_grad()
def _log_probs(network: Network, clicks: Clicks, rows: I64) -> Tensor:
    """(n,) nats: the network's own, at its temperature and bias weight, of the clicks that follow `rows` (n,)."""
    out, target = outputs(network, Windows(clicks), rows), torch.from_numpy(clicks.target[rows]).long()
    found = torch.empty(len(rows))
    for some in places(len(rows), network.sizes.items):
        found[some] = -cross_entropy(network.cooled(out[some]), target[some], reduction="none")
    return found


@torch.no_grad()
def _examples(network: Network, clicks: Clicks, rows: I64) -> Examples:
    """What the mixture sees of the clicks that follow `rows` (n,), all of known items."""
    recent, visit = (torch.from_numpy(part) for part in memories(clicks, rows))
    target, gap = (torch.from_numpy(part.astype(np.int64)) for part in (clicks.target[rows], clicks.gap[rows + 1]))
    mixture, own = network.mixture, visit_so_far(gap, visit)
    parts: list[Examples] = []
    for some in places(len(rows), network.sizes.items):
        features = mixture.features(recent[some], own[some])
        sources = mixture.masses(recent[some], own[some])
        parts.append(Examples(features, *sources, mixture.at(target[some], recent[some])))
    return Examples(*(torch.cat(column) for column in zip(*parts, strict=True)))
