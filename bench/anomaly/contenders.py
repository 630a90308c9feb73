"""The simple rules that Eddy's p-value (eddy.py) is compared with. A contender has the members of Contender."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from bench.anomaly.clicks import I32, I64, Clicks, Flags, World, by_user
from bench.anomaly.logs import Log

F64 = npt.NDArray[np.float64]

LAST = 10
"""A rule over the last clicks of a session uses this many."""

FEW = 5
"""A mean over the last clicks of a session needs at least this many."""

NEVER = -np.inf
"""The score of a click for which a rule has too few clicks."""

MINUTE_MS = 60_000
PARTS = 1_000_000
BACK_OFF = 10.0
"""Weight of popularity in the probabilities of the Markov model, in clicks."""

CAP, EVENT_TYPES = 31, 8
"""A count vector has counts up to CAP, of at most so many event types."""


class Contender(Protocol):
    """Scores the clicks of one log. The final score of a click depends on no later click."""

    def score(self, clicks: Clicks) -> F64:
        """The score (n,) of each click, in the order of arrival; high = anomalous. It depends only on clicks of the
        same user.

        Every call begins with new states.
        """

    def final(self, clicks: Clicks, score: F64) -> F64:
        """The scores (n,) that are compared with the threshold: `score`, with what the other users' clicks change."""
        return score


# -- what the simple rules read ---------------------------------------------------------------------------------------


class Sessions:
    """Clicks sorted by user and session, with sums over each click's session so far.

    start     (n,) index of the first click of the session
    position  (n,) number of earlier clicks in the session
    """

    def __init__(self, clicks: Clicks) -> None:
        self.order, first, self.gap_ms, self.session = by_user(clicks)
        self.clicks = clicks.take(self.order)
        n = len(clicks)
        self.start = np.searchsorted(self.session, np.arange(self.session[-1] + 1 if n else 0))[self.session]
        self.position = np.arange(n) - self.start
        self.user_rank = np.cumsum(first) - 1

    def last(self, values: npt.NDArray[np.generic], count: int | None = LAST) -> npt.NDArray[np.generic]:
        """Sum (n,) of the values over the last `count` clicks of the session; None = over the session so far."""
        sums = np.concatenate([np.zeros(1, values.dtype), values.cumsum(dtype=values.dtype)])
        at = np.arange(len(values))
        begin = self.start if count is None else np.maximum(self.start, at - count + 1)
        return sums[at + 1] - sums[begin]

    def distinct(self, values: I32) -> I64:
        """Number (n,) of different values in the session so far."""
        _, first = np.unique(self.session * (int(values.max(initial=0)) + 2) + values + 1, return_index=True)
        new = np.zeros(len(values), np.int64)
        new[first] = 1
        return self.last(new, None)

    def arrived(self, values: F64) -> F64:
        """Values (n,) in the order in which the clicks arrived."""
        found = np.empty(len(values))
        found[self.order] = values
        return found

    def clicks_per_minute(self) -> F64:
        """Clicks (n,) of the user in the last minute, with this one. An earlier time is taken as the time before it."""
        time_ms = self.clicks.time_ms - self.clicks.time_ms.min(initial=0)
        key = np.maximum.accumulate(self.user_rank * (int(time_ms.max(initial=0)) + 2 * MINUTE_MS) + time_ms)
        return (np.arange(len(key)) - key.searchsorted(key - MINUTE_MS, "right") + 1).astype(float)

    def irregularity(self) -> F64:
        """Standard deviation (n,) of the last gaps in the session / their mean (at least 1 s); inf if fewer."""
        gap_ms = np.where(self.position > 0, self.gap_ms, 0)
        count = np.maximum(np.minimum(self.position, LAST), 1)
        mean = self.last(gap_ms) / count
        variance = np.maximum(self.last(gap_ms**2) / count - mean**2, 0)
        return np.where(self.position >= LAST, np.sqrt(variance) / np.maximum(mean, 1000), np.inf)


def never_seen(log: Log, clicks: Clicks) -> Flags:
    """True (n,) where the item has no training click."""
    return ~np.append(log.trained, False)[np.minimum(clicks.item, len(log.items))]


# -- the simple rules -------------------------------------------------------------------------------------------------


class Rate(Contender):
    """Clicks of the user in the last minute."""

    def score(self, clicks: Clicks) -> F64:
        sessions = Sessions(clicks)
        return sessions.arrived(sessions.clicks_per_minute())


class Regularity(Contender):
    """Regularity of the last 10 gaps of the session: minus standard deviation / mean."""

    def score(self, clicks: Clicks) -> F64:
        sessions = Sessions(clicks)
        return sessions.arrived(-sessions.irregularity())


class NeverSeen(Contender):
    """Share of the last 10 clicks of the session whose item has no training click. Missing clicks count as seen."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def score(self, clicks: Clicks) -> F64:
        sessions = Sessions(clicks)
        return sessions.arrived(sessions.last(never_seen(self._log, sessions.clicks).astype(np.int64)) / LAST)


class MarkovMean(Contender):
    """Mean surprise, nats, of the last 10 clicks of the session under a first-order Markov model with back-off."""

    def __init__(self, log: Log) -> None:
        train = Sessions(log.train)
        item = train.clicks.item.astype(np.int64)
        self._base = len(log.items) + 1  # the last index is an unknown item
        inner = np.flatnonzero(train.position > 0)
        self._pairs, self._counts = np.unique(item[inner - 1] * self._base + item[inner], return_counts=True)
        self._from = np.bincount(item[inner - 1], minlength=self._base)
        self._popular = (np.bincount(item, minlength=self._base) + 1) / (len(item) + self._base)

    def surprise(self, sessions: Sessions) -> F64:
        """-log P (n,) of each click given the click before it in the session; of a first click, its popularity."""
        item = np.minimum(sessions.clicks.item, self._base - 1).astype(np.int64)
        before = np.concatenate([item[:1], item[:-1]])
        pair = before * self._base + item
        at = np.minimum(self._pairs.searchsorted(pair), len(self._pairs) - 1)
        inner = sessions.position > 0
        count = np.where(inner & (self._pairs[at] == pair), self._counts[at], 0)
        total = np.where(inner, self._from[before], 0)
        surprise: F64 = -np.log((count + BACK_OFF * self._popular[item]) / (total + BACK_OFF))
        return surprise

    def score(self, clicks: Clicks) -> F64:
        sessions = Sessions(clicks)
        count = np.minimum(sessions.position + 1, LAST)
        surprise = np.rint(PARTS * self.surprise(sessions)).astype(np.int64)  # sums of floats depend on other users
        mean = sessions.last(surprise) / PARTS / count
        return sessions.arrived(np.where(count >= FEW, mean, NEVER))


class CountVector(Contender):
    """-log of the share of training clicks after which the session had the same counts.

    The counts are those of each event type, of different items and of different categories in the session so far.
    """

    def __init__(self, log: Log) -> None:
        self._types = len(log.event_types)
        self._keys, self._counts = np.unique(self._key(Sessions(log.train)), return_counts=True)

    def _key(self, sessions: Sessions) -> I64:
        types = np.minimum(sessions.clicks.event_type, self._types)
        counts = [sessions.last((types == i).astype(np.int64), None) for i in range(min(self._types + 1, EVENT_TYPES))]
        counts += [sessions.distinct(sessions.clicks.item), sessions.distinct(sessions.clicks.category)]
        key = np.zeros(len(types), np.int64)
        for count in counts:
            key = key * (CAP + 1) + np.minimum(count, CAP)
        return key

    def score(self, clicks: Clicks) -> F64:
        sessions = Sessions(clicks)
        key = self._key(sessions)
        at = np.minimum(self._keys.searchsorted(key), len(self._keys) - 1)
        count = np.where(self._keys[at] == key, self._counts[at], 0)
        return sessions.arrived(-np.log((count + 1) / (self._counts.sum() + 1)))


def score_world(contender: Contender, clean: F64, world: World) -> F64:
    """The final score (n,) of each click of a world. Only the users of an episode are scored again.

    clean  what `score` gives for the clean clicks
    """
    users = np.unique(world.clicks.user[world.episode >= 0])
    again = np.isin(world.clicks.user, users)
    scores = clean[world.row]  # a user with an added click is scored again
    scores[again] = contender.score(world.clicks.take(again))
    return contender.final(world.clicks, scores)


def rules(log: Log) -> dict[str, Contender]:
    """The rules by name."""
    return {
        "clicks per minute": Rate(),
        "regularity of gaps": Regularity(),
        "never-seen items": NeverSeen(log),
        "Markov mean": MarkovMean(log),
        "count vector": CountVector(log),
    }
