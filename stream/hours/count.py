"""Counts what the users of each partition do, in the hours of the partition's time.

    decided click      a step from the user's click before, maybe the first of its type in the session, maybe the
                       first of its user in the hour: in the hour of the partition's time
    end of a session   a step to the end: in the hour in which the session is due, or of the click that ends it if that
                       comes earlier
    new hour           the hours before are over: no later click counts in them

The rule that must not break: a table depends only on the clicks of the partition and their order, never on the batch.
The hour that is not over goes into the changelog in the same transaction as the rows.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from stream.detect.detector import Evidence
from stream.events import Partition
from stream.hours.table import HOUR_MS, I64, NOTHING, Cells, Hour, Table
from stream.model.gaps import SESSION_GAP_MS
from stream.past.clicks import PAST, Names, type_hashes
from stream.sessions.ends import BEFORE, Batch, Ended
from stream.sessions.track import Track
from stream.state.arena import Arena, Owner
from stream.state.row import Index
from stream.state.seen import MINUTE_MS

NONE: Mapping[Owner, np.void] = {}

Counted = tuple[list[Hour], list[bytes]]
"""The hours that are over; and for each partition, what is kept of the hour that is not."""


class Hours:
    """Counts for one model. It has no data: that of a partition is given to it."""

    def __init__(self, event_types: Sequence[str]) -> None:
        """event_types: the names that the model knows"""
        self.cells = Cells(event_types)
        self._of_hash = np.full(1 << 16, self.cells.other, np.int64)
        names = self.cells.names[::-1]  # of two with the same hash, the first one stays
        self._of_hash[type_hashes(names).astype(np.intp)] = np.arange(len(names))[::-1]

    def __call__(
        self,
        arena: Arena,
        batch: Batch,
        track: Track,
        seen: Evidence,
        names: Names,
        ended: Ended,
        kept: Sequence[bytes],
    ) -> Counted:
        """Count a batch. The arena does not have its rows yet.

        seen, names  the clicks of the track
        ended        the sessions that end
        kept         of each partition of the batch, as bytes; none for a new one
        """
        cells, order = self.cells, track.by_user
        event_type, last = np.minimum(seen.event_type[order], cells.other), self._of_hash[names.event_type[order]]
        before = np.append(0, last)[:-1]
        before[track.first] = self._last(batch.before[PAST.name][track.owner[track.first]])
        before = np.where(track.starts, cells.start, np.where(track.over, cells.end, before))
        number, hour = batch.found.partition[track.owner], track.seen_ms // HOUR_MS
        new_type = (track.earlier(seen.event_type[order]) == 0) & (event_type != cells.other)
        new_user = (seen.clicks_before[order] == 0) | (track.was_seen // HOUR_MS < hour)
        own = cells.steps(before, event_type), cells.first_reached + event_type[new_type]
        of_ends = self._ends(arena, ended, last, batch.taken)
        partitions = {partition: i for i, partition in enumerate(batch.found.partitions)}
        end_ms = np.minimum(ended.minute * MINUTE_MS, batch.now_ms[ended.click])
        now_ms = [batch.times.get(one, arena.newest_ms(one)) for one in partitions]
        return self._count(
            list(partitions),
            now_ms,
            kept,
            np.concatenate([number, number[new_type], number[new_user], _numbers(partitions, ended)]),
            np.concatenate([hour, hour[new_type], hour[new_user], end_ms // HOUR_MS]),
            np.concatenate([*own, np.full(np.count_nonzero(new_user), cells.users), of_ends]),
        )

    def at_rest(self, arena: Arena, ended: Ended, times: Mapping[Partition, int], kept: Sequence[bytes]) -> Counted:
        """Count the ends of sessions of partitions that have no clicks, while their times move on.

        kept  of each partition of `times`
        """
        hour, of_ends = ended.minute * MINUTE_MS // HOUR_MS, self._ends(arena, ended, NOTHING)
        numbers = _numbers({partition: i for i, partition in enumerate(times)}, ended)
        return self._count(list(times), list(times.values()), kept, numbers, hour, of_ends)

    def next_ms(self, arena: Arena, partition: Partition, kept: bytes) -> int | None:
        """The time to which a partition moves on that has no clicks and no open session; None if its hour is empty.

        It is the end of the hour, or earlier: at rest, time moves on by as much as the partition has had no clicks.
        """
        table = self.cells.decode(kept)
        return None if table is None else min(arena.newest_ms(partition) + SESSION_GAP_MS, (table.hour + 1) * HOUR_MS)

    def _last(self, past: npt.NDArray[np.uint32]) -> I64:
        """The index (n,) of the event type of the last click in each of n values of the field PAST."""
        found: I64 = self._of_hash[past[:, 0, 2] >> np.uint32(16)]
        return found

    def _ends(self, arena: Arena, ended: Ended, last: I64, taken: Mapping[Owner, np.void] = NONE) -> I64:
        """The cells of the ends of sessions.

        last   index of the event type of each click, in the order of the track
        taken  as in Batch
        """
        before = np.empty(len(ended.owners), np.int64)
        if not len(before):  # most batches of a live shop
            return before
        here = ended.after != BEFORE
        before[here] = last[ended.after[here]]
        rows = [ended.owners[i] for i in np.flatnonzero(~here).tolist()]
        if rows:
            before[~here] = self._last(_past(arena, rows, taken))
        return self.cells.steps(before, np.full(len(before), self.cells.end))

    def _count(
        self,
        partitions: Sequence[Partition],
        now_ms: Sequence[int],
        kept: Sequence[bytes],
        number: I64,
        hour: I64,
        cell: I64,
    ) -> Counted:
        """Add to what is kept of each partition.

        now_ms  time of each partition
        number, hour, cell  (n,) int64, index of the partition, hour and cell of what is counted, once each
        """
        tables = [(i, table) for i, table in enumerate(map(self.cells.decode, kept)) if table is not None]
        sizes = [len(table.cells) for _, table in tables]
        number = np.concatenate([np.array([i for i, _ in tables], np.int64).repeat(sizes), number])
        hour = np.concatenate([np.array([table.hour for _, table in tables], np.int64).repeat(sizes), hour])
        cell = np.concatenate([*(table.cells for _, table in tables), cell])
        times = np.concatenate([*(table.counts for _, table in tables), np.ones(len(cell) - sum(sizes), np.int64)])
        over: list[Hour] = []
        after = [b""] * len(partitions)
        if not len(cell):
            return over, after
        first, span = hour.min(), hour.max() - hour.min() + 1
        keys = (number * span + hour - first) * self.cells.count + cell
        order = keys.argsort()  # np.unique does the same, and takes longer for a few keys
        keys, times = keys[order], times[order]
        each = _begins(keys)
        counts = np.add.reduceat(times, each)
        groups, cells = np.divmod(keys[each], self.cells.count)
        for begin, end in pairwise([*_begins(groups).tolist(), len(groups)]):
            i, at = divmod(int(groups[begin]), int(span))
            table = Table(at + int(first), cells[begin:end], counts[begin:end])
            if table.hour < now_ms[i] // HOUR_MS:
                over.append(Hour(partitions[i], table))
            else:
                after[i] = self.cells.encode(table)
        return over, after


def _past(arena: Arena, owners: Sequence[Owner], taken: Mapping[Owner, np.void]) -> npt.NDArray[np.uint32]:
    """The field PAST (n, ...) of these users as it was before the batch. taken: as in Batch"""
    if not taken:
        return arena.gather(arena.find(owners).slots)[PAST.name]
    here = [i for i, owner in enumerate(owners) if owner not in taken]
    found = np.empty((len(owners), *PAST.shape), np.uint32)
    found[here] = arena.gather(arena.find(owners[i] for i in here).slots)[PAST.name]
    for i in {*range(len(owners))}.difference(here):
        found[i] = taken[owners[i]][PAST.name]
    return found


def _begins(values: I64) -> Index:
    """The positions at which another value begins in n values, which are ascending and at least one."""
    return np.append(0, np.flatnonzero(values[1:] != values[:-1]) + 1)


def _numbers(partitions: Mapping[Partition, int], ended: Ended) -> I64:
    """The index (e,) of the partition of each session that ends."""
    return np.array([partitions[partition] for partition, _ in ended.owners], np.int64)
