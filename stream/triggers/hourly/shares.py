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
from stream.lists.rules import I32
from stream.population.counts import upper_tail
from stream.triggers.hourly.remembered import AtRest, Hour, Remembered
from stream.triggers.hourly.windows import NONE, Items, Trend, Watched, Windows
from stream.triggers.rules import CATEGORY, HOUR_MS, Rule

HOURS = 20
"""Bits for the number of an hour: rules look back ten years at most."""


class Shelves(NamedTuple):
    """The categories of a catalogue.

    category  (V,) code of each item's category, NONE = none; None if the catalogue has no categories
    codes     category -> code, 0, 1, 2 ...
    """

    category: I32 | None
    codes: Mapping[str, int]


class Trending:
    """Finds what trends, and who watches it, by the names of a model."""

    def __init__(self, items: Items) -> None:
        self._items = items

    def __call__(
        self, rule: Rule, remembered: AtRest, hour: Hour, shelves: Shelves
    ) -> Iterator[tuple[Remembered, Watched]]:
        """The users for whom a rule applies at an hour, and where they were found."""
        names, category = self._items.names, None
        if rule.of == CATEGORY:
            names, category = sorted(shelves.codes, key=shelves.codes.__getitem__), shelves.category
        if not names or (rule.of == CATEGORY and category is None):
            return
        over_ms = rule.over_ms + HOUR_MS
        now, before = np.zeros((2, len(names)), np.int64)
        for found in remembered.parts(hour, over_ms):
            seen = Windows.of(rule, hour, found, self._items, category)
            now += _users(seen, seen.now, len(names))
            before += _users(seen, seen.before, len(names))
        trends = _trends(rule, now, before, names)
        if trends:
            trending = np.isin(np.arange(len(names)), list(trends))
            for found in remembered.parts(hour, over_ms):
                for one in _watched(Windows.of(rule, hour, found, self._items, category), trending, trends):
                    yield found, one


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
