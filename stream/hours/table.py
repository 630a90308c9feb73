"""The table of one hour of a partition: which cells were counted, and how often.

    step     event type before -> event type, of two clicks of a session, or of its begin or end
    reached  event type: a session has its first click of this type
    users    a user has the first click in the hour

Clicks, clicks by event type, begins and ends of sessions are sums of steps. Only cells that are not 0 are kept.
"""

import logging
import zlib
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.events import Partition

I64 = npt.NDArray[np.int64]

HOUR_MS = 3_600_000

MOST_TYPES = 100
"""So many event types have cells of their own: what is kept of a partition is part of each transaction. With the
10,000 that a model may have, it could be too large for a record."""

NOTHING = np.empty(0, np.int64)
_HEAD = Struct("<Iq")

log = logging.getLogger(__name__)


class Table(NamedTuple):
    """What was counted in an hour.

    hour    hours since the epoch
    cells   (k,) int64, ascending
    counts  (k,) int64
    """

    hour: int
    cells: I64
    counts: I64


class Hour(NamedTuple):
    """An hour of a partition that is over."""

    partition: Partition
    table: Table


class Cells:
    """The numbers of the cells, for the event types of a model.

    names  those with cells of their own, in the order of their indices
    other  index of all others
    start, end  index of the begin and the end of a session
    width  number of these indices
    count  number of cells
    """

    def __init__(self, event_types: Sequence[str]) -> None:
        self.names = tuple(event_types[:MOST_TYPES])
        self.other = len(self.names)
        self.start, self.end, self.width = self.other + 1, self.other + 2, self.other + 3
        self.first_reached = self.width**2
        self.users = self.first_reached + self.other
        self.count = self.users + 1
        self._version = zlib.crc32(repr(self.names).encode())

    def steps(self, before: I64, after: I64) -> I64:
        """The cells (n,) of steps from the indices `before` (n,) to `after` (n,)."""
        return before * self.width + after

    def encode(self, table: Table) -> bytes:
        """A table as bytes, as the changelog has it."""
        pairs = np.stack([table.cells, table.counts], axis=1).astype("<u4")
        return _HEAD.pack(self._version, table.hour) + pairs.tobytes()

    def decode(self, data: bytes) -> Table | None:
        """The opposite of `encode`; None from no bytes, and from those of other event types or another version."""
        if not data:
            return None
        whole = len(data) >= _HEAD.size and (len(data) - _HEAD.size) % 8 == 0
        version, hour = _HEAD.unpack_from(data) if whole else (None, 0)
        if version != self._version:
            log.warning(
                "the hour of a partition begins again: it was counted with other event types or another version"
            )
            return None
        cells, counts = np.frombuffer(data, "<u4", offset=_HEAD.size).reshape(-1, 2).T.astype(np.int64)
        return Table(hour, cells, counts)
