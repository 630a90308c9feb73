"""Splits a batch of clicks into waves, and the waves into runs. Wave w has the w-th click of each user.

The model must process the clicks of one user one after the other. It may process clicks of different users together. A
wave has each user at most once, and the waves preserve the order of each user's clicks. So running the waves one after
the other gives the same result as running the clicks one by one.

A run is some consecutive waves that are one call of step.onnx, as a rectangle: a row for each user of the first wave, a
column for each wave. So the number of calls does not grow with the clicks of the busiest user.
"""

from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.intp]
Bools = npt.NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)
NO_INDEX = np.empty(0, np.intp)
NO_CLICK = np.array([-1], np.intp)
"""Position of no click. `NO_CLICK.repeat(n)` takes 40 % of the time of np.full for a few clicks."""

MOST_UNUSED = 96
"""Most cells of the rectangle of a run without a click, because their users have fewer clicks than others. To compute
so many in vain takes about as long as another call. Batches of 64 clicks on 600 items were a few percent faster with 96
or 128 than with 32; for 20,000 items or 2,000 clicks 32 to 192 did not differ by more than the runs (10 %)."""


def waves(owner: Index) -> list[Index]:
    """Compute the waves of n clicks.

    owner    (n,) intp, index of each click's user; the clicks are in order
    returns  one array of click positions per wave. The arrays are disjoint and together have all positions 0..n-1
    """
    if not len(owner):
        return []
    counts = np.bincount(owner)
    if counts.max() == 1:  # nobody clicks twice: saves two sorts, a tenth of a cycle of one click
        return [np.arange(len(owner))]
    by_owner = np.argsort(owner, kind="stable")
    turn = np.empty(len(owner), np.intp)
    turn[by_owner] = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    by_turn = np.argsort(turn, kind="stable")
    ends = np.cumsum(np.bincount(turn)).tolist()
    return [by_turn[start:end] for start, end in pairwise([0, *ends])]


class Run:
    """Some consecutive waves as a rectangle: a row for each of the B users of the first wave, a column for each wave.

    waves   the waves
    users   (B,) intp, the users
    which   (r,) intp, positions of the clicks in the batch, wave after wave
    owner   (r,) intp, their users
    earlier (r - B,) intp: for each click after the first wave, the index in `which` of the user's click before it
    """

    _row: Index  # (r,) their rows, and
    _turn: Index  # (r,) their columns; only if there are several waves

    def __init__(self, waves: list[Index], owner: Index) -> None:
        """owner  (n,) intp, the user of each click of the batch"""
        self.waves, self.users = waves, owner[waves[0]]
        self.which, self.owner, self.earlier = waves[0], self.users, NO_INDEX
        self._cell: Index | slice = slice(None)
        if len(waves) == 1:  # the others are rare, and what follows takes a hundredth of a cycle of one click
            return
        self.which = np.concatenate(waves)
        self.owner = owner[self.which]
        count, rows = len(self.users), np.empty(owner.max() + 1, np.intp)
        rows[self.users] = np.arange(count)
        self._row = rows[self.owner]
        self._turn = np.repeat(np.arange(len(waves)), [len(wave) for wave in waves])
        self._cell = self._row * len(waves) + self._turn
        index = np.empty(count * len(waves), np.intp)
        index[self._cell] = np.arange(len(self.which))
        self.earlier = index[self._cell[count:] - 1]

    def cells(self, values: npt.NDArray[T]) -> npt.NDArray[T]:
        """Values (n,) of all clicks of the batch -> the rectangle (B, N). A cell without a click has 0."""
        if len(self.waves) == 1:
            return values[self.which][:, None]
        filled = np.zeros(len(self.users) * len(self.waves), values.dtype)
        filled[self._cell] = values[self.which]
        return filled.reshape(len(self.users), len(self.waves))

    def clicks(self, cells: npt.NDArray[T]) -> npt.NDArray[T]:
        """Values (B, N, ...) of the rectangle -> those of the clicks `which` (r, ...)."""
        found: npt.NDArray[T] = cells.reshape(-1, *cells.shape[2:])[self._cell]
        return found

    def before(self, first: npt.NDArray[T], after: npt.NDArray[T]) -> npt.NDArray[T]:
        """What was before each click (r, ...): `first` (B, ...) before those of the first wave, and before the others
        what is `after` (r, ...) the user's earlier click."""
        return np.concatenate([first, after[self.earlier]]) if len(self.earlier) else first

    def latest(self, before: npt.NDArray[np.int32], values: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """The latest R values of each click's user (r, R), newest first, the click's own included.

        before  (B, R) those before the run
        values  (n,) of all clicks of the batch
        """
        if len(self.waves) == 1:
            return np.concatenate([values[self.which][:, None], before[:, :-1]], axis=1, dtype=before.dtype)
        size = before.shape[1]
        oldest_first = np.concatenate([before[:, ::-1], self.cells(values)], axis=1)
        found: npt.NDArray[np.int32] = oldest_first[self._row[:, None], self._turn[:, None] + np.arange(size, 0, -1)]
        return found


def runs(order: list[Index], alone: Bools | None) -> list[list[Index]]:
    """Split the waves of n clicks into runs.

    alone  (n,) bool: the wave of this click is a run of its own; None = no wave
    """
    found: list[list[Index]] = []
    open_ended, unused = False, 0
    for wave in order:
        by_itself = alone is not None and bool(alone[wave].any())
        unused += len(found[-1][0]) - len(wave) if found else 0
        if open_ended and not by_itself and unused <= MOST_UNUSED:
            found[-1].append(wave)
        else:
            found.append([wave])
            unused = 0
        open_ended = not by_itself
    return found
