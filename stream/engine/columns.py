"""Clicks -> the arrays the engine takes. Every word of a click becomes an index here and nowhere else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from stream.engine.waves import Index
from stream.events import Click, Origin, Partition
from stream.lists.rules import NO_CATEGORY
from stream.model.runtime import I64, Model
from stream.settings import Rules, words
from stream.state.arena import Owner

I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True)
class Columns:
    """n clicks of m users as arrays; the clicks of each partition in the order of their offsets.

    owners      the m users, each once, in the order of their first click here
    owner       (n,) intp, index into owners of each click's user
    offset      (n,) int64, the click's offset in its partition
    time_ms     (n,) int64, ms since the epoch
    item        (n,) int64 index, V = unknown to the model
    event_type  (n,) int64 index, T = unknown to the model
    hold        (n,) int8: 1 = the item is held back from now on, -1 = it is let go, 0 = neither
    category    (n,) int32, number of the category that the click itself names, NO_CATEGORY = none or unknown
    """

    owners: Sequence[Owner]
    owner: Index
    offset: I64
    time_ms: I64
    item: I64
    event_type: I64
    hold: I8
    category: I32

    def __len__(self) -> int:
        return len(self.owner)

    def ids(self) -> list[str]:
        """(n,) "topic-partition-offset": what Kafka knows each click by."""
        places = [str(partition) for partition, _ in self.owners]
        return [
            f"{places[user]}-{offset}" for user, offset in zip(self.owner.tolist(), self.offset.tolist(), strict=True)
        ]

    def take(self, which: Index) -> "Columns":
        """The clicks at these positions, ascending, with only their users."""
        users, first, owner = np.unique(self.owner[which], return_index=True, return_inverse=True)
        order = np.argsort(first)
        place = np.empty(len(order), np.intp)
        place[order] = np.arange(len(order))
        return Columns(
            [self.owners[user] for user in users[order].tolist()],
            place[owner],
            self.offset[which],
            self.time_ms[which],
            self.item[which],
            self.event_type[which],
            self.hold[which],
            self.category[which],
        )


class Encoder:
    """Words -> indices, for one model under one set of rules.

    categories  gives the numbers of the catalogue's categories as they are now; None where no rule asks for a click's
                category
    """

    def __init__(self, model: Model, rules: Rules, categories: Callable[[], Mapping[str, int]] | None) -> None:
        self._items = model.index
        self._event_types = {name: i for i, name in enumerate(model.manifest.event_types)}
        self._holds = dict.fromkeys(words(rules.readmit_events), -1) | dict.fromkeys(words(rules.exclude_events), 1)
        self._categories = categories

    def columns(self, clicks: Sequence[Click], origins: Sequence[Origin]) -> Columns:
        """The clicks as arrays, in their order; origins (n,) where each was read."""
        owner, owners = _owners(clicks, origins)
        return Columns(
            owners=owners,
            owner=owner,
            offset=np.fromiter((origin.offset for origin in origins), np.int64, len(origins)),
            time_ms=np.fromiter((click.timestamp for click in clicks), np.int64, len(clicks)),
            item=self.items([click.item_id for click in clicks]),
            event_type=self.event_types([click.event_type for click in clicks]),
            hold=self.holds([click.event_type for click in clicks]),
            category=self.categories([click.category for click in clicks]),
        )

    def items(self, ids: Sequence[str]) -> I64:
        """(n,) int64 indices of the items, V = unknown."""
        return _indices(self._items, ids, len(self._items), np.int64)

    def event_types(self, names: Sequence[str]) -> I64:
        """(n,) int64 indices of the event types, T = unknown."""
        return _indices(self._event_types, names, len(self._event_types), np.int64)

    def holds(self, names: Sequence[str]) -> I8:
        """(n,) int8: what an event of each type does to its item, as in Columns.hold."""
        return _indices(self._holds, names, 0, np.int8) if self._holds else np.zeros(len(names), np.int8)

    def categories(self, names: Sequence[str | None]) -> I32:
        """(n,) int32 numbers of the categories, NO_CATEGORY = unknown, None or not asked for by any rule."""
        if self._categories is None:
            return np.full(len(names), NO_CATEGORY, np.int32)
        return _indices(self._categories(), names, NO_CATEGORY, np.int32)


def _indices(index: Mapping[Any, int], names: Sequence[Any], unknown: int, dtype: type[T]) -> npt.NDArray[T]:
    return np.fromiter((index.get(name, unknown) for name in names), dtype, len(names))


def _owners(clicks: Sequence[Click], origins: Sequence[Origin]) -> tuple[Index, list[Owner]]:
    """Whose clicks these are: owner (n,) index into the users, and the users in the order of their first click."""
    places: dict[tuple[str, int], Partition] = {}
    index: dict[Owner, int] = {}
    owner = np.empty(len(clicks), np.intp)
    for i, (click, (topic, number, _)) in enumerate(zip(clicks, origins, strict=True)):
        place = places.get((topic, number)) or places.setdefault((topic, number), Partition(topic, number))
        owner[i] = index.setdefault((place, click.user_id.encode()), len(index))
    return owner, list(index)
