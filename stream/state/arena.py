"""All users' rows in one array, found by (partition, user).

The engine copies rows out, works on the copies, and puts them back once Kafka has them; nothing else writes here. A
partition that is lost is dropped whole, one that is won is restored whole from the changelog.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from stream.errors import ConfigError
from stream.events import Partition
from stream.state.row import Rows, new_rows

Slots = npt.NDArray[np.intp]
Owner = tuple[Partition, bytes]
"""Whose row it is: the partition its clicks are in, and the user id in UTF-8."""


class Arena:
    """Rows of one dtype for one model.

    dtype  from row_dtype
    model  the row_mark that every row must carry
    """

    def __init__(self, dtype: np.dtype[np.void], model: int) -> None:
        self.dtype = dtype
        self.model = model
        self._rows = new_rows(1024, dtype, model)
        self._free = list(range(1023, -1, -1))
        self._slots: dict[Partition, dict[bytes, int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def partitions(self) -> list[Partition]:
        return sorted(self._slots)

    def find(self, partition: Partition, key: bytes) -> int | None:
        """The user's slot, or None for a user never seen here."""
        slots = self._slots.get(partition)
        return None if slots is None else slots.get(key)

    def gather(self, slots: Slots) -> Rows:
        """(n,) slots -> (n,) rows, new memory."""
        return self._rows[slots]

    def scatter(self, owners: Sequence[Owner], rows: Rows) -> None:
        """Put the rows of these owners in place, in new slots for new users."""
        slots = np.fromiter((self._slot(partition, key) for partition, key in owners), np.intp, len(owners))
        self._rows[slots] = rows

    def rows(self, partition: Partition) -> dict[bytes, bytes]:
        """Every row of a partition as changelog key -> value."""
        return {key: self._rows[slot].tobytes() for key, slot in self._slots.get(partition, {}).items()}

    def restore(self, partition: Partition, rows: Mapping[bytes, bytes]) -> None:
        """Replace a partition's rows by these changelog values. Raises ConfigError on another model's or layout's."""
        self.drop(partition)
        self._slots[partition] = {}
        for value in rows.values():
            if len(value) != self.dtype.itemsize:
                raise ConfigError(
                    f"the changelog's row of partition {partition} has {len(value)} bytes, this model's rows have "
                    f"{self.dtype.itemsize}; start with the model and the Eddy that wrote it, or give another "
                    "--changelog-topic and --group"
                )
        if not rows:
            return
        restored = np.frombuffer(b"".join(rows.values()), self.dtype)
        if (restored["model"] != self.model).any():
            raise ConfigError(
                f"the changelog of partition {partition} was written under another model or another Eddy; start with "
                "that one, or give another --changelog-topic and --group"
            )
        self.scatter([(partition, key) for key in rows], restored)

    def drop(self, partition: Partition) -> None:
        """Forget a partition's rows; their slots are used again."""
        self._free.extend(self._slots.pop(partition, {}).values())

    def _slot(self, partition: Partition, key: bytes) -> int:
        slots = self._slots.setdefault(partition, {})
        slot = slots.get(key)
        if slot is None:
            if not self._free:
                self._grow()
            slot = slots[key] = self._free.pop()
        return slot

    def _grow(self) -> None:
        old = len(self._rows)
        self._rows = np.concatenate([self._rows, new_rows(old, self.dtype, self.model)])
        self._free.extend(range(2 * old - 1, old - 1, -1))
