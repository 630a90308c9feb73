"""The baselines: each is fitted on the training part and gives probabilities of the clicks of the test part.

Gradient boosting and logistic regression get the event type of the click and the counters of Eddy's head, but for what
the head knows of the click before it. Boosting is also fitted with this. It stops early on the users that it was not
fitted on, and is then fitted again on all of them.
"""

from collections.abc import Callable

import lightgbm
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from bench.behaviour.logs import Part
from export.ahead.upcoming import EDGES_MS
from export.arrays import F32, F64, I64, Flags
from stream.ahead.counters import COUNTERS, EARLIER

ROUNDS, PATIENCE, STOPPED_ON = 500, 30, 5
"""Most trees, trees without a gain, and one of so many users that decides when to stop."""

SETTINGS = {
    "learning_rate": 0.05, "num_leaves": 15, "min_data_in_leaf": 20, "feature_fraction": 0.8, "bagging_fraction": 0.8,
    "bagging_freq": 1, "lambda_l2": 1.0, "num_threads": 1, "verbose": -1,
}  # fmt: skip


def shares(target: I64, classes: int) -> F64:
    """(classes,) the share of each class, with half a click more for each."""
    counts = np.bincount(target, minlength=classes) + 0.5
    return counts / counts.sum()


def by_group(group: I64, target: I64, later: I64, classes: int) -> F64:
    """(n, classes) the shares of the classes in the group of each later click, smoothed by one click of all groups."""
    base = shares(target, classes)
    table = np.tile(base, (int(max(group.max(), later.max())) + 1, 1))
    np.add.at(table, (group, target), 1.0)
    return (table / table.sum(axis=1, keepdims=True))[later]


def recency_group(part: Part) -> I64:
    """The bucket of the time since the user's session before; 0 = none."""
    edges = np.array(EDGES_MS) / 1000
    return np.where(part.away_s < 0, 0, 1 + np.searchsorted(edges, part.away_s, "right"))


def counts_and_times(part: Part) -> F32:
    """(n, C) the event type of the click, and its counters but those of the click before it."""
    return np.concatenate([part.counters[:, : -len(EARLIER)], part.event_type[:, None].astype(np.float32)], axis=1)


def with_earlier(part: Part) -> F32:
    """(n, C + 2) with those of the click before it: all inputs of Eddy's head."""
    return np.concatenate([part.counters, part.event_type[:, None].astype(np.float32)], axis=1)


def boosting(
    train: Part,
    known: Flags,
    target: I64,
    test: Part,
    classes: int,
    inputs: Callable[[Part], F32] = counts_and_times,
) -> F64:
    """(n, classes) probabilities by gradient boosting. target (m,) of the m known clicks of the training part."""
    x, user = inputs(train)[known], train.user[known]
    names = np.unique(user)
    held = np.isin(user, np.random.default_rng(0).choice(names, max(1, len(names) // STOPPED_ON), replace=False))
    kind = {"objective": "binary"} if classes == 2 else {"objective": "multiclass", "num_class": classes}
    settings = {**SETTINGS, **kind, "seed": 0}
    first, second = (lightgbm.Dataset(x[part], target[part]) for part in (~held, held))
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    rounds = lightgbm.train(settings, first, ROUNDS, valid_sets=[second], callbacks=[stop]).best_iteration
    found = lightgbm.train(settings, lightgbm.Dataset(x, target), max(1, rounds)).predict(inputs(test))
    found = np.asarray(found)
    return np.stack([1 - found, found], axis=1) if classes == 2 else found


def logistic(train: Part, known: Flags, target: I64, test: Part) -> F64:
    """(n, 2) probabilities by logistic regression on the logarithms of the counters and the last event type."""
    scaler = StandardScaler().fit(_logs(train)[known])
    fitted = LogisticRegression(max_iter=1000).fit(scaler.transform(_logs(train)[known]), target)
    found: F64 = fitted.predict_proba(scaler.transform(_logs(test)))
    return found


def _logs(part: Part) -> F32:
    counters = part.counters[:, : -len(EARLIER)]
    last = (part.event_type[:, None] == np.arange((counters.shape[1] - len(COUNTERS)) // 2)).astype(np.float32)
    return np.concatenate([np.log1p(counters), last], axis=1)
