"""The last clicks of each user, in the user's row: item, event type, price, and the time since the click before.

Items and event types are kept as hashes of their names, and not as indices of one model's vocabulary. So a later model
can step the same clicks again, and a request can ask which of them a recommendation comes from.

The rule that must not break: what a row remembers depends only on the user's clicks, never on the batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from stream.detect.windows import LATE, NO_GAP, Bools
from stream.manifest import Tensor
from stream.settings import RECENT_ITEMS
from stream.state.row import Index, Rows

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
U64 = npt.NDArray[np.uint64]

PAST = Tensor("past", (RECENT_ITEMS, 4), "uint32")
"""The field of a row, newest first: the item's hash, low and high half; the event type's hash and the gap, 16 bits
each; and the bits of the price as a float32. All zeros where the user has made no click."""

PER_LOG = 3_000
"""A gap is kept as the logarithm of 1 + its ms in this part of a nat: an error of at most 0.02 %."""

NO_GAP_CODE, LATE_CODE, LARGEST_GAP_CODE = 0xFFFF, 0xFFFE, 0xFFFD
"""The largest gap is 35 days; a longer one is kept as this."""


class Names(NamedTuple):
    """The hashes of the names in n clicks.

    item        (n,) uint64
    event_type  (n,) uint16
    """

    item: U64
    event_type: U16

    def take(self, which: Index) -> "Names":
        """Select the clicks at the positions `which`."""
        return Names(self.item[which], self.event_type[which])


class Past(NamedTuple):
    """The last N clicks of one user that the row remembers, oldest first.

    names   hashes of the N items and event types
    gap_ms  (N,) int64, time since the user's click before; NO_GAP for a user's first click, LATE for a late one
    price   (N,) float32, 0 = none
    """

    names: Names
    gap_ms: I64
    price: F32


def item_hashes(ids: Sequence[str]) -> U64:
    """The 64-bit hashes (n,) of item ids."""
    return np.array([xxh3_64_intdigest(text.encode()) for text in ids], np.uint64)


def type_hashes(names: Sequence[str]) -> U16:
    """The 16-bit hashes (n,) of event types; a shop has few of them, so two with one hash are unlikely."""
    known: dict[str, int] = {}
    for name in names:
        if name not in known:
            known[name] = xxh3_64_intdigest(name.encode()) & 0xFFFF
    return np.array([known[name] for name in names], np.uint16)


def type_indices(hashes: U16, known: U16) -> I64:
    """The index (n,) of each hash (n,) among those of the known event types (T,); T = it is none of them."""
    same = hashes[:, None] == known
    return np.where(same.any(1), same.argmax(1), len(known)) if len(known) else np.zeros(len(hashes), np.int64)


def remember(
    before: U32, rows: Rows, owner: Index, names: Names, price: F32 | None, gap_ms: I64, clicks_before: I64
) -> Bools:
    """Add n clicks to what the m rows of their users remember. Returns (n,) whether each click is on the item of the
    user's click before.

    before  (m, RECENT_ITEMS, 4) uint32, the field PAST of the rows before the batch
    rows    (m,) the rows after it: PAST is written, and `clicks` is read
    owner   (n,) intp, index of each click's user; the clicks of a user are in order
    price   (n,) as in Past; None if no click has one
    gap_ms  (n,) int64, as in Past
    clicks_before  (n,) int64, number of earlier clicks of the user; 0 = the user begins (again)
    """
    if not len(owner):
        return np.zeros(0, np.bool_)
    entries = np.empty((len(owner), 4), np.uint32)
    entries[:, 0], entries[:, 1] = names.item & np.uint64(0xFFFFFFFF), names.item >> np.uint64(32)
    entries[:, 2] = names.event_type.astype(np.uint32) << np.uint32(16) | _codes(gap_ms)
    entries[:, 3] = 0 if price is None else price.view(np.uint32)
    counts = np.bincount(owner, minlength=len(rows))
    by_user = owner.argsort(kind="stable")
    user = owner[by_user]
    back = counts.cumsum()[user] - 1 - np.arange(len(owner))  # 0 = the newest click of the user
    at = np.arange(RECENT_ITEMS)
    after = np.take_along_axis(before, np.maximum(at - counts[:, None], 0)[:, :, None], 1)
    kept = back < RECENT_ITEMS
    after[user[kept], back[kept]] = entries[by_user[kept]]
    after[at >= rows["clicks"][:, None]] = 0  # a user who was forgotten within the batch has begun again
    rows[PAST.name] = after

    its = names.item[by_user]
    previous = np.append(np.uint64(0), its[:-1])
    first = np.append(True, user[1:] != user[:-1])
    previous[first] = _items(before[user[first], 0])
    same = np.empty(len(owner), np.bool_)
    same[by_user] = its == previous
    return same & (clicks_before > 0)


def new_items(before: U32, owner: Index, first: Bools, item: U64, back: I64) -> Bools:
    """True (n,) where the item of a click is that of none of the `back` clicks of the user before it.

    before  (m, RECENT_ITEMS, 4) uint32, as in `remember`
    owner   (n,) intp, index of each click's user. The clicks are in the order of the users, and of each user in time
    first   (n,) bool, the user's first click among the n
    item    (n,) uint64, hashes of the items
    back    (n,) at least 0. Where it is RECENT_ITEMS or more, the result is False: the row does not remember so many
    """
    found: Bools = back < RECENT_ITEMS
    looks = np.flatnonzero(found & (back > 0))
    if not len(looks):
        return found
    since_first = looks - np.maximum.accumulate(np.where(first, np.arange(len(owner)), 0))[looks]
    low = (item & np.uint64(0xFFFFFFFF)).astype(np.uint32)  # enough for so few clicks
    back = back[looks]
    in_row = before[owner[looks], : int(back.max()), 0] == low[looks, None]
    known = (in_row & (np.arange(in_row.shape[1]) < (back - since_first)[:, None])).any(1)
    again = np.flatnonzero(since_first)  # those with clicks of the same user before them among the n
    if len(again):
        here = np.minimum(back, since_first)[again]
        age, at = np.arange(1, int(here.max()) + 1), looks[again]
        same = low[np.maximum(at[:, None] - age, 0)] == low[at, None]
        known[again] |= (same & (age <= here[:, None])).any(1)
    found[looks] = ~known
    return found


def past_of(row: np.void) -> Past:
    """What a row remembers."""
    return read(row[PAST.name][: int(row["clicks"])][::-1])


def read(entries: U32) -> Past:
    """What entries (..., 4) of PAST are: item, event_type, gap_ms and price have the shape (...)."""
    event_type, code = (entries[..., 2] >> np.uint32(16)).astype(np.uint16), entries[..., 2] & np.uint32(0xFFFF)
    gap_ms = np.rint(np.expm1(code / PER_LOG)).astype(np.int64)
    gap_ms[code == NO_GAP_CODE], gap_ms[code == LATE_CODE] = NO_GAP, LATE
    return Past(Names(_items(entries), event_type), gap_ms, entries[..., 3].view(np.float32))


def _items(entries: U32) -> U64:
    """The item hashes (...) in entries (..., 4) of PAST."""
    return entries[..., 0].astype(np.uint64) | entries[..., 1].astype(np.uint64) << np.uint64(32)


def _codes(gap_ms: I64) -> U32:
    logs = np.log1p(np.maximum(gap_ms, 0)) * PER_LOG
    codes: U32 = np.minimum(np.rint(logs), LARGEST_GAP_CODE).astype(np.uint32)
    codes[gap_ms == NO_GAP], codes[gap_ms == LATE] = NO_GAP_CODE, LATE_CODE
    return codes
