"""Measures probabilities, with 95 % intervals from resamples of the users.

All measures take weights of the clicks, so that a resample of the users is a vector of weights.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from export.arrays import F64, I64

SAMPLES = 300
BINS = 15
SMALLEST = 1e-6

Measure = Callable[[I64, F64, F64], float]
"""target (n,), probabilities (n, classes), weight (n,) -> figure"""


def log_loss(target: I64, p: F64, weight: F64) -> float:
    own = np.clip(p[np.arange(len(target)), target], SMALLEST, 1)
    return float(-(weight * np.log(own)).sum() / weight.sum())


def accuracy(target: I64, p: F64, weight: F64) -> float:
    return float((weight * (p.argmax(axis=1) == target)).sum() / weight.sum())


def macro_f1(target: I64, p: F64, weight: F64) -> float:
    """The mean of F1 over the classes that occur; the class with the highest probability is predicted."""
    classes, best = p.shape[1], p.argmax(axis=1)
    real, said, both = (
        np.bincount(column, weight * keep, minlength=classes)
        for column, keep in ((target, 1), (best, 1), (target, best == target))
    )
    return float((2 * both / np.maximum(real + said, SMALLEST))[real > 0].mean())


def auprc(target: I64, p: F64, weight: F64) -> float:
    """Average precision of class 1; clicks with equal scores count together."""
    score = p[:, 1]
    order = np.argsort(-score, kind="stable")
    hits, seen = np.cumsum((weight * target)[order]), np.cumsum(weight[order])
    last = np.append(np.diff(score[order]) != 0, True)
    hits, seen = hits[last], seen[last]
    steps = np.diff(hits, prepend=0.0)
    return float((hits / np.maximum(seen, SMALLEST) * steps).sum() / max(hits[-1], SMALLEST))


def auroc(target: I64, p: F64, weight: F64) -> float:
    score = p[:, 1]
    order = np.argsort(score, kind="stable")
    positive, negative = (weight * target)[order], (weight * (1 - target))[order]
    _, group = np.unique(score[order], return_inverse=True)
    up, down = np.bincount(group, positive), np.bincount(group, negative)
    below = np.cumsum(down) - down
    return float((up * (below + down / 2)).sum() / max(up.sum() * down.sum(), SMALLEST))


def lift(share: float) -> Measure:
    """How much more often class 1 is among the given share of the clicks with the highest scores than among all."""

    def measure(target: I64, p: F64, weight: F64) -> float:
        order = np.argsort(-p[:, 1], kind="stable")
        own, hit = weight[order], (weight * target)[order]
        before = np.cumsum(own) - own
        taken = np.clip(share * own.sum() - before, 0, own) / np.maximum(own, SMALLEST)
        return float((taken * hit).sum() / (share * max(hit.sum(), SMALLEST)))

    return measure


def calibration_error(target: I64, p: F64, weight: F64) -> float:
    """Expected calibration error of class 1, over BINS bins with equally many clicks."""
    order = np.argsort(p[:, 1], kind="stable")
    parts = [part for part in np.array_split(order, BINS) if len(part)]
    gaps = [abs((weight[part] * (target[part] - p[part, 1])).sum()) for part in parts]
    return float(sum(gaps) / weight.sum())


def measured(
    target: I64, methods: dict[str, F64], user: I64, measures: dict[str, Measure], against: str
) -> dict[str, Any]:
    """Figures of each method with intervals, and the interval of Eddy's difference from the method `against`."""
    _, number = np.unique(user, return_inverse=True)
    rng, users = np.random.default_rng(0), int(number.max()) + 1
    weights = [np.bincount(rng.integers(users, size=users), minlength=users)[number] for _ in range(SAMPLES)]
    weights = [weight.astype(float) for weight in weights]
    found: dict[str, Any] = {}
    samples: dict[tuple[str, str], F64] = {}
    for name, p in methods.items():
        found[name] = {}
        for measure, of in measures.items():
            found[name][measure] = round(of(target, p, np.ones(len(target))), 4)
            samples[name, measure] = np.array([of(target, p, weight) for weight in weights])
            found[name][f"{measure}_interval"] = _interval(samples[name, measure])
    found["eddy_minus_" + against] = {
        measure: {
            "difference": round(found["eddy"][measure] - found[against][measure], 4),
            "interval": _interval(samples["eddy", measure] - samples[against, measure]),
        }
        for measure in measures
    }
    return found


def _interval(values: F64) -> list[float]:
    return [round(float(value), 4) for value in np.quantile(values, [0.025, 0.975])]
