"""Intervals of shares of sessions, and p-values of many tests together.

The sessions of one user are alike, so n sessions are worth less than n independent ones. The design effect is how much
larger the variance of a share is by this: the variance between users, divided by that of independent sessions. Each
interval counts n / design effect sessions. Sources: Wilson 1927 for the interval, Kish 1965 for the design effect,
Rao and Scott 1992 for counting so many sessions, Benjamini and Hochberg 1995 for `adjusted`.
"""

import math

import numpy as np

from export.arrays import F64, I64

Z95 = 1.959963984540054
"""Quantile of the normal distribution for an interval of 95%."""


def wilson(share: F64, count: F64) -> F64:
    """95% intervals, (n, 2) float64, of shares (n,) of `count` (n,) independent trials; NaN where count is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        z2 = Z95 * Z95 / count
        middle = (share + z2 / 2) / (1 + z2)
        half = Z95 / (1 + z2) * np.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return np.clip(np.stack([middle - half, middle + half], axis=-1), 0.0, 1.0)


def design_effect(residual2: F64, share: F64, count: F64) -> F64:
    """(n,) float64, at least 1.

    residual2  (n,) sum over users of (hits - share * trials)^2
    share      (n,) the shares; 0 and 1 give 1
    count      (n,) trials
    """
    alone = share * (1 - share) * count
    effect = np.ones(np.broadcast(residual2, alone).shape)
    np.divide(residual2, alone, out=effect, where=alone > 0)
    return np.maximum(effect, 1.0)


class Shares:
    """For each of some kinds: the share of sessions that have it, with the sums over users that its interval needs.

    hits   (kinds,) int64, sessions with the kind
    of     sessions in all
    users  users with such sessions
    """

    def __init__(self, kinds: int) -> None:
        self.hits = np.zeros(kinds, np.int64)
        self.of = self.users = self._of2 = 0
        self._hits2, self._both = np.zeros(kinds), np.zeros(kinds)

    def add(self, kind: I64, user: I64, sessions: I64) -> None:
        """Add a part of the log, with whole users.

        kind, user  (x,) each kind that a session has, once for each session, and the user of the session
        sessions    (u,) sessions of each user of the part
        """
        key, hits = np.unique(kind * len(sessions) + user, return_counts=True)
        kind, user = np.divmod(key, len(sessions))
        size = len(self.hits)
        self.hits += np.bincount(kind, hits, size).astype(np.int64)
        self._hits2 += np.bincount(kind, hits * hits, size)
        self._both += np.bincount(kind, hits * sessions[user], size)
        self.of += int(sessions.sum())
        self._of2 += int((sessions * sessions).sum())
        self.users += int((sessions > 0).sum())

    def share(self) -> F64:
        """(kinds,) float64; 0 if there is no session."""
        return np.asarray(self.hits / max(1, self.of))

    def interval(self) -> F64:
        """(kinds, 2) float64, 95%; NaN without a session.

        Where no session has the kind or all have it, nothing can be known of the design effect: users count, not
        sessions.
        """
        share = self.share()
        residual2 = self._hits2 - 2 * share * self._both + share * share * self._of2
        effect = design_effect(residual2 * self.users / max(1, self.users - 1), share, np.full(len(share), self.of))
        same = (self.hits == 0) | (self.hits == self.of)
        return wilson(share, np.where(same, self.users, self.of / effect))


def two_sided(z: F64) -> F64:
    """(n,) float64, p-values of normal deviates."""
    return np.array([math.erfc(abs(value) / math.sqrt(2)) for value in z.tolist()])


def adjusted(p: F64) -> F64:
    """(n,) float64: the smallest false discovery rate at which each test is found (Benjamini and Hochberg)."""
    order = np.argsort(p)
    ranked = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.minimum(1.0, np.minimum.accumulate(ranked[::-1])[::-1])
    return q


def as_list(interval: F64) -> list[float] | None:
    """An interval (2,) for JSON; None if it has no number."""
    return None if np.isnan(interval).any() else [float(end) for end in interval]
