"""Finds the sessions that end in a batch: with a click of their user after a pause, or with the partition's time.

    own click      it starts a session, so the session before has ended
    another click  moves the partition's time on to a new minute: the sessions that are due by then end, before the
                   click is applied
    no click       a partition at rest: see `at_rest`

Which sessions have ended follows from the partition's time and the time at which the user was last seen. So nothing is
written to a row when its session ends.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from stream.detect.detector import Fields
from stream.events import Partition
from stream.sessions.track import GAP_MINUTES, I64, SEEN, Sessions, Track, due
from stream.state.arena import Arena, Found, Owner
from stream.state.row import Index
from stream.state.seen import MINUTE_MS

BEFORE = -1

MOST = 20_000
"""Sessions that end in one transaction, or those of one minute if they are more. After a break of half an hour all of
a partition's sessions are due with its first click, and their events need memory and time until they are committed. So
the partition's time then moves on in steps, each in a transaction of its own."""

NO_SLOTS, NO_MINUTES, NO_COUNTS = np.empty(0, np.intp), np.empty(0, np.int64), np.empty(0, np.int32)


class Ended(NamedTuple):
    """The e sessions that end, in the order in which they end.

    click     (e,) intp, position in the batch of the click with which each ends
    minute    (e,) int64, when it is due: minute of the partition's time
    owners    (e,) the users
    sessions  (e,) what they were
    after     (e,) intp, the user's last click before the end, as a position in the track, which is in the order of the
              users; BEFORE = it is of an earlier batch, so the user's row in the arena is as of that click
    """

    click: Index
    minute: I64
    owners: Sequence[Owner]
    sessions: Sessions
    after: Index

    def then(self, others: "Ended") -> "Ended":
        """These ends and then the others."""
        click, minute = np.append(self.click, others.click), np.append(self.minute, others.minute)
        after = np.append(self.after, others.after)
        return Ended(click, minute, [*self.owners, *others.owners], self.sessions.then(others.sessions), after)

    def sorted(self) -> "Ended":
        """Those of one click by the minute, then by the first click."""
        if len(self.owners) < 2:
            return self
        order = np.lexsort((self.sessions.offset, self.minute, self.click))
        owners = [self.owners[i] for i in order.tolist()]
        return Ended(self.click[order], self.minute[order], owners, self.sessions.take(order), self.after[order])


NO_SESSIONS = Sessions(NO_MINUTES, NO_MINUTES, NO_MINUTES, NO_COUNTS, NO_COUNTS.reshape(0, 1))
NONE = Ended(NO_SLOTS, NO_MINUTES, (), NO_SESSIONS, NO_SLOTS)


class Batch(NamedTuple):
    """The users and clicks of a batch.

    owners     (m,) the users
    found      where their rows were before the batch
    before     the fields of their rows before it
    life       (m,) as in Columns
    requests   as in Columns
    partition  (n,) intp, index into found.partitions of each click that changes a row or a time
    now_ms     (n,) int64, time of its partition with each click
    times      partition of a click -> its time after the batch, ms since the epoch
    decided    (d,) intp, positions of the clicks in the track
    taken      user -> a row that the arena does not have, but that counts as the user's row in it: it has arrived
    """

    owners: Sequence[Owner]
    found: Found
    before: Fields
    life: Index | None
    requests: Mapping[Owner, Sequence[int]]
    partition: Index
    now_ms: I64
    times: Mapping[Partition, int]
    decided: Index
    taken: Mapping[Owner, np.void] = MappingProxyType({})

    def until(self) -> Index:
        """(m,) the position of the request that ends the row of each user, n = none."""
        n = len(self.now_ms)
        if self.life is None:
            return np.full(len(self.owners), n, np.intp)
        asked = (self.requests.get(owner, ()) for owner in self.owners)
        return np.array([(*at, *[n] * (life + 1))[life] for at, life in zip(asked, self.life.tolist(), strict=True)])


def ended(arena: Arena, batch: Batch, track: Track) -> Ended:
    """The sessions that end in a batch. The arena does not have its rows yet."""
    parts: list[Ended] = []
    after_pause = np.flatnonzero(track.starts & (track.was_seen > 0) & ~track.over)
    if len(after_pause):
        parts.append(_before(batch, track, after_pause, due(track.was_seen[after_pause])))
    for partition, time_ms in batch.times.items():
        was = arena.newest_ms(partition) // MINUTE_MS
        if time_ms // MINUTE_MS > was:  # else no session is due
            number = batch.found.partitions.index(partition)
            clock = _Clock(np.flatnonzero(batch.partition == number), batch.now_ms, was)
            parts.append(_by_time(arena, batch, track, number, clock, was))
    return joined(parts).sorted()


def before_batch(count: int) -> Index:
    """BEFORE so many times."""
    return np.full(count, BEFORE, np.intp)


def joined(parts: Sequence[Ended]) -> Ended:
    """All ends of several parts, in their order."""
    return reduce(Ended.then, parts) if parts else NONE


def _before(batch: Batch, track: Track, clicks: Index, minute: I64) -> Ended:
    """End the sessions that were there before these clicks, with them. clicks: positions in the order of the users"""
    position, first = batch.decided[track.by_user], track.first[clicks]
    order = np.append(clicks[first], clicks[~first])
    sessions = Sessions.of(batch.before, track.owner[clicks[first]]).then(track.whole(clicks[~first] - 1))
    owners = [batch.owners[user] for user in track.owner[order].tolist()]
    after = np.append(before_batch(len(clicks[first])), clicks[~first] - 1)
    return Ended(position[order], np.append(minute[first], minute[~first]), owners, sessions, after)


class _Clock:
    """The time of a partition in a batch.

    clicks  (c,) intp, positions of its clicks
    """

    def __init__(self, clicks: Index, now_ms: I64, was: int) -> None:
        """now_ms  (n,) of the batch. was: the minute before the batch"""
        self._clicks, self._minutes, self._was = np.append(clicks, len(now_ms)), now_ms[clicks] // MINUTE_MS, was
        self.last = int(self._minutes[-1])

    def ends(self, due: I64, until: Index) -> tuple[Index, Index]:
        """Which of these sessions (k,) end by the time, and the position of the click with which each of them does.

        until  (k,) positions from which on a session is another one
        """
        click = self._clicks[self._minutes.searchsorted(due)]
        which = np.flatnonzero((due > self._was) & (click < until))
        return which, click[which]


def _by_time(arena: Arena, batch: Batch, track: Track, number: int, clock: _Clock, was: int) -> Ended:
    """The sessions of a partition that end by its time. was: the minute before the batch"""
    position, until = batch.decided[track.by_user], batch.until()
    first, changes = track.owner[track.first], until.copy()
    changes[first] = position[track.first] + 1  # it ends before the click is applied
    users = np.flatnonzero((batch.found.partition == number) & (batch.before[SEEN] > 0))
    minute = due(batch.before[SEEN][users])
    which, click = clock.ends(minute, changes[users])
    owners = [batch.owners[user] for user in users[which].tolist()]
    found = Ended(click, minute[which], owners, Sessions.of(batch.before, users[which]), before_batch(len(which)))
    if clock.last >= was + GAP_MINUTES:  # else none that began in the batch
        clicks = np.flatnonzero(batch.found.partition[track.owner] == number)
        minute, nexts = due(track.seen_ms), until[track.owner]
        again = np.flatnonzero(~track.first)
        nexts[again - 1] = position[again] + 1
        which, click = clock.ends(minute[clicks], nexts[clicks])
        owners = [batch.owners[user] for user in track.owner[clicks[which]].tolist()]
        found = found.then(Ended(click, minute[clicks[which]], owners, track.whole(clicks[which]), clicks[which]))
    return found.then(_of_others(arena, batch, number, clock, was))


def _of_others(arena: Arena, batch: Batch, number: int, clock: _Clock, was: int) -> Ended:
    """The sessions of a partition that end by its time, of users who have none of the clicks before it."""
    busy = batch.found.slots if batch.life is None else batch.found.slots[batch.life == 0]
    slots, minutes = _due(arena, batch.found.partitions[number], was, clock.last)
    here = ~np.isin(slots, busy)
    slots, minutes = slots[here], minutes[here]
    owners = list(map(arena.owner, slots.tolist()))
    until = np.array([batch.requests.get(owner, (len(batch.now_ms),))[0] for owner in owners], np.intp)
    which, click = clock.ends(minutes, until)
    sessions = Sessions.of(arena.gather(slots[which]), np.arange(len(which)))
    return Ended(click, minutes[which], [owners[i] for i in which.tolist()], sessions, before_batch(len(which)))


def _due(arena: Arena, partition: Partition, was: int, last: int) -> tuple[Index, I64]:
    """The slots (k,) of the users of a partition whose sessions are due after one minute up to another; and when."""
    parts = list(arena.seen(partition, was - GAP_MINUTES, last - GAP_MINUTES))
    slots = np.concatenate([NO_SLOTS, *(slots for _, slots in parts)])
    minutes = np.array([seen + GAP_MINUTES for seen, _ in parts], np.int64)
    return slots, minutes.repeat([len(slots) for _, slots in parts])


class Due(NamedTuple):
    """How many sessions of a partition are due from its time on.

    sessions  of them, up to the minute `crowd`, or to the last one
    crowd     the first minute with which they are more than may end at once; None = there is none
    """

    sessions: int
    crowd: int | None


def crowded(arena: Arena, partition: Partition, last: int, most: int) -> Due:
    """The sessions that are due up to the minute `last`. Clicks that are not in the arena do not count.

    most  so many may end at once
    """
    was, sessions = arena.newest_ms(partition) // MINUTE_MS, 0
    if last > was:  # as in few batches: to look costs more than to compare
        for seen, slots in arena.seen(partition, was - GAP_MINUTES, last - GAP_MINUTES):
            sessions += len(slots)
            if sessions > most:
                return Due(sessions, seen + GAP_MINUTES)
    return Due(sessions, None)


def rest_ends(time_ms: int) -> int:
    """The minute in which the last session of a partition at rest is due. time_ms: of the partition"""
    return time_ms // MINUTE_MS + 1 + GAP_MINUTES


def at_rest(arena: Arena, partition: Partition, last: int) -> tuple[Ended, int]:
    """End the sessions of a partition that has no clicks, and the time to which it moves on, ms since the epoch.

    The sessions are what they would be if another click ended them. If they are too many, the time moves on to a minute
    before `last`: the next call ends others.

    last  the minute to which its time moves on
    """
    was, crowd = arena.newest_ms(partition) // MINUTE_MS, crowded(arena, partition, last, MOST).crowd
    slots, minutes = _due(arena, partition, was, last if crowd is None else crowd)
    if crowd is not None:
        last = crowd - 1 if minutes[0] < crowd else crowd  # those of one minute end together
        slots, minutes = slots[minutes <= last], minutes[minutes <= last]
    sessions = Sessions.of(arena.gather(slots), np.arange(len(slots)))
    owners, none = list(map(arena.owner, slots.tolist())), before_batch(len(slots))
    ends = Ended(np.zeros(len(slots), np.intp), minutes, owners, sessions, none)
    return ends.sorted(), last * MINUTE_MS
