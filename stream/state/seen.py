"""Finds the users of a partition by the minute in which they were last seen.

The minute is that of the partition's time at the user's last decided click, rounded up. Users of the last minutes are
looked up when the partition's time has moved on by a whole minute, so the slots that were written since then are only
noted. Users of long ago are looked up once in an hour of that time, and without an index.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from stream.state.blocks import Slots

MINUTE_MS = 60_000
NONE = 0
"""The key of a slot without a user, or whose user was never seen."""

SHIFT = 32
MOST_NOTED = 1 << 17
"""So many slots are noted before each is kept once: a log without times would note slots for ever."""

I64 = npt.NDArray[np.int64]


def minute(time_ms: I64) -> I64:
    """The minute (n,) int64 that has begun or begins at these times (n,), ms since the epoch, rounded up."""
    found: I64 = -(-time_ms // MINUTE_MS)
    return found


class Seen:
    """Slots by partition and minute. A slot that was written again or became free is left out when it is looked up."""

    def __init__(self) -> None:
        self._keys = np.zeros(0, np.int64)  # by slot: partition index << SHIFT | minute
        self._noted: list[Slots] = []
        self._count = 0
        self._slots: defaultdict[int, dict[int, list[Slots]]] = defaultdict(dict)  # partition index -> minute -> slots

    def grow(self, capacity: int) -> None:
        """Make room for the slots below `capacity`."""
        self._keys = np.append(self._keys, np.zeros(capacity - len(self._keys), np.int64))

    def put(self, slots: Slots, partitions: Slots, seen_ms: I64) -> None:
        """Note that the users of these slots (n,) were last seen at these times (n,), 0 = never.

        partitions  (n,) intp, partition index of each slot
        """
        self._keys[slots] = np.where(seen_ms > 0, (partitions << SHIFT) | minute(seen_ms), NONE)
        self._noted.append(slots)
        self._count += len(slots)
        if self._count > max(MOST_NOTED, len(self._keys)):
            self._noted = [np.unique(np.concatenate(self._noted))]
            self._count = 0

    def clear(self, slots: list[int]) -> None:
        """Note that these slots became free."""
        self._keys[slots] = NONE

    def between(self, partition: int, after: int, last: int) -> Iterator[tuple[int, Slots]]:
        """The minutes after `after`, up to `last`, and the slots whose users were last seen in each, each slot once.

        partition  index of the partition. The minutes up to `after` are not asked for again
        """
        self._sort()
        minutes = self._slots[partition]
        for one in sorted(minutes):
            if one > last:
                return
            if one <= after:
                del minutes[one]
                continue
            slots = np.unique(np.concatenate(minutes[one]))
            slots = slots[self._keys[slots] == (partition << SHIFT | one)]
            minutes[one] = [slots]
            yield one, slots

    def last(self, partition: int, after: int, last: int) -> Slots:
        """The slots whose users were last seen after the minute `after`, up to `last`. It looks at every slot.

        partition  index of the partition
        """
        first = partition << SHIFT
        return np.flatnonzero((self._keys > (first | max(after, NONE))) & (self._keys <= (first | max(last, NONE))))

    def _sort(self) -> None:
        """Put the noted slots to their minutes."""
        if not self._noted:
            return
        slots = np.unique(np.concatenate(self._noted))
        self._noted, self._count = [], 0
        keys = self._keys[slots]
        order = np.argsort(keys, kind="stable")
        found, begins = np.unique(keys[order], return_index=True)
        parts = np.split(slots[order], begins)[1:]  # without what is before the first
        for key, part in zip(found.tolist(), parts, strict=True):
            if key != NONE:
                self._slots[key >> SHIFT].setdefault(key & (1 << SHIFT) - 1, []).append(part)
