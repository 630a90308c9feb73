"""The sessions of a log as item indices: the training data of the baselines, saved with the model (baselines.npz).

At most the NEWEST newest clicks are kept, so that the file stays small; click counts are those of the whole log. A
model that was trained from an older model also contains the older model's sessions. Item indices are by descending
training clicks; V is the unknown item.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from export.arrays import I32, I64, Flags
from export.log.log import Log

NEWEST = 5_000_000
"""Maximum clicks kept: 20 MB. Older sessions matter little: VS-KNN uses the newest sessions that contain an item."""


@dataclass(frozen=True)
class Sessions:
    """S sessions, ordered by the time of their last click.

    item    (n,) int32, item[start[s] : start[s + 1]] are the clicks of session s, oldest first; V = unknown item
    start   (S + 1,) int64
    end_ms  (S,) int64, time of the last click
    counts  (V,) int64, clicks of each item in the whole log
    """

    item: I32
    start: I64
    end_ms: I64
    counts: I64

    def __len__(self) -> int:
        return len(self.end_ms)

    @property
    def items(self) -> int:
        """V, the count of known items."""
        return len(self.counts)

    def session(self) -> I64:
        """(n,) int64, session of each click."""
        return np.repeat(np.arange(len(self)), np.diff(self.start))

    def where(self, keep: Flags) -> "Sessions":
        """The sessions where keep (S,) bool is True; counts do not change."""
        lengths = np.diff(self.start)
        start = np.append(0, np.cumsum(lengths[keep]))
        return Sessions(self.item[np.repeat(keep, lengths)], start, self.end_ms[keep], self.counts)

    def reindexed(self, index: I32, items: int) -> "Sessions":
        """Item i gets index[i], among `items` items. index (V + 1,) int32; the last entry is for the unknown item."""
        counts = np.zeros(items, np.int64)
        counts[index[:-1]] = self.counts
        return Sessions(index[self.item], self.start, self.end_ms, counts)

    def followed_by(self, later: "Sessions", newest: int = NEWEST) -> "Sessions":
        """These sessions, then the later ones (same vocabulary); whole sessions, at most the `newest` newest clicks."""
        both = Sessions(
            np.append(self.item, later.item),
            np.append(self.start, self.start[-1] + later.start[1:]),
            np.append(self.end_ms, later.end_ms),
            self.counts + later.counts,
        )
        return both.where(both.start[-1] - both.start[:-1] <= newest)

    def positions(self) -> Iterator[tuple[I32, int]]:
        """All prefixes of all sessions: (items of the prefix (p,) int32, next item)."""
        for first, end in zip(self.start[:-1].tolist(), self.start[1:].tolist(), strict=True):
            for at in range(first + 1, end):
                yield self.item[first:at], int(self.item[at])


class SessionSets:
    """Sessions as sets of items, and the inverted index from items to sessions. Unknown items are left out.

    item     (m,) int64, item[start[s] : start[s + 1]] are the items of session s, ascending
    holding  (m,) int64, holding[bound[i] : bound[i + 1]] are the sessions that contain item i, newest last
    """

    def __init__(self, sessions: Sessions) -> None:
        known = sessions.item < sessions.items
        pairs = np.unique(sessions.session()[known] * sessions.items + sessions.item[known])
        session, self.item = pairs // sessions.items, pairs % sessions.items
        self.start = np.searchsorted(session, np.arange(len(sessions) + 1))
        by_item = np.argsort(self.item, kind="stable")
        self.holding = session[by_item]
        self.bound = np.searchsorted(self.item[by_item], np.arange(sessions.items + 1))

    def sessions_with(self, item: int, newest: int | None = None) -> I64:
        """The sessions that contain the item, newest last; at most the `newest` newest ones."""
        a, b = self.bound[item : item + 2].tolist()
        return self.holding[a if newest is None else max(a, b - newest) : b]

    def items_of(self, sessions: I64) -> tuple[I64, I64]:
        """The items of these sessions, concatenated, and the count of items of each session."""
        start = self.start[sessions]
        size = self.start[sessions + 1] - start
        return self.item[np.repeat(start - np.cumsum(size) + size, size) + np.arange(size.sum())], size


def sessions_of(log: Log, items: list[str], newest: int = NEWEST) -> Sessions:
    """The sessions of a log, with indices into `items`; whole sessions, at most the `newest` newest clicks."""
    index = {name: i for i, name in enumerate(items)}
    item = np.array([index.get(name, len(index)) for name in log.items], np.int32)[log.item]
    counts = np.bincount(item, minlength=len(items) + 1)[: len(items)]
    end_ms = np.zeros(int(log.session.max(initial=-1)) + 1, np.int64)
    np.maximum.at(end_ms, log.session, log.time_ms)
    lengths = np.bincount(log.session, minlength=len(end_ms))
    sessions = np.lexsort((np.arange(len(end_ms)), end_ms))
    sessions = sessions[(lengths[sessions] > 0) & (np.cumsum(lengths[sessions][::-1])[::-1] <= newest)]
    rank = np.full(len(end_ms), -1, np.int32)
    rank[sessions] = np.arange(len(sessions))
    rows = np.flatnonzero(rank[log.session] >= 0)
    rows = rows[np.argsort(rank[log.session[rows]], kind="stable")]  # a session's clicks keep their order
    return Sessions(item[rows], np.append(0, np.cumsum(lengths[sessions])), end_ms[sessions], counts)
