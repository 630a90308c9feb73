"""Co-occurrence counts for the mixture: clicks -> the strongest neighbours of each item, and its click count.

Neighbours are counted within sessions only. With a recency correction, newer clicks have a higher weight.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from export.arrays import F32, F64, I32, I64, Flags
from export.dataset.windows import Clicks
from export.log.log import GAP_EDGES_MS
from stream.model.gaps import SESSION_GAP_MS, gap_bucket

WINDOW = 10
"""Maximum distance, in clicks of one session, of two neighbours. Their weight is 1 / distance."""

PRIOR = 1.0
"""Smoothing: added to the total weight of an item, so that neighbours of an item with few clicks get a small share."""

NEWEST = 5_000_000
"""Maximum clicks that are counted, the newest ones. Older clicks change shares little, and pairs cost time."""

PAIRS = 2_000_000
"""Approximate pairs summed per pass over a range of items; a pair needs about 60 bytes of memory."""

NEIGHBOURS = 64
"""Neighbours kept per item, the strongest ones. Measured: 100 gives no better lists."""

NEW_SESSION = int(gap_bucket(np.array([SESSION_GAP_MS]), np.array([False]), GAP_EDGES_MS)[0])
"""Gap bucket of the shortest gap that starts a session; longer gaps have this bucket or a higher one."""


class Neighbours(NamedTuple):
    """The K strongest neighbours of each item. Row 0 means "no item", row i + 1 is item i, row V + 1 the unknown item.

    items  (V + 2, K) int32, item indices of the neighbours
    share  (V + 2, K) float32, the neighbour's part of the item's total weight. A row sums to less than 1, because the
           total weight includes PRIOR and the neighbours that are not kept
    total  (V + 2,) float32, total weight of the item: all its neighbours, also those that are not kept, without PRIOR
    """

    items: I32
    share: F32
    total: F32


class Counted(NamedTuple):
    """The co-occurrence counts of a model.

    following  neighbours that come directly after the item
    near       neighbours within WINDOW clicks, before or after the item
    clicks     (V,) float64, clicks of each item
    """

    following: Neighbours
    near: Neighbours
    clicks: F64


def session_starts(clicks: Clicks) -> Flags:
    """(n,) bool, True where a click begins a session.

    The first click of a user here always does: its gap may refer to an earlier click that is not among these clicks.
    """
    begins: Flags = (clicks.gap == 0) | (clicks.gap >= NEW_SESSION)
    begins |= np.append(True, clicks.user[1:] != clicks.user[:-1])
    return begins


def count_neighbours(clicks: Clicks, weight: F64, items: int, before: Counted | None = None) -> Counted:
    """Count the neighbours and clicks of each item.

    weight  (n,) float64, weight of each click, mean 1
    items   V
    before  counts of an older model, over the same items; they are added with the weight of the oldest of these clicks
    """
    scale = float(weight.min(initial=1.0))
    seen = np.bincount(clicks.item, minlength=items + 1)[:items].astype(np.float64)
    if len(clicks) > NEWEST:
        keep = clicks.time_ms >= np.partition(clicks.time_ms, -NEWEST)[-NEWEST]
        clicks, weight = clicks.where(keep), weight[keep]
    session = np.cumsum(session_starts(clicks), dtype=np.int32)
    following, near = _no_neighbours(items), _no_neighbours(items)
    by_item = np.argsort(clicks.item, kind="stable")
    bound = np.searchsorted(clicks.item[by_item], np.arange(items + 1))
    part = bound[:-1] // (PAIRS // (2 * WINDOW))
    for low, high in pairwise([*np.flatnonzero(np.diff(part, prepend=-1)).tolist(), items]):
        rows = np.sort(by_item[bound[low] : bound[high]])
        after = [_pairs(clicks.item, items, session, weight, rows, distance) for distance in range(1, WINDOW + 1)]
        ahead = [_pairs(clicks.item, items, session, weight, rows, -distance) for distance in range(1, WINDOW + 1)]
        _strongest(following, low, high, after[:1], before and before.following, scale)
        _strongest(near, low, high, after + ahead, before and before.near, scale)
    return Counted(following, near, seen if before is None else seen + before.clicks)


Pairs = tuple[I64, I64, F64]
"""m pairs: item (m,), its neighbour (m,), and the weight of the pair (m,)."""


def _no_neighbours(items: int) -> Neighbours:
    ids, share = np.zeros((items + 2, NEIGHBOURS), np.int32), np.zeros((items + 2, NEIGHBOURS), np.float32)
    return Neighbours(ids, share, np.zeros(items + 2, np.float32))


def _pairs(item: I32, items: int, session: I32, weight: F64, rows: I64, distance: int) -> Pairs:
    """Pairs of the clicks at `rows` with the click `distance` clicks later in the same session; negative = earlier.

    Pairs with the unknown item as neighbour and pairs of an item with itself are left out.
    """
    rows = rows[(rows + distance >= 0) & (rows + distance < len(item))]
    other = rows + distance
    pair = (session[rows] == session[other]) & (item[rows] != item[other]) & (item[other] < items)
    rows, other = rows[pair], other[pair]
    return item[rows].astype(np.int64), item[other].astype(np.int64), weight[np.maximum(rows, other)] / abs(distance)


def _strongest(
    table: Neighbours, low: int, high: int, pairs: list[Pairs], before: Neighbours | None, scale: float
) -> None:
    """Sum equal pairs of the items low .. high - 1, and write the NEIGHBOURS strongest neighbours of each to the table.

    Of neighbours with equal weight, the more popular one ranks first.

    before  table of an older model, added with weight `scale`. The weight of the neighbours that it did not keep is
            added to `total` only
    """
    item, neighbour, weight = (np.concatenate(column) for column in zip(*pairs, strict=True))
    items = len(table.total) - 2
    cut_off = np.zeros(high - low)
    if before is not None:
        share, of_item = before.share[1 + low : 1 + high], before.total[1 + low : 1 + high].astype(np.float64)
        known = scale * share * (of_item[:, None] + PRIOR)
        cut_off = np.maximum(0.0, scale * of_item - known.sum(axis=1))
        rows, columns = np.nonzero(known)
        item, neighbour = np.append(item, low + rows), np.append(neighbour, before.items[1 + low + rows, columns])
        weight = np.append(weight, known[rows, columns])
    pair, index = np.unique(item * items + neighbour, return_inverse=True)
    total = np.bincount(index, weight, len(pair))
    item, neighbour = pair // items, pair % items
    order = np.lexsort((neighbour, -total, item))
    item, neighbour, total = item[order], neighbour[order], total[order]
    rank = np.arange(len(item)) - np.searchsorted(item, np.arange(low, high))[item - low]
    of_item = np.bincount(item - low, total, high - low) + cut_off
    kept = rank < NEIGHBOURS
    table.items[item[kept] + 1, rank[kept]] = neighbour[kept]
    table.share[item[kept] + 1, rank[kept]] = total[kept] / (of_item[item[kept] - low] + PRIOR)
    table.total[1 + low : 1 + high] = of_item
