"""All users' rows in one array, found by (partition, user).

The engine copies rows out, works on the copies, and puts them back once Kafka has them; nothing else writes here. A
partition that is lost is dropped whole, one that is won is restored whole from the changelog.
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
"""Whose row it is: the partition its clicks are in, and the user id in UTF-8."""

FIRST_SLOTS = 1024
NO_HOME = -1


class Ages(NamedTuple):
    """Used slots (n,), their rows' clicks and last_ms (n,), and the largest last_ms of each one's partition (n,)."""

    slots: Slots
    clicks: npt.NDArray[np.uint32]
    last_ms: npt.NDArray[np.int64]
    newest_ms: npt.NDArray[np.int64]


class Arena:
    """Rows of one dtype for one model.

    dtype  from row_dtype
    model  the row_mark that every row must carry
    hand   the slot at which the next sweep for forgotten users begins
    """

    def __init__(self, dtype: np.dtype[np.void], model: int) -> None:
        self.dtype = dtype
        self.model = model
        self.hand = 0
        self._rows = new_rows(FIRST_SLOTS, dtype, model)
        self._free = list(range(FIRST_SLOTS - 1, -1, -1))
        self._slots: dict[Partition, dict[bytes, int]] = {}
        self._keys: list[bytes] = [b""] * FIRST_SLOTS  # whose slot it is: a user's key, and the number of a partition
        self._home = np.full(FIRST_SLOTS, NO_HOME, np.int32)
        self._numbers: dict[Partition, int] = {}
        self._places: list[Partition] = []  # by number
        self._newest_ms = np.zeros(0, np.int64)  # by a partition's number

    @property
    def capacity(self) -> int:
        """Slots there are, used or not. They are used again, and never given back to the system."""
        return len(self._rows)

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
        np.maximum.at(self._newest_ms, self._home[slots], rows["last_ms"])

    def newest_ms(self, partition: Partition) -> int:
        """The largest last_ms that a row of the partition has had here; 0 for none."""
        number = self._numbers.get(partition)
        return 0 if number is None else int(self._newest_ms[number])

    def ages(self, start: int, end: int) -> Ages:
        """What the rows of the slots start <= slot < end say of their users' clicks and times."""
        home, rows = self._home[start:end], self._rows[start:end]
        used = np.flatnonzero(home != NO_HOME)
        return Ages(start + used, rows["clicks"][used], rows["last_ms"][used], self._newest_ms[home[used]])

    def owner(self, slot: int) -> Owner:
        """Whose row a used slot holds."""
        return self._places[self._home[slot]], self._keys[slot]

    def remove(self, owners: Iterable[Owner]) -> None:
        """Give up the rows of these owners; their slots are used again."""
        self._release(
            [slot for partition, key in owners if (slot := self._slots[partition].pop(key, None)) is not None]
        )

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
        """Forget a partition's rows and its newest time; their slots are used again."""
        self._release(list(self._slots.pop(partition, {}).values()))
        if partition in self._numbers:
            self._newest_ms[self._numbers[partition]] = 0

    def _release(self, slots: list[int]) -> None:
        self._home[slots] = NO_HOME
        for slot in slots:
            self._keys[slot] = b""
        self._free.extend(slots)

    def _slot(self, partition: Partition, key: bytes) -> int:
        slots = self._slots.setdefault(partition, {})
        slot = slots.get(key)
        if slot is None:
            if not self._free:
                self._grow()
            slot = slots[key] = self._free.pop()
            self._keys[slot], self._home[slot] = key, self._number(partition)
        return slot

    def _number(self, partition: Partition) -> int:
        number = self._numbers.setdefault(partition, len(self._numbers))
        if number == len(self._newest_ms):
            self._places.append(partition)
            self._newest_ms = np.append(self._newest_ms, 0)
        return number

    def _grow(self) -> None:
        old = len(self._rows)
        self._rows = np.concatenate([self._rows, new_rows(old, self.dtype, self.model)])
        self._free.extend(range(2 * old - 1, old - 1, -1))
        self._keys += [b""] * old
        self._home = np.append(self._home, np.full(old, NO_HOME, np.int32))
