"""Applies requests about a user at their place among the user's clicks: to forget the user, or to keep alerts back.

The user's clicks before a request to forget have the old row, those after it a new one.

A user with clicks on both sides of a request is two owners in a batch. They do not depend on each other. Only the row
of the last one is written.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stream.engine.waves import Index
from stream.population.quiet import NOT_ASKED, Asked, Quiet
from stream.state.arena import NO_SLOT, Arena, Found, Owner
from stream.state.evict import Swept

Requests = Mapping[Owner, Sequence[int]]
"""User -> the requests to forget the user: for each, the number of clicks of the batch before it."""


class Request(NamedTuple):
    """A request about a user.

    before  number of clicks of the batch that came before it
    owner   the user
    quiet   which alerts to keep back; None = forget the user
    """

    before: int
    owner: Owner
    quiet: Quiet | None = None


class Lives(NamedTuple):
    """The owners of a batch with requests.

    owner     (n,) intp, index into owners: the user of each click
    owners    (m,) the users, each once for each time in which they have clicks; and those who have no click, but a
              request for quiet
    life      (m,) intp, number of requests to forget this user before these clicks; None if there is no request
    requests  user -> the requests to forget the user: for each, the number of clicks before it
    asked     the requests for quiet; None if there is none
    """

    owner: Index
    owners: Sequence[Owner]
    life: Index | None
    requests: Requests
    asked: Asked | None


def lives(owner: Index, owners: Sequence[Owner], requests: Sequence[Request]) -> Lives:
    """Split the owners of n clicks, each once in `owners`, at the requests to forget, and place those for quiet.

    requests  in their order
    """
    owner, owners = owner.copy(), list(owners)
    latest = {one: i for i, one in enumerate(owners)}
    life, last = [0] * len(owners), [NOT_ASKED] * len(owners)
    forgotten: dict[Owner, list[int]] = {}
    quiets: list[Quiet] = []
    before = np.full(len(owner), NOT_ASKED, np.intp)
    for at, one, quiet in requests:
        index = latest.get(one)
        mine = np.flatnonzero(owner == index) if index is not None else np.empty(0, np.intp)
        later = mine[mine >= at]
        if quiet is None:
            forgotten.setdefault(one, []).append(at)
            before[later] = NOT_ASKED
            if index is None:
                continue
            if not len(later):
                del latest[one]
            elif len(later) == len(mine):
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
    return Lives(owner, owners, np.array(life, np.intp), forgotten, asked)


def staying(owners: Sequence[Owner], owner: Index, life: Index, requests: Requests, found: Found) -> Index:
    """The indices of the owners whose rows stay: no request to forget came after their clicks.

    An owner without clicks has a request for quiet, which is for a row that is there already.
    found  where the rows were before the batch
    """
    has_clicks = np.bincount(owner, minlength=len(owners)) > 0
    its_row = has_clicks | ((found.slots != NO_SLOT) & (life == 0))
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
