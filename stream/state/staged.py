"""Copies of the rows that a cycle's clicks touch, until Kafka has them.

The engine steps the copies. `commit` puts them into the arena; a cycle whose transaction was rolled back is dropped,
and the arena is as it was.
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
    """m users' rows that are not in place yet, and the users who leave.

    owners  whose rows they are, each once
    rows    (m,) of the arena's dtype, own memory
    swept   users whose rows are removed, none of the owners
    """

    owners: Sequence[Owner]
    rows: Rows
    swept: Swept

    @property
    def changelog(self) -> list[tuple[Partition, bytes, bytes | None]]:
        """(partition, changelog key, changelog value) of every user, in the owners' order; None for those who leave."""
        size, data = self.rows.dtype.itemsize, self.rows.tobytes()
        changed = ((p, key, data[i * size : (i + 1) * size]) for i, (p, key) in enumerate(self.owners))
        return [*changed, *((p, key, None) for p, key in self.swept.owners)]

    def commit(self, arena: Arena) -> None:
        """Put the rows in place: Kafka has them."""
        arena.scatter(self.owners, self.rows)
        arena.remove(self.swept.owners)
        arena.hand = self.swept.hand


def stage(arena: Arena, owners: Sequence[Owner]) -> Staged:
    """Copies of these users' rows, nobody leaving; a user who is not in the arena gets a new row."""
    found = [arena.find(partition, key) for partition, key in owners]
    known = [i for i, slot in enumerate(found) if slot is not None]
    rows = new_rows(len(owners), arena.dtype, arena.model)
    rows[known] = arena.gather(np.array([found[i] for i in known], np.intp))
    return Staged(owners, rows, Swept((), arena.hand))
