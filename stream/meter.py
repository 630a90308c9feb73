"""Collects the worker's figures by name: counts, levels and timings.

Code that measures adds figures. A reader takes a snapshot and compares it with an earlier snapshot. All counts and
timings are cumulative since the start, so several readers can use different intervals. Call the meter once per cycle,
never once per click. All methods are thread-safe.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

STEPS_PER_DOUBLING = 4
SHORTEST_S = 1e-4
EDGES_S = SHORTEST_S * 2.0 ** (np.arange(40 * STEPS_PER_DOUBLING + 1) / STEPS_PER_DOUBLING)
"""Upper edges of the buckets of a timing, in seconds, from 0.1 ms to 3.5 years. The range is large, as a worker that
reads an old topic has latencies of days. The relative error of a quantile is at most 10%."""

Labels = tuple[tuple[str, str], ...]


class Name(NamedTuple):
    """Identifies a figure: its name and its sorted labels."""

    name: str
    labels: Labels = ()


@dataclass(frozen=True)
class Timing:
    """A histogram of durations.

    buckets  (len(EDGES_S) + 1,) int64: bucket i counts the durations above EDGES_S[i - 1] and at most EDGES_S[i]. The
             last bucket counts the durations above all edges
    total_s  sum of all durations, seconds
    """

    buckets: npt.NDArray[np.int64]
    total_s: float

    def since(self, earlier: "Timing | None") -> "Timing":
        """Return the durations that were added after `earlier`.

        earlier  the same timing in an earlier snapshot, or None if it had none
        """
        if earlier is None:
            return self
        return Timing(self.buckets - earlier.buckets, self.total_s - earlier.total_s)

    def quantile_s(self, share: float) -> float | None:
        """Return the quantile `share`, in seconds, with a relative error of at most 10%; None without durations."""
        reached = np.cumsum(self.buckets)
        if not reached[-1]:
            return None
        bucket = int(np.searchsorted(reached, share * reached[-1]))
        if bucket == 0:
            return SHORTEST_S
        upper = EDGES_S[min(bucket, len(EDGES_S) - 1)]
        return float(np.sqrt(EDGES_S[bucket - 1] * upper))


@dataclass(frozen=True)
class Snapshot:
    """All figures of a meter at one moment."""

    counts: Mapping[Name, int]
    levels: Mapping[Name, float]
    timings: Mapping[Name, Timing]

    def count(self, name: str) -> int:
        """Return the count of this name, summed over all labels. 0 if nothing was counted."""
        return sum(count for key, count in self.counts.items() if key.name == name)

    def counts_by(self, name: str, label: str) -> dict[str, int]:
        """Return the counts of this name by the value of one label: label value -> count."""
        return {dict(key.labels)[label]: count for key, count in self.counts.items() if key.name == name}

    def level(self, name: str) -> float | None:
        """Return the latest level of this name, or None if it was never set."""
        return self.levels.get(Name(name))

    def timing(self, name: str) -> Timing | None:
        """Return the timing of this name, or None if it was never observed."""
        return self.timings.get(Name(name))


class Meter:
    """Collects figures. Thread-safe.

    Use only few and fixed values for labels, such as reasons: each combination uses memory until the process ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Name, int] = {}
        self._levels: dict[Name, float] = {}
        self._timings: dict[Name, Timing] = {}

    def count(self, name: str, n: int = 1, **labels: str) -> None:
        """Add n to a count. With n = 0, the count exists afterwards and is 0."""
        key = _key(name, labels)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + n

    def level(self, name: str, value: float, **labels: str) -> None:
        """Set a value that can go up and down, such as the number of users."""
        with self._lock:
            self._levels[_key(name, labels)] = value

    def observe(self, name: str, seconds: npt.ArrayLike, **labels: str) -> None:
        """Add durations in seconds, a number or an array. A negative duration counts as 0.

        A duration can be negative because its two times may come from different clocks.
        """
        durations = np.maximum(np.atleast_1d(np.asarray(seconds, np.float64)), 0.0)
        buckets = np.bincount(np.searchsorted(EDGES_S, durations), minlength=len(EDGES_S) + 1)
        added = Timing(buckets, float(durations.sum()))
        key = _key(name, labels)
        with self._lock:
            old = self._timings.get(key)
            if old is not None:
                added = Timing(old.buckets + added.buckets, old.total_s + added.total_s)
            self._timings[key] = added  # always a new object, because snapshots share the old one

    def snapshot(self) -> Snapshot:
        """Return all figures at this moment. Later changes of the meter do not affect the snapshot."""
        with self._lock:
            return Snapshot(dict(self._counts), dict(self._levels), dict(self._timings))


def _key(name: str, labels: dict[str, str]) -> Name:
    return Name(name, tuple(sorted(labels.items())))
