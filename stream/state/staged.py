"""Holds copies of the rows that a cycle changes, until the Kafka transaction is committed.

The engine updates the copies. `commit` writes them to the arena. If the transaction was rolled back, the copies are
dropped, and the arena is unchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stream.events import Partition
from stream.state.arena import Arena, Owner, Totals
from stream.state.checksum import seal
from stream.state.evict import Swept
from stream.state.row import Rows, new_rows

CHECKSUMS = 1 << 64


@dataclass(frozen=True)
class Staged:
    """The changed rows of m users, and the users whose rows will be removed. The arena is not changed yet.

    owners  (m,) the owners of the rows, each once
    rows    (m,) of the arena's dtype, in their own memory, with their checksums
    swept   the users whose rows will be removed. None of them is in `owners`
    totals  partition -> its totals after the commit, for each partition of a changed or removed row
    """

    owners: Sequence[Owner]
    rows: Rows
    swept: Swept
    totals: Mapping[Partition, Totals]

    @property
    def changelog(self) -> list[tuple[Partition, bytes, bytes | None]]:
        """(partition, changelog key, changelog value) of each user, in the order of the owners, then the removed users.

        The value of a removed user is None, a tombstone.
        """
        size, data = self.rows.dtype.itemsize, self.rows.tobytes()
        changed = ((p, key, data[i * size : (i + 1) * size]) for i, (p, key) in enumerate(self.owners))
        return [*changed, *((p, key, None) for p, key in self.swept.owners)]

    def commit(self, arena: Arena) -> None:
        """Write the rows to the arena and remove the swept users. Call it after the transaction is committed."""
        arena.scatter(self.owners, self.rows)
        arena.remove(self.swept.owners)
        arena.next_slot = self.swept.next_slot


def copies(arena: Arena, owners: Sequence[Owner]) -> Rows:
    """Copy the rows (m,) of these users. A user without a row gets a new one."""
    found = arena.find(owners)
    known = [i for i, slot in enumerate(found) if slot is not None]
    rows = new_rows(len(owners), arena.dtype, arena.model)
    rows[known] = arena.gather(np.array([found[i] for i in known], np.intp))
    return rows


def stage(arena: Arena, owners: Sequence[Owner], rows: Rows, swept: Swept) -> Staged:
    """Write the checksums into the changed rows (m,) of these users, and compute the totals of their partitions."""
    seal([key for _, key in owners], rows)
    new = [*rows["checksum"].tolist(), *[None] * len(swept.owners)]
    changed = [*owners, *swept.owners]
    sums: dict[Partition, list[int]] = {}
    last, total = None, [0, 0]
    for (partition, _), old, checksum in zip(changed, arena.checksums(changed), new, strict=True):
        if partition is not last:  # hashing it for each user is slow
            last, total = partition, sums.setdefault(partition, [0, 0])
        total[0] += (checksum is not None) - (old is not None)
        total[1] += (checksum or 0) - (old or 0)
    totals: dict[Partition, Totals] = {}
    for partition, (users, checksum) in sums.items():
        before = arena.totals(partition)
        totals[partition] = Totals(before.users + users, (before.checksum + checksum) % CHECKSUMS)
    return Staged(owners, rows, swept, totals)
