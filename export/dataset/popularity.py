"""Item popularity: click counts, with exponential decay in time if popularity changes within the log."""

from dataclasses import dataclass

import numpy as np

from export.arrays import F64, I32, I64

FLOOR = 0.05
"""Smallest relative weight of a click in the fit of the surprise head, so that the oldest clicks still count."""


@dataclass(frozen=True)
class Recency:
    """The recency correction of popularity.

    half_life_ms  half-life of a click's weight; None = popularity is stable over the log: no recency correction
    before        (V,) float64, per item, the clicks that an older model counted and that the log does not contain. They
                  get the weight of the log's oldest click
    """

    half_life_ms: float | None
    before: F64 | None = None

    def decay(self, time_ms: I64) -> F64:
        """(n,) float64 in (0, 1], weight of each click for the popularity at the end of the log. time_ms (n,) int64."""
        if self.half_life_ms is None:
            return np.ones(len(time_ms))
        decay: F64 = (time_ms - time_ms.max()) / self.half_life_ms
        return np.exp2(decay, out=decay)

    def weights(self, time_ms: I64) -> F64:
        """(n,) float64 with mean 1, weight of each click in the fit of the surprise head. time_ms (n,) int64."""
        weight = self.decay(time_ms)
        weight *= 1 - FLOOR
        weight += FLOOR
        weight /= weight.mean()
        return weight

    def share(self, item: I32, time_ms: I64, items: int) -> F64:
        """(items + 1,) float64, weighted share of each item in all clicks, above 0; the last is the unknown item."""
        decay = self.decay(time_ms)
        counts: F64 = np.bincount(item, weights=decay, minlength=items + 1).astype(np.float64) + 0.02
        if self.before is not None:
            counts[:items] += self.before * decay.min()
        counts[items] = counts[:items].sum() * 0.05
        return np.asarray(counts / counts.sum())

    def shift(self, item: I32, time_ms: I64, items: int) -> F64:
        """(items + 1,) nats: log ratio of each item's share at the end of the log to its share over the whole log."""
        then = self.steady.share(item, time_ms, items)
        return np.asarray(np.log(self.share(item, time_ms, items) / then))

    @property
    def steady(self) -> "Recency":
        """The same popularity without recency correction: all clicks have equal weight."""
        return Recency(None, self.before)

    def describe(self) -> str:
        """Progress line."""
        if self.half_life_ms is None:
            return "popularity is stable over the log: no recency correction"
        hours = self.half_life_ms / 3_600_000
        return f"popularity changes over the log: recency correction with a half-life of {hours:.1f} h"
