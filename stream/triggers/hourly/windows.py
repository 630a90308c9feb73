"""The remembered clicks of users as a rule about a full hour looks at them: those in the hour, and those before it. And
what such a rule finds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.detect.windows import Bools
from stream.lists.rules import I32, NO_CATEGORY
from stream.past.clicks import F32, U64, item_hashes, type_hashes
from stream.triggers.hourly.remembered import Hour, Remembered
from stream.triggers.rules import HOUR_MS, Rule

NONE = NO_CATEGORY
"""In the place of an item or a category: the model or the catalogue does not know it."""


class Items:
    """The items of a model: names (V,) and indices."""

    def __init__(self, names: Sequence[str]) -> None:
        hashes = item_hashes(names)
        self.names, self._order = names, hashes.argsort()
        self._hashes = hashes[self._order]

    def indices(self, hashes: U64) -> I32:
        """The index of each item (...), NONE for those that the model does not know. There must be items."""
        at = np.minimum(self._hashes.searchsorted(hashes), len(self._hashes) - 1)
        return np.where(self._hashes[at] == hashes, self._order[at], NONE).astype(np.int32)


class Windows(NamedTuple):
    """The clicks of n users as a rule looks at them, newest first.

    item     (n, R) int32, index of the item, NONE for one that the model does not know
    price    (n, R) float32, 0 = none
    target   (n, R) int32, what is counted: the item, or the code of its category
    hour     (n, R) int64, full hours between the click and the hour; 0 = it is in it
    now      (n, R) bool, the click counts and is in the hour
    before   (n, R) bool, the click counts and is in the time before the hour
    against  (n, R) bool, the click is of a type that keeps the user from being told
    """

    item: I32
    price: F32
    target: I32
    hour: npt.NDArray[np.int64]
    now: Bools
    before: Bools
    against: Bools

    @classmethod
    def of(cls, rule: Rule, hour: Hour, found: Remembered, items: Items, category: I32 | None = None) -> "Windows":
        """category: (V,) code of each item's category, if categories are counted. There must be items."""
        item = items.indices(found.item)
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
        return cls(item, found.price, target, ago, counts & (ago == 0), counts & earlier, against)


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


class Drop(NamedTuple):
    """An item that has become cheaper for a user.

    what  its name
    then  the price at the user's last click on it before the hour
    now   its price in the hour
    """

    what: str
    then: np.float32
    now: np.float32


class Watched(NamedTuple):
    """A user who has clicked before the hour, and not in it, what a rule is about.

    at     the user's position among the users who were found
    items  indices of the model's items, those of the strongest trend or the largest drop first, then the last clicked
           ones
    why    the strongest trend, or the largest drop
    """

    at: int
    items: list[int]
    why: Trend | Drop
