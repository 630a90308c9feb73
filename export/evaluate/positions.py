"""The judged clicks of a log, and the results of one method on them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from export.arrays import I32, I64
from export.log.log import Log
from export.measure.metrics import COLD, K, Ranks
from stream.lists.rules import NO_CATEGORY


def rank_in(listed: Sequence[Any], item: Any) -> int:
    """The rank of the item in a list, 1 = first; 0 if it is not among the first K."""
    return listed.index(item) + 1 if item in listed[:K] else 0


class Positions:
    """The m judged clicks of a log, with the data that the baselines use at each.

    row      (m,) the click's row of the log, ascending
    target   (m,) int64 index of the session's next item, V = unknown to the model
    session  (m,) int32 of the log
    so_far   (m,) int64 clicks of the session up to this one
    """

    def __init__(self, log: Log, index: dict[str, int], judge_from_ms: int | None = None) -> None:
        following = log.next_in_session()
        self.row = np.flatnonzero((following >= 0) & (log.time_ms >= (judge_from_ms or 0)))
        self._item = np.array([index.get(name, len(index)) for name in log.items], np.int64)[log.item]
        self.target = self._item[following[self.row]]
        self.session = log.session[self.row]
        order = np.argsort(log.session, kind="stable")
        self._in_session = self._item[order]
        first = np.searchsorted(log.session[order], log.session)
        row = np.empty(len(log), np.int64)
        row[order] = np.arange(len(log))
        self._first, self._last = first[self.row], row[self.row]
        self.so_far = self._last - self._first + 1
        self._user_first = np.searchsorted(log.user, log.user)[self.row]

    def __len__(self) -> int:
        return len(self.row)

    def seen(self, exclude_recent: int) -> Iterator[tuple[I64, list[int], int]]:
        """For each position: the session's items so far, the user's last `exclude_recent` items, the target."""
        bounds = zip(self._first.tolist(), self._last.tolist(), self._user_first.tolist(), strict=True)
        for (first, last, user_first), row, target in zip(bounds, self.row.tolist(), self.target.tolist(), strict=True):
            recent = self._item[max(user_first, row + 1 - exclude_recent) : row + 1].tolist()
            yield self._in_session[first : last + 1], recent, target


class Judged:
    """The results of one method: the rank of each position's target, and counts of the recommended items.

    category  (V,) category of each item, NO_CATEGORY = none; None without a catalogue
    """

    def __init__(self, positions: int, items: int, category: I32 | None = None) -> None:
        self.rank: Ranks = np.zeros(positions, np.uint8)
        self.recommended: I64 = np.zeros(items, np.int64)
        self._category = None if category is None else category.tolist()
        self._categories = 0

    def take(self, at: int, listed: list[int], target: int) -> None:
        """Add the list of a position, best first, and the position's target."""
        self.rank[at] = rank_in(listed, target)
        self.recommended[listed] += 1
        if self._category is not None:
            self._categories += len({self._category[item] for item in listed} - {NO_CATEGORY})

    def beyond_accuracy(self, counts: I64) -> dict[str, float]:
        """Metrics of the lists of 20 that do not depend on the targets.

        counts        (V,) training clicks of each item
        coverage20    share of the catalogue that is in at least one list
        popularity20  mean number of training clicks of a recommended item
        cold20        share of recommended items that are cold
        categories20  only with a catalogue: mean number of different categories in a list
        """
        total = max(1, int(self.recommended.sum()))
        diversity = {} if self._category is None else {"categories20": self._categories / max(1, len(self.rank))}
        return {
            **diversity,
            "coverage20": float((self.recommended > 0).mean()),
            "popularity20": float((self.recommended * counts).sum() / total),
            "cold20": float(self.recommended[counts <= COLD].sum() / total),
        }
