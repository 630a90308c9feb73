"""Counts how often the item of a user's next click is in the user's list, for a sample of the users.

The sample is by a hash of the user id, so all clicks of a sampled user are seen, and none of the others costs more than
the hash. Python's hash of bytes has another seed in each process, so no user is always in the sample.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from stream.lists.top import Lists
from stream.state.arena import Owner

EVERY = 32
"""One user in so many is in the sample."""

MOST_USERS = 10_000
"""Users whose list is remembered, with about 1 KB each. Of more, those who clicked last."""


class Hits:
    """The latest lists of the sampled users of one worker. Not thread-safe."""

    def __init__(self, every: int = EVERY, most_users: int = MOST_USERS) -> None:
        self._every = every
        self._most_users = most_users
        self._last: dict[Owner, list[int]] = {}  # in the order of the clicks

    def forget(self) -> None:
        """Forget all lists: another worker may have decided clicks of these users meanwhile."""
        self._last.clear()

    def judge(
        self,
        owners: Sequence[Owner],
        owner: npt.NDArray[np.intp],
        begins: npt.NDArray[np.bool_],
        item: npt.NDArray[np.int64],
        lists: Lists,
    ) -> tuple[int, int]:
        """Judge the lists before n clicks of m users by these clicks, and remember the lists after them.

        owners  (m,) the users
        owner   (n,) index into owners: the user of each click
        begins  (n,) whether the click begins a session: then it judges no list
        item    (n,) index of the clicked item. No list has the unknown item
        lists   the n lists after the clicks. A click without a list leaves its user's next click without a judgement
        returns how many lists were judged, and how many of them have the item of the next click
        """
        every = self._every
        sampled = [i for i, (_, user) in enumerate(owners) if hash(user) % every == 0]
        chosen = np.zeros(len(owners), np.bool_)
        chosen[sampled] = True
        judged = hits = 0
        at = np.flatnonzero(chosen[owner])
        columns = (owner[at], begins[at], item[at], lists.items[at], lists.counts[at])
        for index, new, clicked, recommended, length in zip(*(column.tolist() for column in columns), strict=True):
            user = owners[index]
            before = self._last.pop(user, None)
            if before is not None and not new:
                judged += 1
                hits += clicked in before
            if length:
                self._last[user] = recommended[:length]
        while len(self._last) > self._most_users:
            del self._last[next(iter(self._last))]
        return judged, hits
