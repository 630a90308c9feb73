"""Gives the clicks of an anonymous id to the user who logs in later, as a worker does with the state.

A row with both ids says which user it is. The clicks of the anonymous id before its first such row are the user's, if
the user has no earlier click. Later clicks with the anonymous id alone stay with it.

Differences to a worker: an anonymous id that is used again after a login is one user with its earlier clicks, if these
were given to nobody; and no state is forgotten in between.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from export.log.spill import Rows, Spool
from stream.mapping.reading import ITEM, TIME, USER, Reading
from stream.wire.fields import LONGEST_ID, Unusable, time_ms, word


class Joins:
    """The first row with both ids, of each anonymous id: its time, in ms, and the user.

    users  how many users have got the clicks of an anonymous id
    """

    def __init__(self) -> None:
        self.users = 0
        self._first: dict[str, tuple[int, str]] = {}

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
        if anonymous not in self._first or time[0] < self._first[anonymous][0]:
            self._first[anonymous] = time[0], user

    def apply(self, spool: Spool, names: list[str]) -> list[str]:
        """Give the clicks to their users. Returns the names of the users then.

        names  of the users, by their indices in the rows of the spool. One without a click has no index after it
        """
        if not self._first:
            return names
        index = {name: at for at, name in enumerate(names)}
        first_ms = np.full(len(names), np.iinfo(np.int64).max)

        def look(rows: Rows) -> Any:
            np.minimum.at(first_ms, rows["user"], rows["time_ms"])
            return rows["user"]

        spool.change_users(look)
        until_ms, to = np.full(len(names), np.iinfo(np.int64).min), np.arange(len(names))
        joined: set[str] = set()
        for anonymous, (time, user) in sorted(self._first.items(), key=lambda one: one[1]):
            a, u = index.get(anonymous), index.get(user)
            if a is None or u is None or user in joined or first_ms[u] < time or first_ms[a] >= time:
                continue
            until_ms[a], to[a] = time, u
            joined.add(user)
        if joined:
            spool.change_users(
                lambda rows: np.where(rows["time_ms"] < until_ms[rows["user"]], to[rows["user"]], rows["user"])
            )
            stays = spool.clicks_of_users() > 0
            new = np.cumsum(stays) - 1
            spool.change_users(lambda rows: new[rows["user"]])
            names = [name for name, stay in zip(names, stays.tolist(), strict=False) if stay]
        self.users = len(joined)
        return names
