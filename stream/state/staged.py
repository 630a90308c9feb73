"""Holds copies of the rows that a cycle changes, until the Kafka transaction is committed.

The engine updates the copies. `commit` writes them to the arena. If the transaction was rolled back, the copies are
dropped, and the arena is unchanged.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.events import Partition
from stream.state.arena import NO_SLOT, Arena, Found, Owner
from stream.state.checksum import Totals, checksums
from stream.state.event_ids import Hashes, to_bytes
from stream.state.evict import Forgetting, Swept, reset_rows
from stream.state.row import Rows, as_bytes, new_rows

CHECKSUMS = 1 << 64
NOTHING: Mapping[Partition, Any] = {}
Checksums = npt.NDArray[np.uint64]


class Staged(NamedTuple):
    """The changed rows of m users, and the users whose rows will be removed. The arena is not changed yet.

    owners     (m,) the owners of the rows, each once
    found      where their rows are in the arena
    rows       (m,) of the arena's dtype, in their own memory, with their checksums
    swept      the users whose rows will be removed. None of them is in `owners`
    totals     partition -> its totals after the commit, for each partition of a changed or removed row
    event_ids  (m, LAST_IDS) the hashes of the owners' event ids; None = no user of the arena has any
    kept       partition -> what is kept of it beside the rows after the commit, for each partition of a changed row
    times      partition -> its time after the commit, ms since the epoch, for each partition of a click
    """

    owners: Sequence[Owner]
    found: Found
    rows: Rows
    swept: Swept
    totals: Mapping[Partition, Totals]
    event_ids: Hashes | None
    kept: Mapping[Partition, bytes]
    times: Mapping[Partition, int]

    @property
    def changelog(self) -> list[tuple[Partition, bytes, bytes | None]]:
        """(partition, changelog key, changelog value) of each user, in the order of the owners, then the removed users.

        The value of a removed user is None, a tombstone.
        """
        size, data = self.rows.dtype.itemsize, self.rows.tobytes()
        changed = [(p, key, data[i * size : (i + 1) * size]) for i, (p, key) in enumerate(self.owners)]
        if self.event_ids is not None:
            changed = [(*row[:2], row[2] + rest) for row, rest in zip(changed, to_bytes(self.event_ids), strict=True)]
        return [*changed, *((p, key, None) for p, key in self.swept.owners)]

    def commit(self, arena: Arena) -> None:
        """Write the rows to the arena and remove the swept users. Call it after the transaction is committed."""
        arena.scatter(self.owners, self.found, self.rows, self.event_ids)
        if self.swept.owners:
            arena.remove(self.swept.owners)
        arena.kept.update(self.kept)
        for partition, time_ms in self.times.items():
            arena.advance(partition, time_ms)
        arena.next_slot, arena.unswept_clicks = self.swept.next_slot, self.swept.clicks


class Early(NamedTuple):
    """Rows that were put in place before Kafka has them, and what was there before.

    staged     the rows
    place      owner of a changed or removed row -> its index here
    known      (m,) whether the owner had a row
    rows       (m,) the rows; new ones of owners without a row
    newest_ms  partition -> its time
    """

    staged: Staged
    place: Mapping[Owner, int]
    known: npt.NDArray[np.bool_]
    rows: Rows
    newest_ms: Mapping[Partition, int]


class Committed:
    """The rows of an arena that Kafka has, while the engine may be further on."""

    def __init__(self, arena: Arena, forgetting: Forgetting) -> None:
        self._arena, self._forgetting = arena, forgetting
        self._early: Early | None = None

    def put_early(self, staged: Staged) -> None:
        """Put rows in place before their transaction is committed: the next batch goes on from them.

        Call `commit` for them, or `give_up`.
        """
        arena, owners = self._arena, [*staged.owners, *staged.swept.owners]
        with arena.lock:
            found = arena.find(owners)
            place = {owner: i for i, owner in enumerate(owners)}
            newest_ms = {partition: arena.newest_ms(partition) for partition in found.partitions}
            self._early = Early(staged, place, found.slots != NO_SLOT, copies(arena, found), newest_ms)
            staged.commit(arena)

    def commit(self, staged: Staged) -> None:
        """Put rows in place whose transaction is committed. Any thread may call it if `put_early` did it."""
        if self._early is None or self._early.staged is not staged:
            staged.commit(self._arena)
        self._early = None

    def give_up(self) -> None:
        """The transaction of the early rows has failed: the arena is of no use for their partitions."""
        self._early = None

    def remembered(self, owners: Sequence[Owner]) -> tuple[npt.NDArray[np.bool_], Rows]:
        """Copy the committed rows of m users. A different thread may call it while it holds the arena's lock.

        Returns which of them have a row and are not forgotten (m,), and the rows (m,), which are new for all others.
        """
        arena, early = self._arena, self._early
        found = arena.find(owners)
        rows, known = copies(arena, found), found.slots != NO_SLOT
        newest_ms = {partition: arena.newest_ms(partition) for partition in found.partitions}
        if early is not None:
            newest_ms |= {p: early.newest_ms[p] for p in newest_ms.keys() & early.newest_ms.keys()}
            for i, place in enumerate(map(early.place.get, owners)):
                if place is not None:
                    known[i], as_bytes(rows)[i] = early.known[place], as_bytes(early.rows)[place]
        now_ms = np.array([newest_ms[partition] for partition, _ in owners], np.int64)
        gone = self._forgetting.forgotten(rows["clicks"], rows["last_ms"], now_ms) & known
        reset_rows(rows, None, np.flatnonzero(gone))
        return known & ~gone, rows


def with_rows(staged: Staged, arena: Arena, owners: Sequence[Owner], rows: Rows | None) -> Staged:
    """The same with the changed rows (n,) of more users, who have a row in the arena; None = there is no such user.

    The rows of those that will be removed are left out.
    """
    if rows is None:
        return staged
    if staged.swept.owners:
        gone = set(staged.swept.owners)
        stay = [i for i, owner in enumerate(owners) if owner not in gone]
        owners, rows = [owners[i] for i in stay], rows[stay]
    event_ids = staged.event_ids
    if event_ids is not None:
        event_ids = np.concatenate([event_ids, arena.event_ids.gather(arena.find(owners).slots)])
    every = np.concatenate([as_bytes(staged.rows), as_bytes(rows)]).view(rows.dtype)
    owners = [*staged.owners, *owners]
    return stage(arena, owners, arena.find(owners), every, staged.swept, event_ids, staged.kept, staged.times)


def copies(arena: Arena, found: Found) -> Rows:
    """Copy the rows (m,) of the users that were looked up. A user without a row gets a new one."""
    known = found.slots != NO_SLOT
    users = np.count_nonzero(known)
    if users == len(known):
        return arena.gather(found.slots)
    rows = new_rows(len(known), arena.dtype, arena.model)
    if users:
        as_bytes(rows)[known] = as_bytes(arena.gather(found.slots[known]))
    return rows


def stage(
    arena: Arena,
    owners: Sequence[Owner],
    found: Found,
    rows: Rows,
    swept: Swept,
    event_ids: Hashes | None = None,
    kept: Mapping[Partition, bytes] = NOTHING,
    times: Mapping[Partition, int] = NOTHING,
) -> Staged:
    """Write the checksums into the changed rows (m,) of these users, and compute the totals of their partitions.

    event_ids, kept, times  as in Staged
    """
    rests = None if event_ids is None else to_bytes(event_ids)
    rows["checksum"] = checksums([key for _, key in owners], rows, rests)
    totals: dict[Partition, Totals] = {}
    _add(totals, arena, found, found.slots == NO_SLOT, rows["checksum"])
    if swept.owners:
        removed = arena.find(swept.owners)
        _add(totals, arena, removed, np.full(len(removed.slots), -1), np.zeros(len(removed.slots), np.uint64))
    return Staged(owners, found, rows, swept, totals, event_ids, kept, times)


def _add(
    totals: dict[Partition, Totals], arena: Arena, found: Found, users: npt.NDArray[np.int64 | np.bool_], new: Checksums
) -> None:
    """Add the changes of m rows to the totals of their partitions.

    users  (m,) change of the number of rows
    new    (m,) the rows' new checksums
    """
    changed = new - arena.checksums(found.slots)  # uint64: modulo 2^64
    for number, partition in enumerate(found.partitions):
        mine = slice(None) if len(found.partitions) == 1 else found.partition == number
        before = totals.get(partition) or arena.totals(partition)
        checksum = (before.checksum + int(changed[mine].sum())) % CHECKSUMS
        totals[partition] = Totals(before.users + int(users[mine].sum()), checksum)
