"""Collects the worker's figures by name: counts, levels and histograms.

Code that measures adds figures. A reader takes a snapshot and compares it with an earlier snapshot. All counts and
histograms are cumulative since the start, so several readers can use different intervals. Call the meter once per
cycle, never once per click. All methods are thread-safe.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

STEPS_PER_DOUBLING = 4
SMALLEST = 1e-4
EDGES = SMALLEST * 2.0 ** (np.arange(40 * STEPS_PER_DOUBLING + 1) / STEPS_PER_DOUBLING)
"""Upper edges of the buckets of a histogram, for durations in seconds from 0.1 ms to 3.5 years. The range is large, as
a worker that reads an old topic has latencies of days. The relative error of a quantile is at most 10%."""

Labels = tuple[tuple[str, str], ...]


class Name(NamedTuple):
    """Identifies a figure: its name and its sorted labels."""

    name: str
    labels: Labels = ()


@dataclass(frozen=True)
class Histogram:
    """A histogram of durations in seconds, or of sizes.

    buckets  (len(EDGES) + 1,) int64: bucket i counts the values above EDGES[i - 1] and at most EDGES[i]. The last
             bucket counts the values above all edges
    total    sum of all values
    """

    buckets: npt.NDArray[np.int64]
    total: float

    def since(self, earlier: "Histogram | None") -> "Histogram":
        """Return the values that were added after `earlier`.

        earlier  the same histogram in an earlier snapshot, or None if it had none
        """
        if earlier is None:
            return self
        return Histogram(self.buckets - earlier.buckets, self.total - earlier.total)

    def quantile(self, share: float) -> float | None:
        """Return the quantile `share` with a relative error of at most 10%; None without values."""
        reached = np.cumsum(self.buckets)
        if not reached[-1]:
            return None
        bucket = int(np.searchsorted(reached, share * reached[-1]))
        if bucket == 0:
            return SMALLEST
        upper = EDGES[min(bucket, len(EDGES) - 1)]
        return float(np.sqrt(EDGES[bucket - 1] * upper))


@dataclass(frozen=True)
class Snapshot:
    """All figures of a meter at one moment."""

    counts: Mapping[Name, int]
    levels: Mapping[Name, float]
    histograms: Mapping[Name, Histogram]

    def count(self, name: str) -> int:
        """Return the count of this name, summed over all labels. 0 if nothing was counted."""
        return sum(count for key, count in self.counts.items() if key.name == name)

    def counts_by(self, name: str, label: str) -> dict[str, int]:
        """Return the counts of this name by the value of one label: label value -> count."""
        return {dict(key.labels)[label]: count for key, count in self.counts.items() if key.name == name}

    def levels_by(self, name: str, label: str) -> dict[str, float]:
        """Return the latest levels of this name by the value of one label: label value -> level."""
        return {dict(key.labels)[label]: level for key, level in self.levels.items() if key.name == name}

    def level(self, name: str) -> float | None:
        """Return the latest level of this name, or None if it was never set."""
        return self.levels.get(Name(name))

    def histogram(self, name: str) -> Histogram | None:
        """Return the histogram of this name, or None if nothing was observed."""
        return self.histograms.get(Name(name))


class Meter:
    """Collects figures. Thread-safe.

    Use only few and fixed values for labels, such as reasons: each combination uses memory until the process ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Name, int] = {}
        self._levels: dict[Name, float] = {}
        self._histograms: dict[Name, Histogram] = {}

    def count(self, name: str, n: int = 1, **labels: str) -> None:
        """Add n to a count. With n = 0, the count exists afterwards and is 0."""
        key = _key(name, labels)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + n

    def level(self, name: str, value: float, **labels: str) -> None:
        """Set a value that can go up and down, such as the number of users."""
        with self._lock:
            self._levels[_key(name, labels)] = value

    def levels(self, name: str, label: str, values: Mapping[str, float]) -> None:
        """Set the values of a name by one label: label value -> value. Label values that are not given end."""
        with self._lock:
            for key in [key for key in self._levels if key.name == name]:
                del self._levels[key]
            self._levels.update({_key(name, {label: of}): value for of, value in values.items()})

    def observe(self, name: str, values: npt.ArrayLike, **labels: str) -> None:
        """Add durations in seconds, or sizes: a number or an array. A negative duration counts as 0.

        A duration can be negative because its two times may come from different clocks.
        """
        values = np.maximum(np.atleast_1d(np.asarray(values, np.float64)), 0.0)
        buckets = np.bincount(np.searchsorted(EDGES, values), minlength=len(EDGES) + 1)
        added = Histogram(buckets, float(values.sum()))
        key = _key(name, labels)
        with self._lock:
            old = self._histograms.get(key)
            if old is not None:
                added = Histogram(old.buckets + added.buckets, old.total + added.total)
            self._histograms[key] = added  # always a new object, because snapshots share the old one

    def snapshot(self) -> Snapshot:
        """Return all figures at this moment. Later changes of the meter do not affect the snapshot."""
        with self._lock:
            return Snapshot(dict(self._counts), dict(self._levels), dict(self._histograms))


def _key(name: str, labels: dict[str, str]) -> Name:
    return Name(name, tuple(sorted(labels.items())))
