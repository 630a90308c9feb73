"""Applies requests to forget a user: the user's clicks before a request have the old row, those after it a new one.

A user with clicks on both sides of a request is two owners in a batch. They do not depend on each other. Only the row
of the last one is written.

If the removed row had the newest time of its partition, the partition's clock is behind until the next click, or after
the next restart: other users may be kept a little longer.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stream.engine.waves import Index
from stream.state.arena import NO_SLOT, Arena, Found, Owner
from stream.state.evict import Swept


class Request(NamedTuple):
    """A request to forget a user.

    before  number of clicks of the batch that came before it
    owner   the user
    """

    before: int
    owner: Owner


class Lives(NamedTuple):
    """The owners of a batch with requests.

    owner     (n,) intp, index into owners: the user of each click
    owners    (m,) the users, each once for each time in which they have clicks
    life      (m,) intp, number of requests of this user before these clicks; None if there is no request
    requests  user -> number of requests
    """

    owner: Index
    owners: Sequence[Owner]
    life: Index | None
    requests: Mapping[Owner, int]


def lives(owner: Index, owners: Sequence[Owner], requests: Sequence[Request]) -> Lives:
    """Split the owners of n clicks, each once in `owners`, at the requests, which are in order."""
    owner, owners = owner.copy(), list(owners)
    latest = {one: i for i, one in enumerate(owners)}
    life = [0] * len(owners)
    counts: dict[Owner, int] = {}
    for before, one in requests:
        counts[one] = counts.get(one, 0) + 1
        index = latest.get(one)
        mine = np.flatnonzero(owner == index) if index is not None else np.empty(0, np.intp)
        later = mine[mine >= before]
        if index is None or not len(later):
            continue
        if len(later) == len(mine):
            life[index] = counts[one]
            continue
        owner[later] = latest[one] = len(owners)
        owners.append(one)
        life.append(counts[one])
    return Lives(owner, owners, np.array(life, np.intp), counts)


def last_owners(owners: Sequence[Owner], life: Index, requests: Mapping[Owner, int]) -> Index:
    """The indices of the owners after whose clicks no request came: their rows stay."""
    return np.flatnonzero([n == requests.get(one, 0) for one, n in zip(owners, life.tolist(), strict=True)])


def with_removed(swept: Swept, arena: Arena, requests: Mapping[Owner, int], stay: Sequence[Owner]) -> Swept:
    """Add to the users whose rows will be removed those with a request and a row in the arena, but none that stay."""
    asked = list(requests.keys() - set(stay))
    has_row = arena.find(asked).slots != NO_SLOT
    return swept._replace(owners=[*swept.owners, *itertools.compress(asked, has_row.tolist())])


def select(found: Found, which: Index) -> Found:
    """Select the owners at the positions `which`."""
    return found._replace(slots=found.slots[which], partition=found.partition[which])
