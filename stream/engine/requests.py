"""Applies requests about a user at their place among the user's clicks: to forget the user, or to keep alerts back.

The user's clicks before a request to forget have the old row, those after it a new one. So it is for a row that leaves
for another user.

A user with clicks on both sides of a request is two owners in a batch. They do not depend on each other. Only the row
of the last one is written.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stream.carry.arriving import Arriving
from stream.carry.leaving import Leaving
from stream.engine.waves import Index
from stream.events import Click, Partition
from stream.population.quiet import NAMES, NOT_ASKED, Asked, Quiet
from stream.state.arena import NO_SLOT, Arena, Found, Owner
from stream.state.evict import Swept
from stream.wire.codec import Codec
from stream.wire.requests import quieting, user_to_forget

Requests = Mapping[Owner, Sequence[int]]
"""User -> the requests to forget the user: for each, the number of clicks of the batch before it."""


class Request(NamedTuple):
    """A request about a user.

    before  number of clicks of the batch that came before it
    owner   the user
    quiet   which alerts to keep back
    leaves  the row leaves: its number and the key of the row where it goes
    arrives  a row arrives: the offset of its message, and the row
    If none of them is given: forget the user.
    """

    before: int
    owner: Owner
    quiet: Quiet | None = None
    leaves: tuple[int, bytes] | None = None
    arrives: tuple[int, bytes] | None = None


class Asking:
    """Notes the requests of a batch while its messages are read.

    asked          the requests so far, in their order
    forget, quiet  how many of them are about that
    """

    def __init__(self, codec: Codec, clicks: Sequence[Click]) -> None:
        """clicks: those of the batch, to which the caller adds one after the other"""
        self._codec, self._clicks = codec, clicks
        self.asked: list[Request] = []
        self.forget = self.quiet = 0

    def read(self, record: Any, partition: Partition) -> bool:
        """Note the request in a message that is no click. False if it is none. record: an aiokafka ConsumerRecord"""
        user = user_to_forget(record, self._codec)
        if user is not None:
            self.asked.append(Request(len(self._clicks), (partition, user)))
            self.forget += 1
            return True
        asked = quieting(record, NAMES)
        if asked is None:
            return False
        self.asked.append(
            Request(len(self._clicks), (partition, record.key), Quiet.of(asked.until_ms, asked.statistics))
        )
        self.quiet += 1
        return True

    def leaves(self, owner: Owner, number: int, user: bytes) -> None:
        """Note that a row leaves, as in Request."""
        self.asked.append(Request(len(self._clicks), owner, None, (number, user)))

    def arrives(self, owner: Owner, offset: int, row: bytes) -> None:
        """Note that a row arrives, as in Request."""
        self.asked.append(Request(len(self._clicks), owner, None, None, (offset, row)))

    def about(self, owner: Owner) -> bool:
        """Whether there is a request about this user so far."""
        return any(one.owner == owner for one in self.asked)


class Lives(NamedTuple):
    """The owners of a batch with requests.

    owner     (n,) intp, index into owners: the user of each click
    owners    (m,) the users, each once for each time in which they have clicks; and those who have no click, but a
              request for quiet, or for whom a row arrives
    life      (m,) intp, number of requests to forget this user before these clicks; None if there is no request
    requests  user -> the requests that end the user's row: for each, the number of clicks before it
    asked     the requests for quiet; None if there is none
    leaving, arriving  the rows that do, in their order
    """

    owner: Index
    owners: Sequence[Owner]
    life: Index | None
    requests: Requests
    asked: Asked | None
    leaving: Sequence[Leaving] = ()
    arriving: Sequence[Arriving] = ()


def lives(owner: Index, owners: Sequence[Owner], requests: Sequence[Request]) -> Lives:
    """Split the owners of n clicks, each once in `owners`, at the requests to forget, and place those for quiet.

    requests  in their order
    """
    owner, owners = owner.copy(), list(owners)
    latest = {one: i for i, one in enumerate(owners)}
    life, last = [0] * len(owners), [NOT_ASKED] * len(owners)
    forgotten: dict[Owner, list[int]] = {}
    quiets: list[Quiet] = []
    leaving: list[Leaving] = []
    arriving: dict[int, Arriving] = {}
    before = np.full(len(owner), NOT_ASKED, np.intp)
    for at, one, quiet, leaves, arrives in requests:
        index = latest.get(one)
        if arrives is not None:
            if index is None:
                index = latest[one] = len(owners)
                owners.append(one)
                life.append(len(forgotten.get(one, ())))
                last.append(NOT_ASKED)
            arriving[index] = Arriving(at, index, *arrives)
            continue
        if leaves is not None:
            leaving.append(Leaving(at, one, len(forgotten.get(one, ())), *leaves))
        mine = np.flatnonzero(owner == index) if index is not None else np.empty(0, np.intp)
        later = mine[mine >= at]
        if quiet is None:
            forgotten.setdefault(one, []).append(at)
            before[later] = NOT_ASKED
            if index is None:
                continue
            if not len(later):
                del latest[one]
            elif len(later) == len(mine) and index not in arriving:
                life[index], last[index] = len(forgotten[one]), NOT_ASKED
            else:
                owner[later] = latest[one] = len(owners)
                owners.append(one)
                life.append(len(forgotten[one]))
                last.append(NOT_ASKED)
            continue
        if index is None:
            if one in forgotten:  # forgotten, and without a click since then
                continue
            index = latest[one] = len(owners)
            owners.append(one)
            life.append(0)
            last.append(NOT_ASKED)
        before[later] = last[index] = len(quiets)
        quiets.append(quiet)
    asked = Asked(quiets, before, np.array(last, np.intp)) if quiets else None
    of_rows = leaving, list(arriving.values())
    return Lives(owner, owners, np.array(life, np.intp), forgotten, asked, *of_rows)


def staying(
    owners: Sequence[Owner], owner: Index, life: Index, requests: Requests, found: Found, taken: Collection[Owner]
) -> Index:
    """The indices of the owners whose rows stay: no request to forget came after their clicks.

    An owner without clicks has a request for quiet, which is for a row that is there already, or a row that arrived.
    found  where the rows were before the batch
    taken  the owners for whom a row has arrived that they did not have
    """
    has_clicks = np.bincount(owner, minlength=len(owners)) > 0
    arrived = np.array([one in taken for one in owners], np.bool_)
    its_row = has_clicks | (((found.slots != NO_SLOT) | arrived) & (life == 0))
    last = np.array([n == len(requests.get(one, ())) for one, n in zip(owners, life.tolist(), strict=True)], np.bool_)
    return np.flatnonzero(last & its_row)


def with_removed(swept: Swept, arena: Arena, requests: Requests, stay: Sequence[Owner]) -> Swept:
    """Add to the users whose rows will be removed those with a request and a row in the arena, but none that stay."""
    asked = list(requests.keys() - set(stay))
    has_row = arena.find(asked).slots != NO_SLOT
    return swept._replace(owners=[*swept.owners, *itertools.compress(asked, has_row.tolist())])


def select(found: Found, which: Index) -> Found:
    """Select the owners at the positions `which`."""
    return found._replace(slots=found.slots[which], partition=found.partition[which])
