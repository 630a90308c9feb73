"""How fast a catalogue's popularity passes, measured on the log itself, and what it means for the training.

On a news site an item's hour is over in an afternoon; in a shop it lasts for months. Popularity with exponentially
decaying counts is tried with several half-lives. The network learns from all clicks alike; the half-life with which it
then ranks the held-out slice best, if any, moves its bias to the popularity at the end of the log: under a shift of
popularity alone, p_now(item | state) is proportional to p_then(item | state) p_now(item) / p_then(item). Measured on
two days of a news site, one epoch, same weights: recall@20 of the next day .228 without the shift, .281 with it (one
seed). A shop whose lists of the most popular items change by the day lost by it, so the network's own lists decide.
Sources: Saerens et al. 2002 and Menon et al. 2021 (prior shift); Ji et al. 2020 (popularity in time).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from export.arrays import F64, I32, I64
from export.network.network import Network
from export.network.states import outputs
from export.ranking import DEPTH, drawn, places, ranks
from export.sequences import Clicks, Windows

FRACTIONS = (1, 2, 4, 8, 16, 32, 64, 128)
"""The log's span is divided by these to give the half-lives tried."""

FLOOR = 0.05
"""Weight of the oldest clicks in the fit of the surprise head: its few weights can follow popularity closely."""

JUDGED = 5_000
"""Clicks that the half-lives are tried on."""

MARGIN = 3.0
"""A half-life must be better than none by so many standard errors: in a short log chance alone favours some."""


@dataclass(frozen=True)
class Recency:
    """How popularity passes.

    half_life_ms  None: not within the log
    before        (V,) an older model's clicks on each item that are not in the log: they count as its oldest does
    """

    half_life_ms: float | None
    before: F64 | None = None

    def decay(self, time_ms: I64) -> F64:
        """(n,) in (0, 1]: what each click counts for popularity at the end of the log."""
        if self.half_life_ms is None:
            return np.ones(len(time_ms))
        decay: F64 = (time_ms - time_ms.max()) / self.half_life_ms
        return np.exp2(decay, out=decay)

    def weights(self, time_ms: I64) -> F64:
        """(n,) with mean 1: what each click counts for the surprise head."""
        weight = self.decay(time_ms)
        weight *= 1 - FLOOR
        weight += FLOOR
        weight /= weight.mean()
        return weight

    def share(self, item: I32, time_ms: I64, items: int) -> F64:
        """(items + 1,) decayed share of each item, none of them zero; the last is the unknown item's."""
        decay = self.decay(time_ms)
        counts: F64 = np.bincount(item, weights=decay, minlength=items + 1).astype(np.float64) + 0.02
        if self.before is not None:
            counts[:items] += self.before * decay.min()
        counts[items] = counts[:items].sum() * 0.05
        return np.asarray(counts / counts.sum())

    def shift(self, item: I32, time_ms: I64, items: int) -> F64:
        """(items + 1,) nats: how much likelier each item is at the end of the log than over all of it."""
        then = self.steady.share(item, time_ms, items)
        return np.asarray(np.log(self.share(item, time_ms, items) / then))

    @property
    def steady(self) -> "Recency":
        """Popularity over all clicks alike."""
        return Recency(None, self.before)

    def describe(self) -> str:
        if self.half_life_ms is None:
            return "popularity does not pass within the log"
        return f"popularity passes with a half-life of {self.half_life_ms / 3_600_000:.1f} h"


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
        gains.append((ranked <= DEPTH) * (1 + 1 / ranked))  # what each click adds to recall@20 + MRR@20
    without, *others = torch.cat(gains, dim=1)
    best = max(range(len(tried)), key=lambda i: float(others[i].sum()))
    gain = others[best] - without
    return tried[best] if gain.sum() > MARGIN * gain.square().sum().sqrt() else steady


def shift_bias(network: Network, clicks: Clicks, recency: Recency) -> Network:
    """The network, trained on `clicks`, its bias moved to the popularity at their end; states do not depend on it."""
    now = recency.shift(clicks.item, clicks.time_ms, network.sizes.items)
    network.item_bias.data += torch.from_numpy(now).float()
    return network
