"""VS-KNN: what is next in the training sessions that are most like this one. Our own, on flat arrays.

1. Candidates: the most recent training sessions that hold an item of this session.
2. Likeness: the sum, over the items in common, of a weight that falls with how long ago the item was clicked here.
3. Score of an item: the sum, over the k most alike that hold it, of likeness times a decay by how long ago the newest
   item in common was clicked, optionally times (1 + weight * idf).
Sources: Ludewig & Jannach 2018 (VS-KNN); Kersbergen et al. 2022 (VMIS-kNN: idf, the last item itself left out).
The setting is chosen on the newest part of the training sessions, never on a test log.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.arrays import F64, I64
from export.dataset.sessions import SessionSets

REACH = 30
"""Clicks of the session that are looked at: the weights of older ones are next to nothing."""


@dataclass(frozen=True)
class VsKnnSetting:
    """k neighbours of `sample` candidates.

    weight   of an item clicked `age` clicks ago in a session of n: "linear" 1 - age / 10, "div" (n - age) / n, "same" 1
    decay    of a neighbour whose newest item in common is that old: "linear", "div" 1 / (1 + age), "same"
    idf      an item's score times (1 + idf * log(sessions / sessions with it))
    repeats  whether the item just clicked may be next
    """

    k: int = 200
    sample: int = 1000
    weight: str = "div"
    decay: str = "linear"
    idf: float = 0.0
    repeats: bool = True


TRIALS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("repeats", (True, False)),
    ("weight", ("linear", "div", "same")),
    ("decay", ("linear", "div", "same")),
    ("idf", (0.0, 1.0, 10.0)),
    ("sample", (500, 1000, 2500, 5000)),
    ("k", (50, 100, 200, 500, 1000, 2000)),
)
"""Tried one after another, each with the best of those before."""
ROUNDS = 2


class VsKnn:
    """Scores of items by the sessions most like the present one."""

    def __init__(self, sets: SessionSets, setting: VsKnnSetting) -> None:
        self._sets = sets
        self._setting = setting
        sessions = max(1, len(sets.start) - 1)
        self._boost = 1 + setting.idf * np.log(sessions / np.maximum(1, np.diff(sets.bound)))

    def scores(self, session: I64) -> tuple[I64, F64]:
        """Items (m,) that neighbours hold, ascending, and their scores (m,); session (t,) oldest first, all known."""
        setting = self._setting
        weights: dict[int, tuple[int, float]] = {}
        for age, item in enumerate(session[: -REACH - 1 : -1].tolist()):
            weights.setdefault(item, (age, _weight(setting.weight, age, len(session))))
        lists = [self._sets.sessions_with(item, setting.sample) for item in weights]
        sizes = [len(one) for one in lists]
        found, first, which = np.unique(np.concatenate(lists), return_index=True, return_inverse=True)
        summed = np.bincount(which, np.repeat([weight for _, weight in weights.values()], sizes))
        likeness = summed.round(9)  # the same items in another order sum to another last bit, and must be equals
        ages = np.repeat([age for age, _ in weights.values()], sizes)[first]  # `first` is in the newest item's list
        found, likeness, ages = (column[-setting.sample :] for column in (found, likeness, ages))
        nearest = np.argsort(likeness, kind="stable")[::-1][: setting.k]  # of equals, the newest
        value = likeness[nearest] * _decay(setting.decay, ages[nearest])
        held, size = self._sets.items_of(found[nearest])
        items, which = np.unique(held, return_inverse=True)
        score = np.bincount(which, np.repeat(value, size), len(items)) * self._boost[items]
        if not setting.repeats:
            score[items == session[-1]] = 0.0
        return items, score


def _weight(name: str, age: int, clicks: int) -> float:
    return {"linear": max(0.0, 1 - age / 10), "div": (clicks - age) / clicks, "same": 1.0}[name]


def _decay(name: str, age: I64) -> F64:
    return {"linear": np.maximum(0.0, 1 - age / 10), "div": 1 / (1 + age), "same": np.ones(len(age))}[name]


def choose(quality: Callable[[VsKnnSetting], float]) -> VsKnnSetting:
    """The best setting by a quality measured on a validation slice: each field of TRIALS in turn, greedily."""
    best = VsKnnSetting()
    reached = {best: quality(best)}
    for field, values in TRIALS * ROUNDS:
        for value in values:
            tried = replace(best, **{field: value})
            if tried not in reached:
                reached[tried] = quality(tried)
            if reached[tried] > reached[best]:
                best = tried
    return best
