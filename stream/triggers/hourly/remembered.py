"""What the users of a partition remember at a full hour of its time: their last clicks, as they were before that hour.

At the hour the arena has the rows as of the batch before. The users who have clicked in the batch before the hour are
taken from the batch instead, with the same bytes that their rows would have. So it does not matter how the clicks came
in batches. As for users who are away, one whose state is old enough to be deleted is left out, whether it is or not.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from stream.detect.detector import Evidence
from stream.events import Partition
from stream.past.clicks import F32, PAST, U16, U32, U64, Names, read, remember
from stream.sessions.ends import BEFORE, Batch, before_batch
from stream.sessions.track import I64, SEEN, Track
from stream.state.arena import NO_SLOT, Arena, Owner
from stream.state.evict import Forgetting
from stream.state.row import Index
from stream.state.seen import MINUTE_MS
from stream.triggers.rules import HOUR_MS

AT_ONCE = 8_192
"""Rows that are copied at a time: all rows of a partition would need their memory twice."""


class Remembered(NamedTuple):
    """The last R clicks of n users, newest first.

    owners      (n,) their users: slots in the arena, or positions in the batch
    after       (n,) intp, as in Ended
    offset      (n,) int64, first click of each user's session: a number that no other user of the partition has
    item        (n, R) uint64, hashes; 0 = no click
    event_type  (n, R) uint16, hashes
    time_ms     (n, R) int64, by the time of the partition at the user's last click and the gaps between the clicks
    price       (n, R) float32, 0 = none
    """

    owners: Index
    after: Index
    offset: I64
    item: U64
    event_type: U16
    time_ms: I64
    price: F32

    def take(self, which: Index) -> "Remembered":
        """Select the users at the positions `which`."""
        owners, after, offset, item, event_type, time_ms, price = self
        more = item[which], event_type[which], time_ms[which], price[which]
        return Remembered(owners[which], after[which], offset[which], *more)


class Hour(NamedTuple):
    """A full hour of a partition's time that has begun.

    click    position in the batch of the click with which it begins; 0 for a partition at rest
    time_ms  when it begins, ms since the epoch
    """

    partition: Partition
    click: int
    time_ms: int


def hours_of(arena: Arena, batch: Batch) -> Iterator[Hour]:
    """The first full hour after each hour in which the partitions of a batch have clicks, as far as they have come."""
    for partition, time_ms in batch.times.items():
        was = arena.newest_ms(partition) // HOUR_MS
        if time_ms // HOUR_MS > was:  # rare
            clicks = np.flatnonzero(batch.partition == batch.found.partitions.index(partition))
            hours = batch.now_ms[clicks] // HOUR_MS
            before = np.append(was, hours[:-1])
            for at in np.flatnonzero((hours > before) & (before > 0)).tolist():
                yield Hour(partition, int(clicks[at]), int(before[at] + 1) * HOUR_MS)


def hours_at_rest(arena: Arena, times: Mapping[Partition, int]) -> Iterator[Hour]:
    """The same for partitions without clicks whose times move on. times: partition -> its new time, ms"""
    for partition, time_ms in times.items():
        was = arena.newest_ms(partition) // HOUR_MS
        if time_ms // HOUR_MS > was:
            yield Hour(partition, 0, (was + 1) * HOUR_MS)


class AtRest:
    """What the users of partitions without clicks remember. The arena does not change while this is used."""

    def __init__(self, arena: Arena, forgetting: Forgetting) -> None:
        self.arena, self._forgetting = arena, forgetting

    def owner(self, found: Remembered, at: int) -> Owner:
        """The user at a position of a result of `parts`."""
        return self.arena.owner(int(found.owners[at]))

    def parts(self, hour: Hour, over_ms: int) -> Iterator[Remembered]:
        """The users who were seen in the time `over_ms` before the hour, in parts."""
        return self._rows(hour, over_ms, np.zeros(0, np.intp))

    def _rows(self, hour: Hour, over_ms: int, without: Index) -> Iterator[Remembered]:
        """Those with a row in the arena. without: slots that are left out"""
        begin = (hour.time_ms - over_ms) // MINUTE_MS - 1
        slots = self.arena.last_seen(hour.partition, begin, hour.time_ms // MINUTE_MS)
        slots = slots[~np.isin(slots, without)] if len(without) else slots
        for start in range(0, len(slots), AT_ONCE):
            some = slots[start : start + AT_ONCE]
            rows = self.arena.gather(some)
            yield self._known(
                hour,
                Remembered(
                    some, before_batch(len(some)), rows["session_offset"], *_clicks(rows[PAST.name], rows[SEEN])
                ),
                rows["clicks"],
                rows["session_last_ms"],
            )

    def _known(self, hour: Hour, found: Remembered, clicks: U32, last_ms: I64) -> Remembered:
        """Those who are not forgotten at the hour. clicks, last_ms: (n,) of the users and of their sessions"""
        gone = self._forgetting.forgotten(clicks, last_ms, np.full(len(last_ms), hour.time_ms))
        return found.take(np.flatnonzero(~gone)) if gone.any() else found


class InBatch(AtRest):
    """What the users remember within a batch. The arena does not have its rows yet."""

    def __init__(
        self,
        arena: Arena,
        forgetting: Forgetting,
        batch: Batch,
        track: Track,
        seen: Evidence,
        names: Names,
        price: F32 | None,
    ) -> None:
        """seen, names, price: the decided clicks"""
        super().__init__(arena, forgetting)
        self._batch, self._track, self._seen = batch, track, seen
        self._names, self._price = names, price

    def owner(self, found: Remembered, at: int) -> Owner:
        if found.after[at] == BEFORE:
            return super().owner(found, at)
        return self._batch.owners[int(found.owners[at])]

    def parts(self, hour: Hour, over_ms: int) -> Iterator[Remembered]:
        batch, track = self._batch, self._track
        mine = batch.found.partition[track.owner] == batch.found.partitions.index(hour.partition)
        clicks = np.flatnonzero(mine & (batch.decided[track.by_user] < hour.click))
        owners = [batch.owners[user] for user in np.unique(track.owner[clicks]).tolist()]
        owners += [owner for owner, asked in batch.requests.items() if asked[0] <= hour.click]
        slots = self.arena.find(owners).slots
        yield from self._rows(hour, over_ms, slots[slots != NO_SLOT])
        if len(clicks):
            yield self._of_clicks(hour, clicks)

    def _of_clicks(self, hour: Hour, clicks: Index) -> Remembered:
        """The users with clicks of the batch before the hour. clicks: their positions in the track"""
        batch, track, seen = self._batch, self._track, self._seen
        at = track.by_user[clicks]
        users, owner = np.unique(track.owner[clicks], return_inverse=True)
        last = clicks[np.append(owner[1:] != owner[:-1], True)]
        before = batch.before[PAST.name][users]
        rows = np.zeros(len(users), [("clicks", np.uint32), (PAST.name, before.dtype, before.shape[1:])])
        rows["clicks"] = seen.clicks_before[track.by_user[last]] + 1
        price = None if self._price is None else self._price[at]
        remember(before, rows, owner, self._names.take(at), price, seen.gap_ms[at], seen.clicks_before[at])
        sessions = track.after(last)
        found = Remembered(users, last, sessions.offset, *_clicks(rows[PAST.name], track.seen_ms[last]))
        stay = np.flatnonzero(batch.until()[users] > hour.click)
        return self._known(hour, found.take(stay), rows["clicks"][stay], sessions.last_ms[stay])


def _clicks(past: U32, seen_ms: I64) -> tuple[U64, U16, I64, F32]:
    """item, event_type, time_ms and price of Remembered, of users last seen at these times (n,). past: (n, R, 4)"""
    (item, event_type), gap_ms, price = read(past)
    age_ms = np.zeros_like(gap_ms)
    np.cumsum(np.maximum(gap_ms, 0)[:, :-1], axis=1, out=age_ms[:, 1:])
    return item, event_type, seen_ms[:, None] - age_ms, price
