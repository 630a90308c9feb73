"""Gives the clicks of an anonymous id to the user who logs in after them, as a worker does with the state.

A row with both ids says which user it is. The clicks with the anonymous id alone since its row with both ids before,
or since its first click, are the user's, if the user has no earlier click.

Differences to a worker: clicks of an anonymous id that were given to nobody are one user, also those before and after a
login; and no state is forgotten in between.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from export.arrays import I64
from export.log import spill
from export.log.spill import Column, Rows, Spool
from stream.mapping.reading import ITEM, TIME, USER, Reading
from stream.wire.fields import LONGEST_ID, Unusable, time_ms, word

BOTH = np.dtype([("anonymous", "<i4"), ("time_ms", "<i8")])
"""A row with both ids on disk: number of the anonymous id, and time."""

Index = npt.NDArray[np.intp]


class Gifts:
    """The clicks that go from anonymous ids to users: of each id those after one time and up to another one.

    A click at the time of a login counts as one before it: in a log with whole seconds it mostly is.

    to  (g,) the users
    """

    def __init__(self, gifts: list[tuple[int, int, int]]) -> None:
        """gifts  (anonymous id, time up to which its clicks go, user); ids and users as indices, no user twice"""
        self._of, self._until_ms, self.to = np.array(sorted(gifts), np.int64).reshape(-1, 3).T
        self._after_ms = np.full(len(gifts), np.iinfo(np.int64).min)
        self._times = np.unique(self._until_ms)
        self._keys = self._key(self._of, self._times.searchsorted(self._until_ms))

    def begin(self, users: I64, times: I64) -> None:
        """Nothing goes of what was before these rows with both ids: (m,) the anonymous ids, -1 = no user; and times."""
        at, found = self._next(users, times, "right")
        np.maximum.at(self._after_ms, at[found], times[found])

    def find(self, users: I64, times: I64) -> tuple[Index, npt.NDArray[np.bool_]]:
        """Which gift each of these clicks (m,) is part of, and whether it is part of one."""
        at, found = self._next(users, times, "left")
        return at, found & (self._after_ms[at] < times)

    def _next(self, users: I64, times: I64, side: Literal["left", "right"]) -> tuple[Index, npt.NDArray[np.bool_]]:
        """The next gift of each user after each time (m,), left: or at this time; and whether there is one."""
        keys = self._key(users, self._times.searchsorted(times, side))
        at = np.minimum(self._keys.searchsorted(keys), len(self._keys) - 1)
        return at, (self._of[at] == users) & (self._keys[at] >= keys)

    def _key(self, users: I64, times: Index) -> I64:
        """In the order of the users, and of each one in the order of the times, which are indices."""
        return users.astype(np.int64) * (len(self._times) + 1) + times


class Joins:
    """The rows with both ids.

    users  how many users have got the clicks of an anonymous id
    """

    def __init__(self) -> None:
        self.users = 0
        self._numbers: dict[str, int] = {}  # of the anonymous ids
        self._first_ms: dict[tuple[int, str], int] = {}  # of each anonymous id with each user
        self._new: list[tuple[int, int]] = []
        self._rows: Column | None = None  # the others are in `_new`

    def note(self, reading: Reading, row: Mapping[str, Any], values: list[Any]) -> None:
        """Note a row of a log, if it is a click with both ids. values: as the mapping reads them from it"""
        anonymous = reading.anonymous_id(row)
        if anonymous is None:
            return
        try:
            user, item, time = word(values[USER], LONGEST_ID), word(values[ITEM], LONGEST_ID), time_ms(values[TIME])
        except Unusable:
            return
        if user is None or item is None or time is None or user == anonymous:
            return
        number = self._numbers.setdefault(anonymous, len(self._numbers))
        pair = number, user
        self._first_ms[pair] = min(time[0], self._first_ms.get(pair, time[0]))
        self._new.append((number, time[0]))
        if len(self._new) >= spill.CHUNK:
            self._write()

    def apply(self, spool: Spool, names: list[str]) -> list[str]:
        """Give the clicks to their users. Returns the names of the users then.

        names  of the users, by their indices in the rows of the spool. One without a click has no index after it
        """
        index = {name: at for at, name in enumerate(names)}
        gifts = self._gifts(spool, index) if self._first_ms else None
        if gifts is None:
            return names
        got = np.zeros(len(gifts.to), np.bool_)

        def change(rows: Rows) -> Any:
            at, found = gifts.find(rows["user"], rows["time_ms"])
            got[at[found]] = True
            return np.where(found, gifts.to[at], rows["user"])

        spool.change_users(change)
        self.users = int(np.count_nonzero(got))
        stays = spool.clicks_of_users() > 0
        new = np.cumsum(stays) - 1
        spool.change_users(lambda rows: new[rows["user"]])
        return [name for name, stay in zip(names, stays.tolist(), strict=False) if stay]

    def _gifts(self, spool: Spool, index: Mapping[str, int]) -> Gifts | None:
        """What goes over; None = nothing. index: name of a user -> index in the rows of the spool"""
        first_ms = np.full(len(index), np.iinfo(np.int64).max)

        def look(rows: Rows) -> Any:
            np.minimum.at(first_ms, rows["user"], rows["time_ms"])
            return rows["user"]

        spool.change_users(look)
        anonymous, joined = [index.get(name, -1) for name in self._numbers], dict[int, tuple[int, int, int]]()
        for (number, name), time in self._first_ms.items():
            a, u = anonymous[number], index.get(name, -1)
            if a >= 0 and u >= 0 and time <= first_ms[u]:
                joined[u] = a, time, u
        if not joined:
            return None
        gifts, of = Gifts([*joined.values()]), np.array(anonymous)
        self._write()
        assert self._rows is not None
        rows = self._rows.array()
        for part in spill.chunks(len(rows)):
            gifts.begin(of[rows["anonymous"][part]], rows["time_ms"][part])
        return gifts

    def _write(self) -> None:
        self._rows = self._rows or Column(BOTH)
        self._rows.append(np.array(self._new, BOTH))
        self._new.clear()
