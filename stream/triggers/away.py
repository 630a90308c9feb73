"""Finds the users who have not clicked for some time: at the first full hour of the partition's time after it.

Like the end of a session it follows from the partition's time and the time at which the user was last seen, rounded up
to a minute. A user whose own click moves the time on to that hour is back, and not away. A user whose state is old
enough to be deleted then is not away either: whether it has been deleted does not matter.
"""

from collections.abc import Sequence

import numpy as np

from stream.detect.detector import Evidence
from stream.events import Partition
from stream.sessions.ends import NONE, Batch, Ended, before_batch, joined
from stream.sessions.track import I64, SEEN, Sessions, Track
from stream.state.arena import Arena, Owner
from stream.state.evict import Forgetting
from stream.state.row import Index
from stream.state.seen import MINUTE_MS, minute
from stream.triggers.rules import HOUR_MS

HOUR = HOUR_MS // MINUTE_MS


def due(seen_ms: I64, after_ms: int) -> I64:
    """The minute (n,) of the partition's time at which users are away, last seen at these times (n,): a full hour."""
    return -(-(minute(seen_ms) * MINUTE_MS + after_ms) // HOUR_MS) * HOUR


def away(arena: Arena, batch: Batch, track: Track, seen: Evidence, after_ms: int, forgetting: Forgetting) -> Ended:
    """The users who become away in a batch, as the last session of each. `minute` is when they do.

    seen  the clicks of the track
    """
    parts: list[Ended] = []
    for partition, time_ms in batch.times.items():
        was = arena.newest_ms(partition) // HOUR_MS
        if time_ms // HOUR_MS > was:  # rare
            number = batch.found.partitions.index(partition)
            clicks = np.flatnonzero(batch.partition == number)
            hours = batch.now_ms[clicks] // HOUR_MS
            clicks = np.append(clicks, len(batch.now_ms))
            parts.append(_of_rows(arena, batch, track, partition, after_ms, forgetting, (clicks, hours, was)))
            parts.append(_of_clicks(batch, track, seen, number, after_ms, forgetting, (clicks, hours, was)))
    return joined([part for part in parts if part.owners]).sorted()


def away_at_rest(arena: Arena, partition: Partition, time_ms: int, after_ms: int, forgetting: Forgetting) -> Ended:
    """The users of a partition without clicks who become away while its time moves on to `time_ms`."""
    was = arena.newest_ms(partition) // HOUR_MS
    slots, owners, minutes = _rows(arena, partition, was, time_ms // HOUR_MS, after_ms)
    return _remembered(arena, slots, owners, minutes, np.zeros(len(slots), np.intp), forgetting)


def _rows(arena: Arena, partition: Partition, was: int, last: int, after_ms: int) -> tuple[Index, Sequence[Owner], I64]:
    """The users with a row who were seen so long before an hour after `was` and up to `last`: slots, users, minutes."""
    slots = arena.last_seen(
        partition, (was * HOUR_MS - after_ms) // MINUTE_MS, (last * HOUR_MS - after_ms) // MINUTE_MS
    )
    return slots, list(map(arena.owner, slots.tolist())), due(arena.gather(slots)[SEEN], after_ms)


def _remembered(
    arena: Arena, slots: Index, owners: Sequence[Owner], minutes: I64, click: Index, forgetting: Forgetting
) -> Ended:
    """The users with these rows (n,) who are not forgotten in these minutes (n,). click: (n,) as in Ended"""
    rows = arena.gather(slots)
    sessions = Sessions.of(rows, np.arange(len(rows)))
    stay = np.flatnonzero(~forgetting.forgotten(rows["clicks"], sessions.last_ms, minutes * MINUTE_MS))
    owners = [owners[i] for i in stay.tolist()]
    return Ended(click[stay], minutes[stay], owners, sessions.take(stay), before_batch(len(stay)))


def _of_rows(
    arena: Arena,
    batch: Batch,
    track: Track,
    partition: Partition,
    after_ms: int,
    forgetting: Forgetting,
    clock: tuple[Index, I64, int],
) -> Ended:
    """The users whose last click is of an earlier batch. clock: the partition's clicks, their hours, the hour before"""
    clicks, hours, was = clock
    slots, owners, minutes = _rows(arena, partition, was, int(hours[-1]), after_ms)
    if not len(slots):
        return NONE
    own = batch.decided[track.by_user[track.first]].tolist()
    back = {
        batch.owners[user]: at
        for user, at in zip(track.owner[track.first].tolist(), own, strict=True)
        if batch.life is None or batch.life[user] == 0
    }
    click = clicks[hours.searchsorted(minutes // HOUR)]
    none = (len(batch.now_ms),)
    until = [min(back.get(owner, none[0]), batch.requests.get(owner, none)[0]) for owner in owners]
    which = np.flatnonzero(click < np.array(until, np.intp))
    owners = [owners[i] for i in which.tolist()]
    return _remembered(arena, slots[which], owners, minutes[which], click[which], forgetting)


def _of_clicks(
    batch: Batch,
    track: Track,
    seen: Evidence,
    number: int,
    after_ms: int,
    forgetting: Forgetting,
    clock: tuple[Index, I64, int],
) -> Ended:
    """The users whose last click is of this batch: only in one that spans so much time."""
    clicks, hours, _ = clock
    minutes = due(track.seen_ms, after_ms)
    mine = batch.found.partition[track.owner] == number
    which = np.flatnonzero(mine & (minutes // HOUR <= hours[-1]))
    if not len(which):
        return NONE
    until = batch.until()[track.owner]
    again = np.flatnonzero(~track.first)
    until[again - 1] = np.minimum(until[again - 1], batch.decided[track.by_user[again]])
    click = clicks[hours.searchsorted(minutes[which] // HOUR)]
    here = click < until[which]
    which, click = which[here], click[here]
    sessions, history = track.after(which), (seen.clicks_before[track.by_user[which]] + 1).astype(np.uint32)
    stay = np.flatnonzero(~forgetting.forgotten(history, sessions.last_ms, minutes[which] * MINUTE_MS))
    which, sessions = which[stay], sessions.take(stay)
    owners = [batch.owners[user] for user in track.owner[which].tolist()]
    return Ended(click[stay], minutes[which], owners, sessions, which)
