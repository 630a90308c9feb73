"""Whose watched items have become cheaper: the price of the last hour against that of the user's own last click before.

The price of an item is that of the users who clicked it in the hour: the median, of two in the middle the higher one.
So a single wrong message changes no price where a rule asks for two users or more.
"""

from collections.abc import Iterator

import numpy as np

from stream.lists.rules import I32
from stream.past.clicks import F32
from stream.triggers.hourly.remembered import AtRest, Hour, Remembered
from stream.triggers.hourly.windows import Drop, Items, Watched, Windows
from stream.triggers.rules import HOUR_MS, Rule

ROUNDING = 1e-6
"""A price is kept as a float32. A drop that misses the share of the rule by less than this part of the price counts:
17.91 is 10 % less than 19.90."""


class PriceDrops:
    """Finds which items cost less than at a user's last click on them, by the names of a model."""

    def __init__(self, items: Items) -> None:
        self._items = items

    def __call__(self, rule: Rule, remembered: AtRest, hour: Hour) -> Iterator[tuple[Remembered, Watched]]:
        """The users for whom a rule applies at an hour, and where they were found."""
        if not self._items.names:
            return
        seen = [_priced(Windows.of(rule, hour, found, self._items)) for found in remembered.parts(hour, HOUR_MS)]
        now = _medians(seen, rule.least, len(self._items.names))
        if np.count_nonzero(now):
            for found in remembered.parts(hour, rule.over_ms + HOUR_MS):
                for one in self._fallen(rule, Windows.of(rule, hour, found, self._items), now):
                    yield found, one

    def _fallen(self, rule: Rule, seen: Windows, now: F32) -> Iterator[Watched]:
        """The users who clicked an item at a higher price before the hour, and neither clicked it in the hour nor, say,
        bought it. now: (V,) price of each item, 0 = none"""
        price = np.append(now, np.float32(0))[seen.item]  # NONE is the last one
        watched = seen.before & (seen.price > 0) & (price > 0)
        fallen = watched & (price <= seen.price.astype(np.float64) * ((1 - rule.drop) * (1 + ROUNDING)))
        for at in np.flatnonzero(fallen.any(axis=1)).tolist():
            item = seen.item[at]
            left_out = set(item[(seen.hour[at] == 0) | seen.against[at]].tolist())
            last: dict[int, int] = {}  # item -> the user's last click on it before the hour
            for click in np.flatnonzero(watched[at]).tolist():
                last.setdefault(int(item[click]), click)
            mine = [
                (of, Drop(self._items.names[of], seen.price[at, click], now[of]))
                for of, click in last.items()
                if fallen[at, click] and of not in left_out
            ]
            if mine:
                mine.sort(key=lambda one: float(one[1].now) / float(one[1].then))  # stable: the last clicked first
                yield Watched(at, [of for of, _ in mine], mine[0][1])


def _priced(seen: Windows) -> tuple[I32, F32]:
    """Item and price (k,) of the last click of each user on each item in the hour that has a price."""
    user, click = np.nonzero(seen.now & (seen.price > 0))
    item = seen.item[user, click]
    _, first = np.unique(user.astype(np.int64) << 32 | item, return_index=True)
    return item[first], seen.price[user, click][first]


def _medians(seen: list[tuple[I32, F32]], least: int, size: int) -> F32:
    """The price (size,) of each item that has one of at least so many users; 0 for all others."""
    found: F32 = np.zeros(size, np.float32)
    if seen:
        item, price = (np.concatenate(part) for part in zip(*seen, strict=True))
        price = price[np.lexsort((price, item))]
        users = np.bincount(item, minlength=size)
        enough = np.flatnonzero(users >= least)
        found[enough] = price[(users.cumsum() - users)[enough] + users[enough] // 2]
    return found
