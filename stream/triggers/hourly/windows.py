"""The remembered clicks of users as the rules about a full hour look at them: those in the hour, and those before it.
And what such a rule finds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stream.detect.windows import Bools
from stream.lists.rules import I32, NO_CATEGORY
from stream.past.clicks import F32, U16, U64, item_hashes, type_hashes
from stream.sessions.track import I64
from stream.state.row import Index
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


class Look(NamedTuple):
    """The last R clicks of n users at an hour, newest first, as all rules about the hour share them. It has its own
    memory: 18 bytes for each of R clicks of a user.

    owners, after, offset  as in Remembered
    item        (n, R) int32, index of the item, NONE for one that the model does not know
    event_type  (n, R) uint16, hashes
    age_ms      (n, R) int64, time from the click to the hour
    price       (n, R) float32, 0 = none
    """

    owners: Index
    after: Index
    offset: I64
    item: I32
    event_type: U16
    age_ms: I64
    price: F32

    @classmethod
    def of(cls, hour: Hour, found: Remembered, items: Items) -> "Look":
        """There must be items."""
        item, age_ms = items.indices(found.item), hour.time_ms - found.time_ms
        # The two copies: a view of a field keeps the copied rows alive, with all their other fields.
        offset, price = found.offset.copy(), found.price.copy()
        return cls(found.owners, found.after, offset, item, found.event_type, age_ms, price)


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
    hour: I64
    now: Bools
    before: Bools
    against: Bools

    @classmethod
    def of(cls, rule: Rule, look: Look, category: I32 | None = None) -> "Windows":
        """category: (V,) code of each item's category, if categories are counted"""
        target = item = look.item
        if category is not None:
            target = np.where(item >= 0, category[np.maximum(item, 0)], NONE).astype(np.int32)
        counts = target >= 0
        if rule.events:
            counts &= np.isin(look.event_type, type_hashes(rule.events))
        earlier = (look.age_ms > HOUR_MS) & (look.age_ms <= rule.over_ms + HOUR_MS)
        against = np.isin(look.event_type, type_hashes(rule.without))
        ago = (look.age_ms - 1) // HOUR_MS
        return cls(item, look.price, target, ago, counts & (ago == 0), counts & earlier, against)


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

    at     the user's position in the look
    items  indices of the model's items, those of the strongest trend or the largest drop first, then the last clicked
           ones
    why    the strongest trend, or the largest drop
    """

    at: int
    items: list[int]
    why: Trend | Drop
