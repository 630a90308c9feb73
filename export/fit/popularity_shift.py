"""How fast a catalogue's popularity passes, measured on the log itself, and what it means for the training.

On a news site an item's hour is over in an afternoon; in a shop it lasts for months. Popularity with exponentially
decaying counts is tried with several half-lives. The network learns from all clicks alike; the half-life with which it
then ranks the held-out slice best, if any, moves its bias to the popularity at the end of the log: under a shift of
popularity alone, p_now(item | state) is proportional to p_then(item | state) p_now(item) / p_then(item). Measured on
two days of a news site, one epoch, same weights: recall@20 of the next day .228 without the shift, .281 with it (one
seed). A shop whose lists of the most popular items change by the day lost by it, so the network's own lists decide.
Sources: Saerens et al. 2002 and Menon et al. 2021 (prior shift); Ji et al. 2020 (popularity in time).
"""

import numpy as np
import torch
from torch import Tensor

from export.dataset.popularity import Recency
from export.dataset.windows import Clicks, Windows, drawn
from export.measure.metrics import K
from export.measure.ranking import places, ranks
from export.network.network import Network
from export.network.states import outputs

FRACTIONS = (1, 2, 4, 8, 16, 32, 64, 128)
"""The log's span is divided by these to give the half-lives tried."""

JUDGED = 5_000
"""Clicks that the half-lives are tried on."""

MARGIN = 3.0
"""A half-life must be better than none by so many standard errors: in a short log chance alone favours some."""


@torch.no_grad()
def best_recency(network: Network, train: Clicks, later: Clicks, steady: Recency) -> Recency:
    """The half-life whose shift lets a network trained on `train` rank the later clicks best.

    steady  popularity as it is without one; returned too where no half-life is surely better
    """
    items, span = network.sizes.items, float(train.time_ms.max() - train.time_ms.min())
    rows = drawn(np.flatnonzero((later.target >= 0) & (later.target < items)), JUDGED)
    if span <= 0 or not len(rows):
        return steady
    tried = [Recency(span / fraction, steady.before) for fraction in FRACTIONS]
    shifts = [torch.from_numpy(one.shift(train.item, train.time_ms, items)[:items]).float() for one in tried]
    out, target = outputs(network, Windows(later), rows), torch.from_numpy(later.target[rows]).long()
    gains: list[Tensor] = []
    for some in places(len(rows), items):
        logits = network.logits(out[some])
        ranked = torch.stack([ranks(logits + shift, target[some]) for shift in (torch.zeros(items), *shifts)])
        gains.append((ranked <= K) * (1 + 1 / ranked))  # what each click adds to recall@20 + MRR@20
    without, *others = torch.cat(gains, dim=1)
    best = max(range(len(tried)), key=lambda i: float(others[i].sum()))
    gain = others[best] - without
    return tried[best] if gain.sum() > MARGIN * gain.square().sum().sqrt() else steady


def shift_bias(network: Network, clicks: Clicks, recency: Recency) -> Network:
    """The network, trained on `clicks`, its bias moved to the popularity at their end; states do not depend on it."""
    now = recency.shift(clicks.item, clicks.time_ms, network.sizes.items)
    network.item_bias.data += torch.from_numpy(now).float()
    return network
