"""Keeps the hashes of each user's last event ids, so that a click that was sent twice is applied once.

The hashes are not a field of the row, because most shops send no event ids: in memory they are in blocks of their own,
which exist only where a user has one, and in the changelog they follow the row, eight bytes each.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_64_intdigest

from stream.state.blocks import Block, NewBlock, by_block, in_ram

LAST_IDS = 16
"""How many event ids of a user are kept. A producer's retry comes within a few clicks."""

ID_BYTES = 8
LONGEST_BYTES = LAST_IDS * ID_BYTES
SIZES = range(0, LONGEST_BYTES + 1, ID_BYTES)
"""How many bytes may follow a row in the changelog."""

NO_ID = 0
HASHES = np.dtype((np.uint64, (LAST_IDS,)))

Hashes = npt.NDArray[np.uint64]
Index = npt.NDArray[np.intp]


def hashed_ids(event_ids: Sequence[str | None]) -> Hashes | None:
    """Return the 64-bit hashes (n,) of the event ids, NO_ID for None; None if all are None."""
    if not any(event_ids):
        return None
    return np.array([NO_ID if text is None else xxh3_64_intdigest(text.encode()) or 1 for text in event_ids], np.uint64)


class EventIds:
    """The hashes of the users in the slots of an arena: (LAST_IDS,) uint64 each, newest first, NO_ID = none."""

    def __init__(self, new_block: NewBlock = in_ram) -> None:
        self._new_block = new_block
        self._blocks: dict[int, Block] = {}

    def __bool__(self) -> bool:
        """True if some user had a hash. Then `gather` has to be asked."""
        return bool(self._blocks)

    def gather(self, slots: Index) -> Hashes:
        """Copy the hashes (n, LAST_IDS) of these slots (n,). They are NO_ID for a negative slot."""
        found = np.full((len(slots), LAST_IDS), NO_ID, np.uint64)
        parts = [(self._blocks[n], which, within) for n, which, within in by_block(slots) if n in self._blocks]
        for block, _, within in parts:
            block.will_read(within)
        for block, which, within in parts:
            found[which] = block.values[within]
        return found

    def scatter(self, slots: Index, hashes: Hashes) -> None:
        """Write the hashes (n, LAST_IDS) of n different slots."""
        parts = list(by_block(slots))
        for n, _, within in parts:
            if n in self._blocks:
                self._blocks[n].will_read(within)  # a page has hashes that stay
        for n, which, within in parts:
            if n not in self._blocks:
                if not hashes[which].any():
                    continue
                self._blocks[n] = self._new_block(HASHES)
                self._blocks[n].values[:] = NO_ID
            self._blocks[n].values[within] = hashes[which]

    def clear(self, slots: Sequence[int]) -> None:
        """Remove the hashes of slots that become free."""
        if self._blocks:
            self.scatter(np.array(slots, np.intp), np.full((len(slots), LAST_IDS), NO_ID, np.uint64))


def may_repeat(kept: Hashes, owner: Index, new: Hashes) -> npt.NDArray[np.bool_]:
    """True (n,) where a click's hash may be one of the user's last ones by the time of the click.

    It is false only if the hash is not among those that are kept now, nor among those of the user's earlier clicks.

    kept   (m, LAST_IDS) the hashes of m users
    owner  (n,) the users of n clicks, whose hashes are `new` (n,), in order
    """
    known: npt.NDArray[np.bool_] = (kept[owner] == new[:, None]).any(1)
    order = np.lexsort((new, owner))
    again = (owner[order[1:]] == owner[order[:-1]]) & (new[order[1:]] == new[order[:-1]])
    known[order[1:][again]] = True
    known[new == NO_ID] = False
    return known


def insert(hashes: Hashes, users: Index, new: Hashes) -> None:
    """Insert new hashes (n, N) at the front of the hashes (m, LAST_IDS) of n different users, in place.

    new  newest first; NO_ID = none
    """
    seen = np.concatenate([new, hashes[users]], axis=1)
    newest = np.argsort(seen == NO_ID, axis=1, kind="stable")[:, :LAST_IDS]
    hashes[users] = np.take_along_axis(seen, newest, 1)


def to_bytes(hashes: Hashes) -> list[bytes]:
    """Return what follows each of n rows in the changelog: its hashes without NO_ID, little-endian."""
    data, size = hashes.astype("<u8").tobytes(), LONGEST_BYTES
    lengths = (ID_BYTES * np.count_nonzero(hashes, axis=1)).tolist()
    return [data[size * i : size * i + length] for i, length in enumerate(lengths)]


def from_bytes(rests: Sequence[bytes]) -> Hashes:
    """The inverse of to_bytes: (n, LAST_IDS). Each of the n rests has a possible size."""
    whole = b"".join(rest.ljust(LONGEST_BYTES, b"\0") for rest in rests)
    return np.frombuffer(whole, "<u8").astype(np.uint64).reshape(-1, LAST_IDS)
