"""Adds the mixture to a trained network: counts the co-occurrences, then fits gates, temperature and bias weight.

The fit uses held-out clicks only: on its own training clicks the network is more confident than in production.
"""

import copy
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from export.arrays import F64, I64
from export.dataset.cooccurrence import Counted, count_neighbours, session_starts
from export.dataset.popularity import Recency
from export.dataset.windows import Clicks, Windows, drawn
from export.fit.gates import Examples, Expansion, fit_gates, fit_jointly
from export.fit.popularity_shift import best_recency, shift_bias
from export.measure.ranking import list_ranks, recall_and_mrr, row_batches
from export.network.mixture import REMEMBERED, Mixture, session_before
from export.network.network import Network
from export.network.states import memories, outputs
from export.train.cold_items import Catalogued, with_new_items
from export.train.holdout import HeldOut, halves
from export.train.warm_start import Older

GATE_CLICKS = 20_000
"""Maximum clicks on which the gates are fitted."""

JOINT_CLICKS = 2_000
"""Maximum clicks on which temperature and bias weight are fitted too: each click costs O(V) at every expansion."""

FORGOTTEN = 0.01
"""Share of the next clicks that may return to a forgotten item (`items_to_remember`)."""

FLATTER = 1.07
"""Factor by which the temperature is above the most likely one. The likelihood counts every click, a list only its
first items, and at the top of a list the sources are better than the network. Chosen between 1.05 and 1.1 on held-out
clicks to which nothing was fitted; recall@20 / MRR@20 / NDCG@20 with 1, 1.05 and 1.1:

REES46, seed 0  .4204/.1480/.2081  .4204/.1497/.2095  .4187/.1513/.2104
REES46, seed 2  .4230/.1474/.2082  .4219/.1491/.2093  .4209/.1507/.2104
bolcom          .6129/.3387                           .6118/.3422
"""


def set_mixture(network: Network, clicks: Clicks, weight: F64, before: Counted | None = None) -> None:
    """Set the network's mixture to the co-occurrence counts of the clicks, added to the counts `before`.

    Gates, temperature and bias weight of an existing mixture stay, and at least as many items are remembered.

    weight  (n,) float64, weight of each click
    before  counts of an older model, over the same items
    """
    older = network.mixture if hasattr(network, "mixture") else None
    remembered = max(items_to_remember(clicks), 0 if older is None else older.remembered)
    counted = Mixture(count_neighbours(clicks, weight, network.sizes.items, before), remembered)
    if older is not None:
        counted.gates, counted.temperature, counted.bias_weight = older.gates, older.temperature, older.bias_weight
    network.mixture = counted


def count_cooccurrence(
    network: Network, clicks: Clicks, recency: Recency, counted: Counted | None, older: Older | None
) -> None:
    """Set the network's mixture to the co-occurrence counts of the clicks and, if there is one, of the older model.

    Clicks that the older model was trained on are in its counts already; they are not counted again. The older model's
    gates are the initial gates.

    recency  weights of the clicks
    counted  co-occurrence counts of the older model, over this vocabulary
    """
    weight = recency.weights(clicks.time_ms)
    if older is None:
        set_mixture(network, clicks, weight)
        return
    if not hasattr(network, "mixture"):
        network.mixture = copy.deepcopy(older.network.mixture)
    newer = clicks.time_ms > older.until_ms
    set_mixture(network, clicks.where(newer), weight[newer], counted)


def items_to_remember(clicks: Clicks) -> int:
    """R, the number of different items that a user's state remembers: the smallest of REMEMBERED that is enough.

    It is enough if at most FORGOTTEN of the next clicks in a session return to an item of the session that would be
    forgotten by then, although the largest memory would still have it. A random sample of the clicks decides.
    """
    rows = drawn(np.arange(len(clicks) - 1), GATE_CLICKS)
    rows = rows[~session_starts(clicks)[rows + 1]]
    recent, session = memories(clicks, rows, max(REMEMBERED))
    returns = (recent == clicks.item[rows + 1, None] + 1) & (session > 0)
    return next(count for count in REMEMBERED if returns[:, count:].sum() <= FORGOTTEN * len(rows))


class Mixed(NamedTuple):
    """A network with its mixture, as it would be served if the log ended where the held-out slice begins.

    held_out  the split with the items of the catalogue, if there is one
    recency   the recency correction of popularity
    quality   recall20 and mrr20 on the held-out clicks on which the mixture was not fitted
    """

    network: Network
    held_out: HeldOut
    recency: Recency
    quality: dict[str, float]


def mixed(
    network: Network, held_out: HeldOut, seed: int, older: Older | None = None, catalogued: Catalogued | None = None
) -> Mixed:
    """A network that was trained on the clicks before the held-out slice -> the network as it would be served.

    1. Choose the recency correction of popularity on the slice.
    2. Shift the bias to the popularity at the end of the training clicks, and add the catalogue's items.
    3. Count the co-occurrences in the training clicks.
    4. Fit the mixture on every second click of the slice, and evaluate it on the other clicks.
    """
    head = held_out.head
    recency = best_recency(network, head, held_out.tail, held_out.popularity)  # 1
    network = with_final_popularity(network, head, recency, held_out.counted, catalogued)  # 2
    if catalogued is not None:
        held_out = held_out.with_items(catalogued)
    count_cooccurrence(network, head, recency, held_out.counted, older)  # 3
    return Mixed(network, held_out, recency, mix(network, held_out.seen, held_out.cut_ms, seed))  # 4


def with_final_popularity(
    network: Network, clicks: Clicks, recency: Recency, counted: Counted | None, catalogued: Catalogued | None
) -> Network:
    """Shift the bias of a network to the popularity at the end of its training clicks, and add the catalogue's items.

    clicks   the training clicks of the network
    counted  co-occurrence counts of an older model: its items have training clicks too
    """
    network = shift_bias(network, clicks, recency)
    if catalogued is None:
        return network
    clicked = np.bincount(clicks.item, minlength=network.sizes.items).astype(np.float64)
    if counted is not None:
        clicked += counted.clicks[: network.sizes.items]
    return with_new_items(network, clicked, catalogued.category)


def mix(network: Network, seen: Clicks, cut_ms: int, seed: int) -> dict[str, float]:
    """Fit the mixture on every second held-out click; returns recall20 and mrr20 of its lists on the other clicks.

    seen    the users of the slice with all their clicks, as in production
    cut_ms  time at which the slice begins, ms
    """
    fitted, judged = halves(seen, cut_ms)
    fit_mixture(network, seen, fitted[seen.target[fitted] < network.sizes.items], seed)
    out, remembered = outputs(network, Windows(seen), judged), memories(seen, judged, network.mixture.remembered)
    recall, mrr = recall_and_mrr(list_ranks(network, out, remembered, seen.target[judged]))
    return {"recall20": recall, "mrr20": mrr}


def fit_mixture(network: Network, clicks: Clicks, rows: I64, seed: int) -> None:
    """Fit the mixture on the clicks that follow `rows` (n,) int64; the network was not trained on them.

    A random sample of at most GATE_CLICKS of them is used. Without any the gates stay closed.

    clicks  complete histories of the users, as in production
    """
    rows = drawn(rows, GATE_CLICKS, seed)
    if not len(rows):
        return
    network.eval()
    few = drawn(rows, JOINT_CLICKS, seed)
    out, target = outputs(network, Windows(clicks), few), torch.from_numpy(clicks.target[few]).long()
    fit_jointly(network.mixture, _examples(network, clicks, few), partial(expansion, network, out, target))
    network.mixture.temperature *= FLATTER
    fit_gates(network.mixture, _examples(network, clicks, rows), _log_probs(network, clicks, rows))


@torch.no_grad()
def expansion(network: Network, out: Tensor, target: Tensor, around: Tensor) -> Expansion:
    """Expansion of the network's log-probability of the known items `target` (n,) after the outputs `out` (n, H).

    around  (2,) point of the expansion: 1 / temperature and bias weight
    """
    bias = network.item_bias[:-1]
    found = torch.empty(len(out), 6)  # one tensor for all: small tensors kept between large ones fragment memory
    for some in row_batches(len(out), len(bias)):
        products, wanted = network.row_products(out[some]), target[some]
        scores = around[0] * products + around[1] * bias
        log_sum = scores.logsumexp(dim=1, keepdim=True)
        p = (scores - log_sum).exp()
        weighted = p * products
        mean_product, mean_bias = weighted.sum(dim=1), p @ bias
        own = products.gather(1, wanted.unsqueeze(1)).squeeze(1)
        found[some, 0] = around[0] * own + around[1] * bias[wanted] - log_sum.squeeze(1)
        found[some, 1], found[some, 2] = own - mean_product, bias[wanted] - mean_bias
        found[some, 3] = (weighted * products).sum(dim=1) - mean_product.square()
        found[some, 4] = weighted @ bias - mean_product * mean_bias
        found[some, 5] = p @ bias.square() - mean_bias.square()
    return Expansion(around, found[:, 0], found[:, 1:3], found[:, [3, 4, 4, 5]].view(-1, 2, 2))


@torch.no_grad()
def _log_probs(network: Network, clicks: Clicks, rows: I64) -> Tensor:
    """(n,) nats, the network's calibrated log-probability of the clicks that follow `rows` (n,)."""
    out, target = outputs(network, Windows(clicks), rows), torch.from_numpy(clicks.target[rows]).long()
    found = torch.empty(len(rows))
    for some in row_batches(len(rows), network.sizes.items):
        found[some] = -cross_entropy(network.calibrated_logits(out[some]), target[some], reduction="none")
    return found


@torch.no_grad()
def _examples(network: Network, clicks: Clicks, rows: I64) -> Examples:
    """The mixture's inputs at the clicks that follow `rows` (n,), all on known items."""
    recent, session = (torch.from_numpy(part) for part in memories(clicks, rows, network.mixture.remembered))
    target, gap = (torch.from_numpy(part.astype(np.int64)) for part in (clicks.target[rows], clicks.gap[rows + 1]))
    mixture, own = network.mixture, session_before(gap, session)
    parts: list[Examples] = []
    for some in row_batches(len(rows), network.sizes.items):
        features = mixture.features(recent[some], own[some])
        sources = mixture.sources(recent[some], own[some])
        parts.append(Examples(features, *sources, mixture.shares_of(target[some], recent[some], own[some])))
    return Examples(*(torch.cat(column) for column in zip(*parts, strict=True)))
