"""Clicks sorted by (user, time) -> padded batches of windows for truncated backpropagation through time.

A window has at most `length` consecutive clicks of one user. `length` limits backpropagation, not the state: each
further window of a user starts from the last state of the previous window. A batch contains windows of similar length,
which reduces padding. Batches are in approximate time order, so the newest clicks are trained on last.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from export.arrays import I32, I64, U8, Flags
from export.log.log import HOUR, Log, Vocabulary
from export.log.spill import chunks, part

BLOCK = 64
"""Batches per block. Windows are shuffled within a block; the blocks are in time order."""


@dataclass(frozen=True)
class Clicks:
    """n clicks as indices, sorted by (user, time). A click has 26 bytes; copies made by `where` may be on disk.

    item, event_type  (n,) int32, indices into the vocabulary; its size = unknown
    gap               (n,) uint8, bucket of the time since the user's previous click
    target            (n,) int32, the user's next item; -1 for the last click
    fresh             (n,) bool, True if the item was new when it was clicked
    user              (n,) int32
    time_ms           (n,) int64
    """

    item: I32
    event_type: I32
    gap: U8
    target: I32
    fresh: Flags
    user: I32
    time_ms: I64

    def __len__(self) -> int:
        return len(self.item)

    def with_items(self, item: I32) -> "Clicks":
        """The same clicks with other input items (n,); targets do not change."""
        return replace(self, item=item)

    def inputs(self, rows: I64) -> tuple[Tensor, Tensor, Tensor]:
        """Item, event type and gap of the clicks at `rows`: int64 tensors of the shape of rows."""
        item, event_type, gap = (torch.from_numpy(part[rows]).long() for part in (self.item, self.event_type, self.gap))
        return item, event_type, gap

    def where(self, keep: Flags) -> "Clicks":
        """The clicks where keep (n,) is True. Gaps and `fresh` do not change; a target that is left out becomes -1."""
        kept = Clicks(*(part(getattr(self, name), keep) for name in self.__dataclass_fields__))
        kept.target[~np.append(keep[1:], False)[keep]] = -1
        return kept


def encode(log: Log, vocabulary: Vocabulary, period_ms: int) -> Clicks:
    """The log as indices into the vocabulary; an unknown name gets the size of the vocabulary as index.

    period_ms  length of the period in which an item counts as new (birth_period)
    """
    item = _lookup(log.items, vocabulary.items)[log.item]
    event_type = _lookup(log.event_types, vocabulary.event_types)[log.event_type]
    target = np.full(len(log), -1, np.int32)
    same = log.user[:-1] == log.user[1:]
    target[:-1][same] = item[1:][same]
    fresh = fresh_clicks(item, log.time_ms, period_ms)
    return Clicks(item, event_type, log.gaps(vocabulary.gap_edges_ms), target, fresh, log.user, log.time_ms)


def _lookup(names: list[str], known: list[str] | tuple[str, ...]) -> I32:
    index = {name: i for i, name in enumerate(known)}
    return np.array([index.get(name, len(known)) for name in names], np.int32)


def birth_period(time_ms: I64) -> int:
    """Length of the period in which an item counts as new, ms: an eighth of the log, between a minute and a week."""
    return int(np.clip((time_ms.max() - time_ms.min()) // 8, HOUR // 60, 7 * 24 * HOUR))


def fresh_clicks(item: I32, time_ms: I64, period_ms: int) -> Flags:
    """(n,) bool, True where the item's first click is in the same period; False in the first two periods.

    There, most items have their first click in the log although they are not new.
    """
    start, born = time_ms.min(), np.full(int(item.max()) + 1, np.iinfo(np.int64).max)
    fresh = np.zeros(len(item), np.bool_)
    for at in chunks(len(item)):
        np.minimum.at(born, item[at], (time_ms[at] - start) // period_ms)
    for at in chunks(len(item)):
        period = (time_ms[at] - start) // period_ms
        fresh[at] = (period == born[item[at]]) & (period > 1)
    return fresh


class Batch(NamedTuple):
    """B windows of at most T clicks.

    rows   (B, T) int64, row of each click in Clicks; padding is row 0
    real   (B, T) bool, False for padding
    carry  (B,) int64, row of CarriedStates that the first state is read from; 0 = zero state
    leave  (B,) int64, row of CarriedStates that the last state is written to; 0 = no window continues
    """

    rows: I64
    real: Flags
    carry: I64
    leave: I64


class Windows:
    """The windows of some clicks, and the links from each window to the one that continues it.

    clicks   sorted by (user, time)
    length   maximum clicks of a window
    carried  count of windows that continue another one
    """

    def __init__(self, clicks: Clicks, length: int = 50) -> None:
        self.clicks = clicks
        starts = np.flatnonzero(np.append(True, clicks.user[1:] != clicks.user[:-1]))
        counts = np.diff(np.append(starts, len(clicks)))
        parts = -(-counts // length)
        self._ordinal = (np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)).astype(np.int32)
        self._start = np.repeat(starts, parts) + self._ordinal * length
        self._length = np.minimum(length, np.repeat(starts + counts, parts) - self._start).astype(np.int32)
        self._end_ms = clicks.time_ms[self._start + self._length - 1]
        continues = self._ordinal > 0
        self._carry = np.where(continues, np.cumsum(continues, dtype=np.int32), 0)
        self._leave = np.append(self._carry[1:], 0)
        self.carried = int(continues.sum())

    def shuffled(self, tokens: int, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch: batches of about `tokens` clicks, blocks in time order, random order within each block."""
        order = np.argsort(self._end_ms, kind="stable")
        stretch = np.searchsorted(
            np.cumsum(self._length[order]), np.arange(BLOCK * tokens, len(self.clicks), BLOCK * tokens)
        )
        for members in np.split(order, stretch):
            cut = self._cut(rng.permutation(members), tokens)
            yield from (cut[i] for i in rng.permutation(len(cut)))

    def in_order(self, tokens: int, rows: I64) -> Iterator[Batch]:
        """Windows of the users of the clicks at rows (m,); a window comes after the window that it continues."""
        members = np.flatnonzero(np.isin(self.clicks.user[self._start], self.clicks.user[rows]))
        members = members[np.argsort(self._ordinal[members], kind="stable")]
        for together in np.split(members, np.flatnonzero(np.diff(self._ordinal[members])) + 1):
            yield from self._cut(together, tokens)

    def _cut(self, members: I64, tokens: int) -> list[Batch]:
        """Cut windows into batches of similar length, each padded to its longest window."""
        members = members[np.argsort(self._length[members], kind="stable")]
        batches = []
        first = 0
        while first < len(members):
            last = first + 1
            while last < len(members) and (last - first + 1) * self._length[members[last]] <= tokens:
                last += 1
            batches.append(self._batch(members[first:last]))
            first = last
        return batches

    def _batch(self, members: I64) -> Batch:
        offsets = np.arange(int(self._length[members].max()))
        real = offsets < self._length[members][:, None]
        rows = np.where(real, self._start[members][:, None] + offsets, 0)
        return Batch(rows, real, self._carry[members].astype(np.int64), self._leave[members].astype(np.int64))


def drawn(rows: I64, limit: int, seed: int = 0) -> I64:
    """A random sample of at most `limit` of the rows, without replacement, in their order."""
    if len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
