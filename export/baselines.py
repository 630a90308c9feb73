"""Popularity and Markov: what a recommender has to beat, from counts that stay with the model (baselines.npz).

Both rank the whole catalogue. Tie rule: equal scores rank the lower index first, which is the higher training count; so
Markov's list goes on with the most popular items where an item's successors end, and an unknown item gets those alone.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from stream.errors import ArtifactError
from stream.settings import RECENT_ITEMS

I64 = npt.NDArray[np.int64]

FILE = "baselines.npz"
SUCCESSORS = 128
"""Successors kept per item: a list of 20 without the 16 just seen needs 36; more leaves room for a larger k."""


class Baselines:
    """Ranked item indices, from training counts. Indices are by descending training count, V = unknown.

    start      (V + 1,) int64: item i's successors are successor[start[i] : start[i + 1]]
    successor  (m,) int32, of one item by descending count within sessions, ties by index
    """

    def __init__(self, start: I64, successor: npt.NDArray[np.int32]) -> None:
        self._start = start
        self._successor = successor
        self._known = len(start) - 1

    @classmethod
    def count(cls, items: int, before: I64, after: I64) -> "Baselines":
        """From the pairs (n,) of items that follow each other in a session."""
        pairs, times = np.unique(before * items + after, return_counts=True)
        first, second = pairs // items, pairs % items
        order = np.lexsort((second, -times, first))
        first, second = first[order], second[order]
        begin = np.searchsorted(first, np.arange(items + 1))
        place = np.arange(len(first)) - begin[first]
        keep = place < SUCCESSORS
        start = np.searchsorted(first[keep], np.arange(items + 1))
        return cls(start, second[keep].astype(np.int32))

    @classmethod
    def load(cls, directory: Path) -> "Baselines":
        """Raises ArtifactError if the model was written without them."""
        try:
            with np.load(directory / FILE, allow_pickle=False) as file:
                return cls(file["start"], file["successor"])
        except (OSError, KeyError, ValueError) as exc:
            raise ArtifactError(f"model {directory}: no readable {FILE}; train it again with `eddy train`") from exc

    def save(self, directory: Path) -> None:
        np.savez(directory / FILE, start=self._start, successor=self._successor)

    def popularity(self, item: int, recent: list[int], k: int) -> list[int]:
        """The k most popular items without those in `recent`; the clicked `item` does not matter."""
        return [i for i in range(min(self._known, k + len(recent))) if i not in recent][:k]

    def markov(self, item: int, recent: list[int], k: int) -> list[int]:
        """The k items that most often followed `item` (V = unknown), without those in `recent`."""
        followers: list[int] = []
        if item < self._known:
            wanted = k + RECENT_ITEMS
            followers = self._successor[self._start[item] : self._start[item + 1]][:wanted].tolist()
        listed = [i for i in followers if i not in recent][:k]
        if len(listed) < k:
            taken = {*listed, *recent}
            popular = range(min(self._known, k + len(taken)))
            listed += [i for i in popular if i not in taken][: k - len(listed)]
        return listed
