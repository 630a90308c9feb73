"""How popular items are: exponentially decaying counts of their clicks, where popularity passes within the log."""

from dataclasses import dataclass

import numpy as np

from export.arrays import F64, I32, I64

FLOOR = 0.05
"""Weight of the oldest clicks in the fit of the surprise head: its few weights can follow popularity closely."""


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
