"""Which items or categories trend: their share of the users' clicks in the last hour against that in the time before.

A row remembers its user's last clicks only, so old clicks of busy users are missing. They are missing for all items
alike. So the shares are compared, and not the numbers of clicks. Of the clicks of a user on an item within an hour one
counts: a bot cannot make an item trend, and an item that the same users click every hour does not seem to trend.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.detect.windows import Bools
from stream.lists.rules import I32, NO_CATEGORY
from stream.past.clicks import U64, item_hashes, type_hashes
from stream.population.counts import upper_tail
from stream.triggers.hourly.remembered import AtRest, Hour, Remembered
from stream.triggers.rules import CATEGORY, HOUR_MS, Rule

NONE = NO_CATEGORY
"""In the place of an item or a category: the model or the catalogue does not know it."""

HOURS = 20
"""Bits for the number of an hour: rules look back ten years at most."""


class Shelves(NamedTuple):
    """The categories of a catalogue.

    category  (V,) code of each item's category, NONE = none; None if the catalogue has no categories
    codes     category -> code, 0, 1, 2 ...
    """

    category: I32 | None
    codes: Mapping[str, int]


class Trend(NamedTuple):
    """An item or a category that trends.

    what       its name
    users      who clicked it in the hour
    of         the sum of these numbers over all items or categories
    before     the same in the time before, each user once an hour
    of_before  the sum of these numbers
    nats       -log of the p-value
    """

    what: str
    users: int
    of: int
    before: int
    of_before: int
    nats: float


class Watched(NamedTuple):
    """A user who has clicked what trends before the hour, and not in it.

    at     the user's position among the users who were found
    items  indices of the model's items, those of the strongest trend first, then the last clicked ones
    trend  the strongest one
    """

    at: int
    items: list[int]
    trend: Trend


class Windows(NamedTuple):
    """The clicks of n users as a rule looks at them.

    item     (n, R) int32, index of the item, NONE for one that the model does not know
    target   (n, R) int32, what is counted: the item, or the code of its category
    hour     (n, R) int64, full hours between the click and the hour; 0 = it is in it
    now      (n, R) bool, the click counts and is in the hour
    before   (n, R) bool, the click counts and is in the time before the hour
    against  (n, R) bool, the click is of a type that keeps the user from being told
    """

    item: I32
    target: I32
    hour: npt.NDArray[np.int64]
    now: Bools
    before: Bools
    against: Bools


class Trending:
    """Finds what trends, and who watches it, by the names of a model."""

    def __init__(self, items: Sequence[str]) -> None:
        """items: (V,) ids of the model's items"""
        hashes = item_hashes(items)
        self._names, self._order = items, hashes.argsort()
        self._hashes = hashes[self._order]

    def __call__(
        self, rule: Rule, remembered: AtRest, hour: Hour, shelves: Shelves
    ) -> Iterator[tuple[Remembered, Watched]]:
        """The users for whom a rule applies at an hour, and where they were found."""
        names, category = self._names, None
        if rule.of == CATEGORY:
            names, category = sorted(shelves.codes, key=shelves.codes.__getitem__), shelves.category
        if not names or (rule.of == CATEGORY and category is None):
            return
        over_ms = rule.over_ms + HOUR_MS
        now, before = np.zeros((2, len(names)), np.int64)
        for found in remembered.parts(hour, over_ms):
            seen = self._windows(rule, hour, found, category)
            now += _users(seen, seen.now, len(names))
            before += _users(seen, seen.before, len(names))
        trends = _trends(rule, now, before, names)
        if trends:
            trending = np.isin(np.arange(len(names)), list(trends))
            for found in remembered.parts(hour, over_ms):
                for one in _watched(self._windows(rule, hour, found, category), trending, trends):
                    yield found, one

    def _windows(self, rule: Rule, hour: Hour, found: Remembered, category: I32 | None) -> Windows:
        item = self._items(found.item)
        target = item
        if category is not None:
            target = np.where(item >= 0, category[np.maximum(item, 0)], NONE).astype(np.int32)
        counts = target >= 0
        if rule.events:
            counts &= np.isin(found.event_type, type_hashes(rule.events))
        age_ms = hour.time_ms - found.time_ms
        earlier = (age_ms > HOUR_MS) & (age_ms <= rule.over_ms + HOUR_MS)
        against = np.isin(found.event_type, type_hashes(rule.without))
        ago = (age_ms - 1) // HOUR_MS
        return Windows(item, target, ago, counts & (ago == 0), counts & earlier, against)

    def _items(self, item: U64) -> I32:
        """The index of each item (...) of the model, NONE for others. item: hashes (...)"""
        at = np.minimum(self._hashes.searchsorted(item), len(self._hashes) - 1)
        return np.where(self._hashes[at] == item, self._order[at], NONE).astype(np.int32)


def _users(seen: Windows, where: Bools, size: int) -> npt.NDArray[np.int64]:
    """(size,) how many users have each target among their clicks `where` (n, R), each user once an hour."""
    each = np.sort(np.where(where, seen.target.astype(np.int64) << HOURS | seen.hour, NONE), axis=1)
    each = each[(each != NONE) & (np.diff(each, axis=1, prepend=NONE) != 0)]
    return np.bincount(each >> HOURS, minlength=size)


def _trends(
    rule: Rule, now: npt.NDArray[np.int64], before: npt.NDArray[np.int64], names: Sequence[str]
) -> dict[int, Trend]:
    """Target -> its trend, for all that trend. now, before: users of each target"""
    of, of_before = int(now.sum()), int(before.sum())
    if not of_before:
        return {}
    tested = np.flatnonzero(now >= rule.least)
    least_nats = math.log(max(1, len(tested)) / rule.significance)  # Bonferroni
    found = {}
    for target, users, earlier in zip(tested.tolist(), now[tested].tolist(), before[tested].tolist(), strict=True):
        nats = upper_tail(users, earlier + 0.5, of / of_before)
        if nats >= least_nats and users * of_before >= rule.times * earlier * of:
            found[target] = Trend(names[target], users, of, earlier, of_before, nats)
    return found


def _watched(seen: Windows, trending: Bools, trends: Mapping[int, Trend]) -> Iterator[Watched]:
    """The users who have clicked a target before the hour, and neither clicked it in the hour nor, say, bought it."""
    watched = seen.before & trending[seen.target]
    for at in np.flatnonzero(watched.any(axis=1)).tolist():
        target = seen.target[at]
        left_out = set(target[seen.now[at] | seen.against[at]].tolist())
        pairs = dict.fromkeys(zip(target[watched[at]].tolist(), seen.item[at][watched[at]].tolist(), strict=True))
        mine = [(trends[of], item) for of, item in pairs if of not in left_out]
        if mine:
            mine.sort(key=lambda one: (-one[0].nats, one[0].what))  # stable: the last clicked items first
            yield Watched(at, [item for _, item in mine], mine[0][0])
