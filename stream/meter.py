"""Counts, levels and timings by name: what the worker reports about itself, whoever reads it.

Whoever measures only adds; whoever reads takes a snapshot and compares it with an earlier one. All counts and timings
are cumulative since the start, so that any number of readers, each with its own interval, get the same figures. Called
once per cycle and never once per click. Any thread may call.
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
"""Upper edges of a timing's buckets, from 0.1 ms to 3.5 years: a worker that reads an old topic sees latencies of days.
A quantile read from them is off by at most a tenth."""

Labels = tuple[tuple[str, str], ...]


class Name(NamedTuple):
    """What a figure is called: a name and its labels, sorted."""

    name: str
    labels: Labels = ()


@dataclass(frozen=True)
class Timing:
    """Durations as a histogram.

    buckets  (len(EDGES_S) + 1,) int64: how many were at most each edge and above the one before; the last is above all
    total_s  their sum in seconds
    """

    buckets: npt.NDArray[np.int64]
    total_s: float

    def since(self, earlier: "Timing | None") -> "Timing":
        """The durations added after an earlier snapshot of the same timing; all of them if there was none."""
        if earlier is None:
            return self
        return Timing(self.buckets - earlier.buckets, self.total_s - earlier.total_s)

    def quantile_s(self, share: float) -> float | None:
        """The duration in seconds that `share` of them do not exceed, within a tenth; None where there are none."""
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
    """Everything a meter held at one moment."""

    counts: Mapping[Name, int]
    levels: Mapping[Name, float]
    timings: Mapping[Name, Timing]

    def count(self, name: str) -> int:
        """A count, summed over its labels; 0 for one that was never counted."""
        return sum(count for key, count in self.counts.items() if key.name == name)

    def counts_by(self, name: str, label: str) -> dict[str, int]:
        """Value of `label` -> count."""
        return {dict(key.labels)[label]: count for key, count in self.counts.items() if key.name == name}

    def level(self, name: str) -> float | None:
        """The latest level, None for one that was never set."""
        return self.levels.get(Name(name))

    def timing(self, name: str) -> Timing | None:
        """A timing, None for one that was never observed."""
        return self.timings.get(Name(name))


class Meter:
    """Takes figures from any thread.

    Labels are few fixed words, such as a reason: each combination is kept for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Name, int] = {}
        self._levels: dict[Name, float] = {}
        self._timings: dict[Name, Timing] = {}

    def count(self, name: str, n: int = 1, **labels: str) -> None:
        """Add n to a count. A count of 0 exists from then on."""
        key = _key(name, labels)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + n

    def level(self, name: str, value: float, **labels: str) -> None:
        """Set what goes up and down, such as a number of users."""
        with self._lock:
            self._levels[_key(name, labels)] = value

    def observe(self, name: str, seconds: npt.ArrayLike, **labels: str) -> None:
        """Add durations, one or an array; a negative one counts as 0: it comes from two clocks."""
        durations = np.maximum(np.atleast_1d(np.asarray(seconds, np.float64)), 0.0)
        buckets = np.bincount(np.searchsorted(EDGES_S, durations), minlength=len(EDGES_S) + 1)
        added = Timing(buckets, float(durations.sum()))
        key = _key(name, labels)
        with self._lock:
            old = self._timings.get(key)
            if old is not None:
                added = Timing(old.buckets + added.buckets, old.total_s + added.total_s)
            self._timings[key] = added  # a new object each time: snapshots share it without a copy

    def snapshot(self) -> Snapshot:
        """All figures as they are now; what is added later does not change them."""
        with self._lock:
            return Snapshot(dict(self._counts), dict(self._levels), dict(self._timings))


def _key(name: str, labels: dict[str, str]) -> Name:
    return Name(name, tuple(sorted(labels.items())))
