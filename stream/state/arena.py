"""Stores the rows of all users in one array. A row is found by partition and user.

The engine copies rows, works on the copies, and writes them back after the Kafka transaction is committed. Nothing else
writes rows, except recovery. When the worker gets a partition, all rows of the partition are restored from the
changelog. When the worker loses the partition, all its rows are dropped.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.errors import ConfigError
from stream.events import Partition
from stream.state.row import Rows, new_rows

Slots = npt.NDArray[np.intp]
Owner = tuple[Partition, bytes]
"""Identifies a row: the partition of the user's clicks, and the user id in UTF-8."""

INITIAL_SLOTS = 1024
UNUSED = -1
NO_SLOTS: Mapping[bytes, int] = {}


class Ages(NamedTuple):
    """The fields of n used slots that decide whether their users are forgotten.

    slots            (n,) intp, the slots
    clicks, last_ms  (n,) fields of the rows
    newest_ms        (n,) the largest last_ms in the partition of each row
    """

    slots: Slots
    clicks: npt.NDArray[np.uint32]
    last_ms: npt.NDArray[np.int64]
    newest_ms: npt.NDArray[np.int64]


class Arena:
    """Rows of one dtype for one model.

    dtype       the result of row_dtype
    model       the row_mark that every row must have
    next_slot   the slot where the next sweep for forgotten users begins
    """

    def __init__(self, dtype: np.dtype[np.void], model: int) -> None:
        self.dtype = dtype
        self.model = model
        self.next_slot = 0
        self._rows = new_rows(INITIAL_SLOTS, dtype, model)
        self._free = list(range(INITIAL_SLOTS - 1, -1, -1))
        self._slots: dict[Partition, dict[bytes, int]] = {}
        self._keys: list[bytes] = [b""] * INITIAL_SLOTS  # slot -> user id
        self._slot_partition = np.full(INITIAL_SLOTS, UNUSED, np.int32)  # slot -> partition index
        self._partition_index: dict[Partition, int] = {}
        self._partitions: list[Partition] = []  # by partition index
        self._newest_ms = np.zeros(0, np.int64)  # by partition index

    @property
    def capacity(self) -> int:
        """Number of slots, used or free. Free slots are used again, but their memory is never released."""
        return len(self._rows)

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def partitions(self) -> list[Partition]:
        return sorted(self._slots)

    def find(self, owners: Iterable[Owner]) -> list[int | None]:
        """Return the slots of the users; None for a user without a row."""
        found, last, slots = [], None, NO_SLOTS
        for partition, key in owners:
            if partition is not last:  # hashing it for each user is slow
                last, slots = partition, self._slots.get(partition, NO_SLOTS)
            found.append(slots.get(key))
        return found

    def gather(self, slots: Slots) -> Rows:
        """Copy the rows (n,) of these slots (n,) to new memory."""
        return self._rows[slots]

    def scatter(self, owners: Sequence[Owner], rows: Rows) -> None:
        """Write the rows (n,) of n owners. An owner without a row gets a new slot."""
        found = self.find(owners)
        slots = [self._new_slot(*owners[i]) if slot is None else slot for i, slot in enumerate(found)]
        self._rows[slots] = rows
        np.maximum.at(self._newest_ms, self._slot_partition[slots], rows["last_ms"])

    def newest_ms(self, partition: Partition) -> int:
        """Return the largest last_ms that was written to a row of the partition since its restore; 0 = none."""
        index = self._partition_index.get(partition)
        return 0 if index is None else int(self._newest_ms[index])

    def ages(self, start: int, end: int) -> Ages:
        """Return the ages of the rows in the used slots of start <= slot < end."""
        partition, rows = self._slot_partition[start:end], self._rows[start:end]
        used = np.flatnonzero(partition != UNUSED)
        return Ages(start + used, rows["clicks"][used], rows["last_ms"][used], self._newest_ms[partition[used]])

    def owner(self, slot: int) -> Owner:
        """Return the owner of the row in a used slot."""
        return self._partitions[self._slot_partition[slot]], self._keys[slot]

    def remove(self, owners: Iterable[Owner]) -> None:
        """Remove the rows of these owners. Their slots become free."""
        self._release(
            [slot for partition, key in owners if (slot := self._slots[partition].pop(key, None)) is not None]
        )

    def rows(self, partition: Partition) -> dict[bytes, bytes]:
        """Return all rows of a partition as changelog key -> changelog value."""
        return {key: self._rows[slot].tobytes() for key, slot in self._slots.get(partition, {}).items()}

    def restore(self, partition: Partition, rows: Mapping[bytes, bytes]) -> None:
        """Replace all rows of a partition by these rows, changelog key -> changelog value.

        Raises ConfigError if a row was written with another model or another row layout.
        """
        self.drop(partition)
        self._slots[partition] = {}
        for value in rows.values():
            if len(value) != self.dtype.itemsize:
                raise ConfigError(
                    f"a row in the changelog of partition {partition} has {len(value)} bytes, but a row of this model "
                    f"has {self.dtype.itemsize} bytes; start with the model and the Eddy version that wrote the "
                    "changelog, or set another --changelog-topic and --group"
                )
        if not rows:
            return
        restored = np.frombuffer(b"".join(rows.values()), self.dtype)
        if (restored["model"] != self.model).any():
            raise ConfigError(
                f"the changelog of partition {partition} was written with another model or another Eddy version; start "
                "with that model and version, or set another --changelog-topic and --group"
            )
        self.scatter([(partition, key) for key in rows], restored)

    def drop(self, partition: Partition) -> None:
        """Remove all rows of a partition and its newest time. The slots become free."""
        self._release(list(self._slots.pop(partition, {}).values()))
        if partition in self._partition_index:
            self._newest_ms[self._partition_index[partition]] = 0

    def _release(self, slots: list[int]) -> None:
        self._slot_partition[slots] = UNUSED
        for slot in slots:
            self._keys[slot] = b""
        self._free.extend(slots)

    def _new_slot(self, partition: Partition, key: bytes) -> int:
        if not self._free:
            self._grow()
        slot = self._slots.setdefault(partition, {})[key] = self._free.pop()
        self._keys[slot], self._slot_partition[slot] = key, self._index_of(partition)
        return slot

    def _index_of(self, partition: Partition) -> int:
        index = self._partition_index.setdefault(partition, len(self._partition_index))
        if index == len(self._newest_ms):
            self._partitions.append(partition)
            self._newest_ms = np.append(self._newest_ms, 0)
        return index

    def _grow(self) -> None:
        old = len(self._rows)
        self._rows = np.concatenate([self._rows, new_rows(old, self.dtype, self.model)])
        self._free.extend(range(2 * old - 1, old - 1, -1))
        self._keys += [b""] * old
        self._slot_partition = np.append(self._slot_partition, np.full(old, UNUSED, np.int32))
