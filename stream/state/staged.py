"""Copies of the rows that a cycle's clicks touch, until Kafka has them.

The engine steps the copies. `commit` puts them into the arena; a cycle whose transaction was rolled back is dropped,
and the arena is as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stream.events import Partition
from stream.state.arena import Arena, Owner
from stream.state.row import Rows, new_rows


@dataclass(frozen=True)
class Staged:
    """m users' rows that are not in place yet.

    owners  whose rows they are, each once
    rows    (m,) of the arena's dtype, own memory
    """

    owners: Sequence[Owner]
    rows: Rows

    @property
    def changelog(self) -> list[tuple[Partition, bytes, bytes]]:
        """(partition, changelog key, changelog value) of every user, in the owners' order."""
        size, data = self.rows.dtype.itemsize, self.rows.tobytes()
        return [(p, key, data[i * size : (i + 1) * size]) for i, (p, key) in enumerate(self.owners)]

    def commit(self, arena: Arena) -> None:
        """Put the rows in place: Kafka has them."""
        arena.scatter(self.owners, self.rows)


def stage(arena: Arena, owners: Sequence[Owner]) -> Staged:
    """Copies of these users' rows; a user who is not in the arena gets a new row."""
    found = [arena.find(partition, key) for partition, key in owners]
    known = [i for i, slot in enumerate(found) if slot is not None]
    rows = new_rows(len(owners), arena.dtype, arena.model)
    rows[known] = arena.gather(np.array([found[i] for i in known], np.intp))
    return Staged(owners, rows)
