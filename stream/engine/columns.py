"""Converts clicks to the arrays that the engine processes.

This is the only module that converts the ids and names in a click to indices.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from stream.carry.arriving import Arriving
from stream.carry.leaving import Leaving
from stream.detect.alert import Verdicts
from stream.detect.detector import Evidence, Fields
from stream.engine.requests import Lives, Request, Requests, lives
from stream.engine.waves import Index
from stream.events import Click, Origin, Partition
from stream.lists.rules import NO_CATEGORY
from stream.model.forms import form, forms
from stream.model.runtime import I64, Model
from stream.past.clicks import F32, PAST, Names, item_hashes, new_items, type_hashes
from stream.population.quiet import NOT_ASKED, Asked
from stream.sessions.categories import U16, category_hashes
from stream.sessions.summary import Clicks
from stream.sessions.track import Track
from stream.settings import Rules, words
from stream.state.arena import Owner
from stream.state.event_ids import Hashes, hashed_ids
from stream.triggers.memory import CONSENTS, U8

I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)
LARGEST_PRICE = 1e38
"""A price of this size is none: a row has no room for larger ones."""

NO_CATEGORIES = np.array([NO_CATEGORY], np.int32)


@dataclass(frozen=True)
class Columns:
    """n clicks of m users as arrays. The clicks of each partition are in the order of their offsets.

    owners      (m,) the users, each once, in the order of their first click in this batch; with requests as in Lives
    owner       (n,) intp, index into owners: the user of each click
    offset      (n,) int64, the click's offset in its partition
    time_ms     (n,) int64, ms since the epoch
    item        (n,) int64, index of the item; V (the number of items) = the model does not know it
    event_type  (n,) int64, index of the event type; T (the number of event types) = the model does not know it
    hold        (n,) int8: 1 = exclude the item from the user's lists from now on, -1 = no longer exclude it,
                0 = no change
    category    (n,) int32, code of the click's own category field; NO_CATEGORY = missing or unknown
    names       hashes of the clicks' item ids and event types
    event_id    (n,) uint64, hash of the click's event id, NO_ID = none; None if no click has one
    life        (m,) intp, number of requests to forget the user before these clicks; None if there is no request
    requests    the requests to forget users
    asked       the requests for quiet among these clicks; None if there is none
    consent     (n,) uint8, the consent in each click, one of the values of triggers.memory; None if no click has one
    category_hash  (n,) uint16, hash of the category in each click, 0 = none; None if no click has one
    value       (n,) float64, price times quantity of each purchase, 0 = none; None if no click has a value
    leaving, arriving  the rows that do between these clicks
    price       (n,) float32, the price in each click, 0 = none; None if no click has one
    new_form    (n,) bool, the item's id has a form that no item of the model has; None if no click has such an id
    """

    owners: Sequence[Owner]
    owner: Index
    offset: I64
    time_ms: I64
    item: I64
    event_type: I64
    hold: I8
    category: I32
    names: Names
    event_id: Hashes | None = None
    life: Index | None = None
    requests: Requests = field(default_factory=dict)
    asked: Asked | None = None
    consent: U8 | None = None
    category_hash: U16 | None = None
    value: F64 | None = None
    leaving: Sequence[Leaving] = ()
    arriving: Sequence[Arriving] = ()
    price: F32 | None = None
    new_form: Bools | None = None

    def __len__(self) -> int:
        return len(self.owner)

    def ids(self) -> list[str]:
        """The id of each click, "topic-partition-offset" (n,)."""
        partitions = [str(partition) for partition, _ in self.owners]
        return [
            f"{partitions[user]}-{offset}"
            for user, offset in zip(self.owner.tolist(), self.offset.tolist(), strict=True)
        ]

    def take(self, which: Index) -> "Columns":
        """Select the clicks at the positions `which` (ascending), and the users of these clicks, or with a request or a
        row that arrives."""
        users, first, owner = np.unique(self.owner[which], return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty(len(order), np.intp)  # position of each user in the order of first clicks
        rank[order] = np.arange(len(order))
        users = users[order]
        if self.asked is not None:  # a request counts even if none of its user's clicks is selected
            users = np.append(users, np.setdiff1d(np.flatnonzero(self.asked.last != NOT_ASKED), users))
        arriving = self.arriving
        if arriving:
            users = np.append(users, np.setdiff1d([one.user for one in arriving], users))
            new = {user: at for at, user in enumerate(users.tolist())}
            before = which.searchsorted([one.before for one in arriving]).tolist()
            arriving = [one._replace(before=at, user=new[one.user]) for at, one in zip(before, arriving, strict=True)]
        return Columns(
            [self.owners[user] for user in users.tolist()],
            rank[owner],
            self.offset[which],
            self.time_ms[which],
            self.item[which],
            self.event_type[which],
            self.hold[which],
            self.category[which],
            self.names.take(which),
            None if self.event_id is None else self.event_id[which],
            None if self.life is None else self.life[users],
            {user: which.searchsorted(at).tolist() for user, at in self.requests.items()},
            None if self.asked is None else self.asked.take(which, users),
            None if self.consent is None else self.consent[which],
            None if self.category_hash is None else self.category_hash[which],
            None if self.value is None else self.value[which],
            [one._replace(before=int(which.searchsorted(one.before))) for one in self.leaving],
            arriving,
            None if self.price is None else self.price[which],
            None if self.new_form is None else self.new_form[which],
        )


class Encoder:
    """Converts the ids and names in clicks to indices, for one model and one set of rules.

    categories  returns the current category -> code of the catalogue. None if no rule uses the category of a click
    """

    def __init__(self, model: Model, rules: Rules, categories: Callable[[], Mapping[str, int]] | None) -> None:
        self._items = model.index
        self._forms = forms(model.items)
        self._event_types = {name: i for i, name in enumerate(model.manifest.event_types)}
        self._holds = dict.fromkeys(words(rules.readmit_events), -1) | dict.fromkeys(words(rules.exclude_events), 1)
        self._categories = categories
        self._purchase = model.manifest.purchase

    def columns(self, clicks: Sequence[Click], origins: Sequence[Origin], requests: Sequence[Request] = ()) -> Columns:
        """Convert n clicks to arrays, in the same order.

        origins   (n,) the origin of each click
        requests  the requests about users that came between the clicks
        """
        owner, owners = _owners(clicks, origins)
        split = lives(owner, owners, requests) if requests else Lives(owner, owners, None, {}, None)
        items, event_types = [click.item_id for click in clicks], [click.event_type for click in clicks]
        item, categories = self.items(items), [click.category for click in clicks]
        return Columns(
            owners=split.owners,
            owner=split.owner,
            offset=np.array([origin.offset for origin in origins], np.int64),
            time_ms=np.array([click.timestamp for click in clicks], np.int64),
            item=item,
            event_type=self.event_types(event_types),
            hold=self.holds(event_types),
            category=self.categories(categories),
            event_id=hashed_ids([click.event_id for click in clicks]),
            life=split.life,
            requests=split.requests,
            asked=split.asked,
            names=Names(item_hashes(items), type_hashes(event_types)),
            consent=_consents(clicks),
            category_hash=category_hashes(categories),
            value=_values(clicks, event_types, self._purchase),
            leaving=split.leaving,
            arriving=split.arriving,
            price=_prices(clicks),
            new_form=self.new_forms(items, item),
        )

    def items(self, ids: Sequence[str]) -> I64:
        """Convert n item ids to indices (n,) int64; V (the number of items) = unknown."""
        return _indices(self._items, ids, len(self._items), np.int64)

    def new_forms(self, ids: Sequence[str], item: I64) -> Bools | None:
        """Whether n ids have a form that no item of the model has, as `Columns.new_form`.

        item  (n,) int64, the indices of the ids
        """
        unknown = np.flatnonzero(item == len(self._items))
        if self._forms is None or not len(unknown):
            return None
        found = np.zeros(len(ids), np.bool_)
        found[unknown] = [form(ids[at]) not in self._forms for at in unknown.tolist()]
        return found if found.any() else None

    def event_types(self, names: Sequence[str]) -> I64:
        """Convert n event types to indices (n,) int64; T (the number of event types) = unknown."""
        return _indices(self._event_types, names, len(self._event_types), np.int64)

    def holds(self, names: Sequence[str]) -> I8:
        """Convert n event types to the values of `Columns.hold` (n,) int8."""
        return _indices(self._holds, names, 0, np.int8) if self._holds else np.zeros(len(names), np.int8)

    def categories(self, names: Sequence[str | None]) -> I32:
        """Convert n categories to codes (n,) int32.

        The code is NO_CATEGORY for None, for an unknown category, and if no rule uses the category of a click.
        """
        if self._categories is None:
            return NO_CATEGORIES.repeat(len(names))
        return _indices(self._categories(), names, NO_CATEGORY, np.int32)


def summed(track: Track, seen: Evidence, its: Columns, verdicts: Verdicts, before: Fields) -> Clicks:
    """What the summaries of the sessions read of the decided clicks `its`, in the order of the track."""
    order, item = track.by_user, its.names.item[track.by_user]
    new = new_items(before[PAST.name], track.owner, track.first, item, track.in_session - 1)
    opens = np.zeros(len(order), np.bool_)
    opens[verdicts.alerted] = [rule.episode for rule in verdicts.rules] == seen.offset[verdicts.alerted]
    category = None if its.category_hash is None else its.category_hash[order]
    value = None if its.value is None else its.value[order]
    return Clicks(seen.event_type[order], seen.time_ms[order], item, new, category, value, opens[order])


def _indices(index: Mapping[Any, int], names: Sequence[Any], unknown: int, dtype: type[T]) -> npt.NDArray[T]:
    return np.array([index.get(name, unknown) for name in names], dtype)


def _consents(clicks: Sequence[Click]) -> U8 | None:
    """`consent` as in Columns."""
    found = [click.consent for click in clicks]
    return np.array([CONSENTS[one] for one in found], np.uint8) if found.count(None) < len(found) else None


def _values(clicks: Sequence[Click], event_types: Sequence[str], purchase: str) -> F64 | None:
    """`value` as in Columns. purchase: the event type of a purchase"""
    bought = [i for i, name in enumerate(event_types) if name == purchase and clicks[i].price]
    if not bought:
        return None
    found = np.zeros(len(clicks))
    for i in bought:
        price, quantity = clicks[i].price, clicks[i].quantity
        assert price is not None
        found[i] = price if quantity is None else price * quantity
    return found


def _prices(clicks: Sequence[Click]) -> F32 | None:
    """`price` as in Columns."""
    found = [click.price for click in clicks]
    if found.count(None) == len(found):
        return None
    prices = np.array(found, np.float64)  # NaN for None
    prices[~(prices < LARGEST_PRICE)] = 0
    return prices.astype(np.float32)


def _owners(clicks: Sequence[Click], origins: Sequence[Origin]) -> tuple[Index, Sequence[Owner]]:
    """Return `owner` (n,) and `owners` as in Columns."""
    users: dict[Partition, dict[bytes, int]] = {}
    owners: list[Owner] = []
    owner: list[int] = []
    partition, index = None, {}
    for click, (topic, number, _) in zip(clicks, origins, strict=True):
        if (
            partition is None or number != partition.number or topic != partition.topic
        ):  # hashing it for each click is slow
            partition = Partition(topic, number)
            index = users.setdefault(partition, {})
        key = click.user_id.encode()
        user = index.get(key)
        if user is None:
            user = index[key] = len(owners)
            owners.append((partition, key))
        owner.append(user)
    return np.array(owner, np.intp), owners
