"""Stores the rows of all users in blocks, in RAM or in a file. A row is found by partition and user.

The engine copies rows, works on the copies, and writes them back after the Kafka transaction is committed. Nothing else
writes rows, except recovery. When the worker gets a partition, its rows are loaded from the changelog. When the worker
loses the partition, all its rows are dropped. Blocks have a fixed size, so more users never move a row.
"""

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from threading import RLock
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.errors import ConfigError
from stream.events import Partition
from stream.state.blocks import Block, NewBlock, Slots, by_block, in_ram
from stream.state.checksum import Totals, checksums, intact
from stream.state.event_ids import SIZES, EventIds, Hashes, from_bytes, to_bytes
from stream.state.row import Rows, as_bytes, other_model
from stream.state.seen import Seen

Owner = tuple[Partition, bytes]
"""Identifies a row: the partition of the user's clicks, and the user id in UTF-8."""

PARTITION_OF = itemgetter(0)

NO_SLOT = -1
UNUSED = -1
NO_SLOTS: Mapping[bytes, int] = {}
I64 = npt.NDArray[np.int64]


class Found(NamedTuple):
    """Where the rows of m owners are. It stays true until rows are removed or one of these owners gets a row.

    slots       (m,) intp, the slot of each owner; NO_SLOT = the owner has no row
    partitions  the partitions of the owners, each once
    partition   (m,) intp, index into partitions
    """

    slots: Slots
    partitions: Sequence[Partition]
    partition: npt.NDArray[np.intp]


class Arena:
    """Rows of one dtype for one model.

    dtype           the result of row_dtype
    model           the row_mark that every row must have
    capacity        number of slots, used or free. Free slots are used again, but their memory is never released
    next_slot       the slot where the next sweep for forgotten users begins
    unswept_clicks  number of clicks since the last sweep
    event_ids       the hashes of the last event ids of the users, by slot. `scatter` writes them
    kept            partition -> what is kept of it beside the rows, as bytes
    lock            held while rows change; a different thread that reads rows must hold it

    What is kept for each user beside row and event ids is always in RAM: about 200 bytes.
    """

    def __init__(self, dtype: np.dtype[np.void], model: int, new_block: NewBlock = in_ram) -> None:
        self.dtype = dtype
        self.model = model
        self.capacity = 0
        self.next_slot = 0
        self.unswept_clicks = 0
        self.event_ids = EventIds(new_block)
        self.kept: dict[Partition, bytes] = {}
        self._new_block = new_block
        self.lock = RLock()
        self._blocks: list[Block] = []
        self._free: list[int] = []
        self._slots: defaultdict[Partition, dict[bytes, int]] = defaultdict(dict)
        self._sizes = {dtype.itemsize + size for size in SIZES}  # of a row and its event ids
        self._keys: list[bytes] = []  # slot -> user id
        self._slot_partition = np.zeros(0, np.int32)  # slot -> partition index
        self._slot_checksum = np.zeros(0, np.uint64)  # slot -> checksum of its row; 0 while the slot is free
        self._slot_clicks = np.zeros(0, np.uint32)  # slot -> clicks of its row, for the sweep
        self._slot_last_ms = np.zeros(0, np.int64)  # slot -> last_ms of its row, for the sweep
        self._partition_index: dict[Partition, int] = {}
        self._partitions: list[Partition] = []  # by partition index
        self._newest_ms = np.zeros(0, np.int64)  # by partition index
        self._checksum = np.zeros(0, np.uint64)  # by partition index: sum over its rows
        self._seen = Seen()
        self._grow()

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))

    def partitions(self) -> list[Partition]:
        return sorted(self._slots)

    def find(self, owners: Iterable[Owner]) -> Found:
        """Look up the rows of the owners."""
        slots: list[int] = []
        numbers: dict[Partition, int] = {}
        partitions: list[int] = []
        for partition, run in itertools.groupby(owners, PARTITION_OF):
            known = self._slots.get(partition, NO_SLOTS)
            slots += [known.get(key, NO_SLOT) for _, key in run]
            partitions += [numbers.setdefault(partition, len(numbers))] * (len(slots) - len(partitions))
        return Found(np.array(slots, np.intp), list(numbers), np.array(partitions, np.intp))

    def gather(self, slots: Slots) -> Rows:
        """Copy the rows (n,) of these used slots (n,) to new memory.

        Raises ConfigError if a row does not have the checksum that was written: a disk has lost what it had taken.
        """
        rows = np.empty(len(slots), self.dtype)
        parts = list(by_block(slots))
        for number, _, within in parts:
            self._blocks[number].will_read(within)
        for number, which, within in parts:
            as_bytes(rows)[which] = as_bytes(self._blocks[number].values)[within]
        if np.count_nonzero(rows["checksum"] != self._slot_checksum[slots]):  # 0.01 us a row
            raise ConfigError(
                "a user's state in memory or on disk is not the one that was written; check the disk of --data-dir and "
                "start again: the states are in the changelog"
            )
        return rows

    def scatter(self, owners: Sequence[Owner], found: Found, rows: Rows, event_ids: Hashes | None = None) -> None:
        """Write the rows (n,) of n owners, each owner once. An owner without a row gets a new slot.

        found      the result of `find` for these owners
        event_ids  (n, LAST_IDS) the hashes of their event ids; None = no user of the arena has any
        """
        with self.lock:
            partitions = self._indices(found.partitions)[found.partition]
            slots = self._with_slots(owners, found.slots, partitions)
            for number, which, within in by_block(slots):
                as_bytes(self._blocks[number].values)[within] = as_bytes(rows)[which]
            if event_ids is not None:
                self.event_ids.scatter(slots, event_ids)
            checksums = rows["checksum"]
            self._seen.put(slots, partitions, rows["seen_ms"])
            np.add.at(self._checksum, partitions, checksums - self._slot_checksum[slots])  # uint64: modulo 2^64
            self._slot_checksum[slots] = checksums
            self._slot_clicks[slots], self._slot_last_ms[slots] = rows["clicks"], rows["last_ms"]

    def checksums(self, slots: Slots) -> npt.NDArray[np.uint64]:
        """Return the checksums (n,) of the rows in these slots; 0 for NO_SLOT."""
        found: npt.NDArray[np.uint64] = self._slot_checksum[slots] * (slots != NO_SLOT)
        return found

    def totals(self, partition: Partition) -> Totals:
        """Return what the rows of the partition add up to."""
        index = self._partition_index.get(partition)
        return Totals(len(self._slots.get(partition, NO_SLOTS)), 0 if index is None else int(self._checksum[index]))

    def newest_ms(self, partition: Partition) -> int:
        """Return the time of the partition: the largest time of a click so far, ms since the epoch; 0 = none."""
        index = self._partition_index.get(partition)
        return 0 if index is None else int(self._newest_ms[index])

    def advance(self, partition: Partition, time_ms: int) -> None:
        """Set the time of the partition, which never goes back."""
        index = self._indices([partition])[0]
        self._newest_ms[index] = max(self._newest_ms[index], time_ms)

    def seen(self, partition: Partition, after: int, last: int) -> Iterable[tuple[int, Slots]]:
        """The minutes after `after`, up to `last`, and the slots of the users of the partition last seen in each."""
        index = self._partition_index.get(partition)
        return () if index is None else self._seen.between(index, after, last)

    def last_seen(self, partition: Partition, after: int, last: int) -> Slots:
        """The slots of the users of the partition last seen after the minute `after`, up to `last`; any two minutes."""
        return self._seen.last(self._partition_index.get(partition, UNUSED), after, last)

    def ages(self, start: int, end: int) -> tuple[Slots, npt.NDArray[np.uint32], I64, I64]:
        """Return what decides whether users are forgotten, without reading their rows: the n used slots (n,) of
        start <= slot < end, the fields `clicks` and `last_ms` of their rows (n,), and the times of their partitions.
        """
        slots = start + (self._slot_partition[start:end] != UNUSED).nonzero()[0]
        newest_ms = self._newest_ms[self._slot_partition[slots]]
        return slots, self._slot_clicks[slots], self._slot_last_ms[slots], newest_ms

    def owner(self, slot: int) -> Owner:
        """Return the owner of the row in a used slot."""
        return self._partitions[self._slot_partition[slot]], self._keys[slot]

    def remove(self, owners: Iterable[Owner]) -> None:
        """Remove the rows of these owners. Their slots become free. An owner without a row is ignored."""
        with self.lock:
            slots = self._slots
            self._release([slots[p].pop(key) for p, key in owners if key in slots.get(p, NO_SLOTS)])

    def rows(self, partition: Partition) -> dict[bytes, bytes]:
        """Return all rows of a partition as changelog key -> changelog value."""
        slots = self._slots.get(partition, {})
        which = np.array(list(slots.values()), np.intp)
        size, data = self.dtype.itemsize, self.gather(which).tobytes()
        rests = to_bytes(self.event_ids.gather(which))
        return {key: data[i * size : (i + 1) * size] + rests[i] for i, key in enumerate(slots)}

    def hold(self, partition: Partition) -> None:
        """Hold a partition without rows. Rows that it had are dropped."""
        self.drop(partition)
        self._slots[partition] = {}

    def load(self, partition: Partition, rows: Mapping[bytes, bytes | None]) -> list[bytes]:
        """Add rows of the changelog, key -> value, to those of a partition. None removes a row.

        Returns the keys of broken rows; their users have no row after it. Raises ConfigError if a row was written with
        another model or another row layout.
        """
        size = self.dtype.itemsize
        known: Mapping[bytes, bytes] = {k: row for k, row in rows.items() if row and len(row) in self._sizes}
        if len(known) < len(rows) and any(row and k not in known and intact(k, row) for k, row in rows.items()):
            raise other_model(partition)
        if known:
            heads: Collection[bytes] = known.values()
            rests: list[bytes] | None = None
            if self.event_ids or max(map(len, heads)) > size:  # not in shops without event ids
                heads, rests = [row[:size] for row in known.values()], [row[size:] for row in known.values()]
            loaded = np.frombuffer(b"".join(heads), self.dtype)
            whole = loaded["checksum"] == checksums(known, loaded, rests)
            if not whole.all():
                loaded, known = loaded[whole], dict(itertools.compress(known.items(), whole.tolist()))
                rests = None if rests is None else list(itertools.compress(rests, whole.tolist()))
            if (loaded["model"] != self.model).any():
                raise other_model(partition)
            owners = [(partition, key) for key in known]
            found = self.find(owners)
            for number, _, within in by_block(found.slots[found.slots != NO_SLOT]):
                self._blocks[number].will_read(within)  # a page has rows that stay
            self.scatter(owners, found, loaded, None if rests is None else from_bytes(rests))
        if len(known) == len(rows):
            return []
        self.remove([(partition, key) for key in rows if key not in known])
        return [key for key, row in rows.items() if row is not None and key not in known]

    def check(self, partition: Partition, rows: Mapping[bytes, bytes | None]) -> None:
        """Raises ConfigError as `load` does. Afterwards the arena has no row of the partition."""
        self.load(partition, rows)
        self.drop(partition)

    def drop(self, partition: Partition) -> None:
        """Remove all rows of a partition, its time and what is kept of it. The slots become free."""
        with self.lock:
            self.kept.pop(partition, None)
            self._release(list(self._slots.pop(partition, {}).values()))
            if partition in self._partition_index:
                self._newest_ms[self._partition_index[partition]] = 0

    def _release(self, slots: list[int]) -> None:
        np.subtract.at(self._checksum, self._slot_partition[slots], self._slot_checksum[slots])
        self._slot_checksum[slots] = 0
        self._slot_partition[slots] = UNUSED
        for slot in slots:
            self._keys[slot] = b""
        self._free.extend(slots)
        self.event_ids.clear(slots)
        self._seen.clear(slots)

    def _with_slots(self, owners: Sequence[Owner], slots: Slots, partitions: Slots) -> Slots:
        """The slots (n,) with new ones for the owners who have none. partitions: (n,) their partition indices."""
        new = (slots == NO_SLOT).nonzero()[0]
        if not len(new):
            return slots
        while len(self._free) < len(new):
            self._grow()
        slots, given = slots.copy(), self._free[: -len(new) - 1 : -1]
        del self._free[-len(new) :]
        slots_of, keys = self._slots, self._keys
        for i, slot in zip(new.tolist(), given, strict=True):
            partition, keys[slot] = owners[i]
            slots_of[partition][keys[slot]] = slot
        slots[new] = given
        self._slot_partition[given] = partitions[new]
        return slots

    def _indices(self, partitions: Iterable[Partition]) -> npt.NDArray[np.intp]:
        """The partition indices of the partitions. A partition without an index gets one."""
        for partition in partitions:
            if partition not in self._partition_index:
                self._partition_index[partition] = len(self._partitions)
                self._partitions.append(partition)
                self._newest_ms = np.append(self._newest_ms, 0)
                self._checksum = np.append(self._checksum, np.uint64(0))
        return np.array([self._partition_index[partition] for partition in partitions], np.intp)

    def _grow(self) -> None:
        block, old = self._new_block(self.dtype), self.capacity
        self._blocks.append(block)  # each row is written before it is read
        self.capacity += len(block.values)
        self._free.extend(range(self.capacity - 1, old - 1, -1))
        self._keys += [b""] * len(block.values)
        for values in (self._slot_partition, self._slot_checksum, self._slot_clicks, self._slot_last_ms):
            values.resize(self.capacity, refcheck=False)  # moves pages; a copy takes 20 ms at 5M users. No view exists
        self._slot_partition[old:] = UNUSED
        self._seen.grow(self.capacity)
