"""Clicks -> what the mixture counts and what it remembers, for all clicks of a log at once.

Neighbours are counted within visits only, newer clicks for more where popularity passes. `memories` must give what
Mixture.step gives click by click: a test holds them together.
"""

import numpy as np
import numpy.typing as npt

from export.mixture import NEIGHBOURS, NEW_VISIT, REMEMBERED, Counted, Neighbours
from export.sequences import Clicks

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
F64 = npt.NDArray[np.float64]

WINDOW = 10
"""Clicks of a visit are neighbours up to this distance, with weight 1 / distance."""

PRIOR = 1.0
"""Clicks that an item's neighbours must outweigh: the network's share where little was counted."""

NEWEST = 5_000_000
"""Clicks that are counted, the newest ones: older ones hardly move a share, and pairs cost memory."""


def new_visits(clicks: Clicks) -> npt.NDArray[np.bool_]:
    """(n,) True where a click begins a visit."""
    begins: npt.NDArray[np.bool_] = (clicks.gap == 0) | (clicks.gap >= NEW_VISIT)
    return begins


def count_neighbours(clicks: Clicks, weight: F64, items: int, before: Counted | None = None) -> Counted:
    """The items that come right after each item, those that stand near it on either side, within visits; the clicks.

    weight  (n,) how much each click counts, mean 1
    before  of earlier clicks, over the same items: added, each of them for as much as the oldest of these clicks
    """
    scale = float(weight.min(initial=1.0))
    seen = np.bincount(clicks.item, minlength=items + 1)[:items].astype(np.float64)
    if len(clicks) > NEWEST:
        keep = clicks.time_ms >= np.partition(clicks.time_ms, -NEWEST)[-NEWEST]
        clicks, weight = clicks.where(keep), weight[keep]
    visit = np.cumsum(new_visits(clicks) | np.append(True, clicks.user[1:] != clicks.user[:-1]))
    left, right, mass = [], [], []
    for distance in range(1, WINDOW + 1):
        a, b = clicks.item[:-distance], clicks.item[distance:]
        pair = (visit[:-distance] == visit[distance:]) & (a != b) & (a < items) & (b < items)
        left.append(a[pair])
        right.append(b[pair])
        mass.append(weight[distance:][pair] / distance)
    following = _strongest(left[0], right[0], mass[0], items, before and before.following, scale)
    one, two, w = np.concatenate(left), np.concatenate(right), np.concatenate(mass)
    near = _strongest(np.append(one, two), np.append(two, one), np.append(w, w), items, before and before.near, scale)
    return Counted(following, near, seen if before is None else seen + before.clicks)


def _strongest(item: I64, neighbour: I64, mass: F64, items: int, before: Neighbours | None, scale: float) -> Neighbours:
    """Sum the mass of equal pairs, and keep each item's NEIGHBOURS largest; ties to the more popular neighbour.

    before  a table whose pairs are added, times scale; what it cut off adds to the totals only
    """
    cut_off = np.zeros(items)
    if before is not None:
        known = scale * before.share[1:-1] * (before.total[1:-1, None].astype(np.float64) + PRIOR)
        cut_off = np.maximum(0.0, scale * before.total[1:-1] - known.sum(axis=1))
        rows, places = np.nonzero(known)
        item, neighbour = np.append(item, rows), np.append(neighbour, before.items[1 + rows, places])
        mass = np.append(mass, known[rows, places])
    pair, place = np.unique(item * items + neighbour, return_inverse=True)
    total = np.bincount(place, mass, len(pair))
    item, neighbour = pair // items, pair % items
    order = np.lexsort((neighbour, -total, item))
    item, neighbour, total = item[order], neighbour[order], total[order]
    start = np.searchsorted(item, np.arange(items))
    rank = np.arange(len(item)) - start[item]
    of_item = np.bincount(item, total, items) + cut_off
    kept = rank < NEIGHBOURS
    ids = np.zeros((items + 2, NEIGHBOURS), np.int32)
    share = np.zeros((items + 2, NEIGHBOURS), np.float32)
    ids[item[kept] + 1, rank[kept]] = neighbour[kept]
    share[item[kept] + 1, rank[kept]] = total[kept] / (of_item[item[kept]] + PRIOR)
    return Neighbours(ids, share, np.pad(of_item, 1).astype(np.float32))


def memories(clicks: Clicks) -> tuple[I32, I32]:
    """What the state remembers after each click, users from nothing: recent (n, R), visit (n, 1)."""
    count = len(clicks)
    recent = np.zeros((count, REMEMBERED), np.int32)
    for age in range(min(REMEMBERED, count)):
        same = np.append(np.zeros(age, np.bool_), clicks.user[age:] == clicks.user[: count - age])
        recent[same, age] = clicks.item[: count - age][same[age:]] + 1
    begins = new_visits(clicks) | np.append(True, clicks.user[1:] != clicks.user[:-1])
    first = np.maximum.accumulate(np.where(begins, np.arange(count), 0))
    return recent, (np.arange(count) - first + 1).astype(np.int32)[:, None]
