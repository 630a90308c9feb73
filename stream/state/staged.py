"""Holds copies of the rows that a cycle changes, until the Kafka transaction is committed.

The engine updates the copies. `commit` writes them to the arena. If the transaction was rolled back, the copies are
dropped, and the arena is unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream.events import Partition
from stream.state.arena import Arena, Owner
from stream.state.evict import Swept
from stream.state.row import Rows, new_rows


@dataclass(frozen=True)
class Staged:
    """The changed rows of m users, and the users whose rows will be removed. The arena is not changed yet.

    owners  (m,) the owners of the rows, each once
    rows    (m,) of the arena's dtype, in their own memory
    swept   the users whose rows will be removed. None of them is in `owners`
    """

    owners: Sequence[Owner]
    rows: Rows
    swept: Swept

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


def stage(arena: Arena, owners: Sequence[Owner]) -> Staged:
    """Copy the rows of these users, with no users to remove. A user without a row gets a new one."""
    found = arena.find(owners)
    known = [i for i, slot in enumerate(found) if slot is not None]
    rows = new_rows(len(owners), arena.dtype, arena.model)
    rows[known] = arena.gather(np.array([found[i] for i in known], np.intp))
    return Staged(owners, rows, Swept((), arena.next_slot))
