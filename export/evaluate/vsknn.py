"""VS-KNN: recommends the items of the training sessions that are most similar to the current one. Own implementation.

1. Candidates: the most recent training sessions that have an item in common with the current session.
2. Similarity: the sum over the common items of a weight. The weight decreases with the age of the click here.
3. Score of an item: the sum over the k most similar sessions that contain it. Each adds its similarity, times a decay
   by the age of the newest common item, optionally times (1 + weight * idf).

Sources: Ludewig & Jannach 2018 (VS-KNN); Kersbergen et al. 2022 (VMIS-kNN: idf, without the last item itself).
The setting is chosen on the newest part of the training sessions, never on a test log.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from export.arrays import F64, I64
from export.dataset.sessions import SessionSets

LAST_CLICKS = 30
"""Number of the session's last clicks that are used. The weights of older clicks are close to 0."""


@dataclass(frozen=True)
class VsKnnSetting:
    """The parameters: k neighbours of `sample` candidates.

    weight   of an item that was clicked `age` clicks ago in a session of n clicks: "linear" 1 - age / 10, "div"
             (n - age) / n, "same" 1
    decay    of a neighbour, by the age of its newest common item: "linear" 1 - age / 10, "div" 1 / (1 + age), "same" 1
    idf      the score of an item is multiplied by (1 + idf * log(sessions / sessions with the item))
    repeats  whether the last clicked item may be recommended
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
"""The fields and values to try. Each field is tried with the best values of the fields before it."""
ROUNDS = 2


class VsKnn:
    """Scores items by the training sessions that are most similar to the current one."""

    def __init__(self, sets: SessionSets, setting: VsKnnSetting) -> None:
        self._sets = sets
        self._setting = setting
        sessions = max(1, len(sets.start) - 1)
        self._boost = 1 + setting.idf * np.log(sessions / np.maximum(1, np.diff(sets.bound)))

    def scores(self, session: I64) -> tuple[I64, F64]:
        """The items of the neighbours (m,), ascending, and their scores (m,).

        session  (t,) known items, oldest first
        """
        setting = self._setting
        weights: dict[int, tuple[int, float]] = {}
        for age, item in enumerate(session[: -LAST_CLICKS - 1 : -1].tolist()):
            weights.setdefault(item, (age, _weight(setting.weight, age, len(session))))
        lists = [self._sets.sessions_with(item, setting.sample) for item in weights]
        sizes = [len(one) for one in lists]
        found, first, which = np.unique(np.concatenate(lists), return_index=True, return_inverse=True)
        summed = np.bincount(which, np.repeat([weight for _, weight in weights.values()], sizes))
        similarity = summed.round(9)  # the order of a sum changes its last bits, and equal sessions must stay equal
        ages = np.repeat([age for age, _ in weights.values()], sizes)[first]  # `first` is in the newest item's list
        found, similarity, ages = (column[-setting.sample :] for column in (found, similarity, ages))
        nearest = np.argsort(similarity, kind="stable")[::-1][: setting.k]  # ties to the newest session
        value = similarity[nearest] * _decay(setting.decay, ages[nearest])
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
    """Search the best setting greedily: one field of TRIALS after the other, ROUNDS times.

    quality  of a setting on a validation slice; higher is better
    """
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
