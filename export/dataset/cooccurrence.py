"""Clicks -> what the mixture counts, for all clicks of a log at once.

Neighbours are counted within visits only, newer clicks for more where popularity passes.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from export.arrays import F32, F64, I32, I64, Flags
from export.dataset.windows import Clicks
from export.log.log import GAP_EDGES_MS
from stream.engine.step import SESSION_GAP_MS, gap_bucket

WINDOW = 10
"""Clicks of a visit are neighbours up to this distance, with weight 1 / distance."""

PRIOR = 1.0
"""Clicks that an item's neighbours must outweigh: the network's share where little was counted."""

NEWEST = 5_000_000
"""Clicks that are counted, the newest ones: older ones hardly move a share, and pairs cost time."""

PAIRS = 2_000_000
"""Pairs that are summed at a time, about, all of the same items; one takes some 60 bytes."""

NEIGHBOURS = 64
"""Kept for each item, the strongest. Measured: 100 is no better."""

NEW_VISIT = int(gap_bucket(np.array([SESSION_GAP_MS]), np.array([False]), GAP_EDGES_MS)[0])
"""The bucket of the shortest gap that starts a session; longer gaps have this bucket or a higher one."""


class Neighbours(NamedTuple):
    """The strongest neighbours of each item: row 0 is no item, row i + 1 item i, row V + 1 the unknown item.

    items  (V + 2, K) int32
    share  (V + 2, K) float32, of the item's neighbours; rows sum to less than 1, by PRIOR and what was cut off
    total  (V + 2,) float32, how much was counted for the item, what was cut off among it
    """

    items: I32
    share: F32
    total: F32


class Counted(NamedTuple):
    """What a model has counted of its clicks: the two tables, and the clicks (V,) float64 of each item."""

    following: Neighbours
    near: Neighbours
    clicks: F64


def new_visits(clicks: Clicks) -> Flags:
    """(n,) True where a click begins a visit; a user's first one does, whatever its gap to one that was left out."""
    begins: Flags = (clicks.gap == 0) | (clicks.gap >= NEW_VISIT)
    begins |= np.append(True, clicks.user[1:] != clicks.user[:-1])
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
    visit = np.cumsum(new_visits(clicks), dtype=np.int32)
    following, near = _no_neighbours(items), _no_neighbours(items)
    by_item = np.argsort(clicks.item, kind="stable")
    bound = np.searchsorted(clicks.item[by_item], np.arange(items + 1))
    part = bound[:-1] // (PAIRS // (2 * WINDOW))
    for low, high in pairwise([*np.flatnonzero(np.diff(part, prepend=-1)).tolist(), items]):
        rows = np.sort(by_item[bound[low] : bound[high]])
        after = [_pairs(clicks.item, items, visit, weight, rows, distance) for distance in range(1, WINDOW + 1)]
        ahead = [_pairs(clicks.item, items, visit, weight, rows, -distance) for distance in range(1, WINDOW + 1)]
        _strongest(following, low, high, after[:1], before and before.following, scale)
        _strongest(near, low, high, after + ahead, before and before.near, scale)
    return Counted(following, near, seen if before is None else seen + before.clicks)


Pairs = tuple[I64, I64, F64]
"""m items, a neighbour of each, and what it counts."""


def _no_neighbours(items: int) -> Neighbours:
    ids, share = np.zeros((items + 2, NEIGHBOURS), np.int32), np.zeros((items + 2, NEIGHBOURS), np.float32)
    return Neighbours(ids, share, np.zeros(items + 2, np.float32))


def _pairs(item: I32, items: int, visit: I32, weight: F64, rows: I64, distance: int) -> Pairs:
    """The clicks at `rows` with those of known items so many clicks later in the same visit, or earlier if negative."""
    rows = rows[(rows + distance >= 0) & (rows + distance < len(item))]
    other = rows + distance
    pair = (visit[rows] == visit[other]) & (item[rows] != item[other]) & (item[other] < items)
    rows, other = rows[pair], other[pair]
    return item[rows].astype(np.int64), item[other].astype(np.int64), weight[np.maximum(rows, other)] / abs(distance)


def _strongest(
    table: Neighbours, low: int, high: int, pairs: list[Pairs], before: Neighbours | None, scale: float
) -> None:
    """Sum the mass of equal pairs of the items low .. high - 1, and write each one's NEIGHBOURS largest to the table.

    Ties go to the more popular neighbour.
    before  a table whose pairs are added, times scale; what it cut off adds to the totals only
    """
    item, neighbour, mass = (np.concatenate(column) for column in zip(*pairs, strict=True))
    items = len(table.total) - 2
    cut_off = np.zeros(high - low)
    if before is not None:
        share, of_item = before.share[1 + low : 1 + high], before.total[1 + low : 1 + high].astype(np.float64)
        known = scale * share * (of_item[:, None] + PRIOR)
        cut_off = np.maximum(0.0, scale * of_item - known.sum(axis=1))
        rows, places = np.nonzero(known)
        item, neighbour = np.append(item, low + rows), np.append(neighbour, before.items[1 + low + rows, places])
        mass = np.append(mass, known[rows, places])
    pair, place = np.unique(item * items + neighbour, return_inverse=True)
    total = np.bincount(place, mass, len(pair))
    item, neighbour = pair // items, pair % items
    order = np.lexsort((neighbour, -total, item))
    item, neighbour, total = item[order], neighbour[order], total[order]
    rank = np.arange(len(item)) - np.searchsorted(item, np.arange(low, high))[item - low]
    of_item = np.bincount(item - low, total, high - low) + cut_off
    kept = rank < NEIGHBOURS
    table.items[item[kept] + 1, rank[kept]] = neighbour[kept]
    table.share[item[kept] + 1, rank[kept]] = total[kept] / (of_item[item[kept] - low] + PRIOR)
    table.total[1 + low : 1 + high] = of_item
