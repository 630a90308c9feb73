"""Evicts the rows of users who have been idle for too long.

A user is forgotten after a fixed time without a click. The next click of a forgotten user starts a new row. A sweep
removes the rows of forgotten users from memory and from the changelog.

The rule that must not break: only the clicks of a partition and their order decide whether a click starts a new row.
Neither the batches nor the progress of the sweep may change the result. So idle time is measured on the partition's own
clock, not on the system clock. The partition's clock is the largest click time in the partition so far:

- It is in the partition's mark in the changelog, so it survives a restart.
- It never goes back, so a user who is forgotten once stays forgotten until the next click.
- A worker that catches up on old clicks forgets no user too early.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.events import Partition
from stream.state.arena import Arena, Found, Owner
from stream.state.event_ids import NO_ID, Hashes
from stream.state.row import Index, Rows, new_rows

I64 = npt.NDArray[np.int64]

DAY_MS = 86_400_000

SINGLE_CLICK_DIVISOR = 3
"""A user with one click is forgotten after a third of the time. Most of them are bots or browsers without cookies."""

CLICKS_PER_SWEEP = 256
"""A sweep takes 30 us, 4 % of a cycle of one click. So small cycles share a sweep."""

SLOTS_PER_CLICK = 5
"""How many slots a sweep checks for each click since the last sweep. This limits the time of a cycle, and yet rows can
be removed faster than clicks add them."""


class Forgetting(NamedTuple):
    """The rule that decides which users are forgotten.

    after_ms  a user is forgotten after so many ms without a click; 0 = never
    """

    after_ms: int

    def forgotten(self, clicks: npt.NDArray[np.uint32], last_ms: I64, now_ms: I64) -> npt.NDArray[np.bool_]:
        """True (n,) for each user who is forgotten.

        clicks, last_ms  (n,) fields of the users' rows
        now_ms           (n,) time of each user's partition, ms
        """
        if not self.after_ms:
            return np.zeros(len(last_ms), np.bool_)
        idle_ms = now_ms - last_ms
        if idle_ms.max(initial=0) <= self.after_ms // SINGLE_CLICK_DIVISOR:
            return np.zeros(len(last_ms), np.bool_)
        found = (idle_ms > self.after_ms // SINGLE_CLICK_DIVISOR) & (last_ms > 0)  # last_ms is 0 in a new row
        return found & ((clicks <= 1) | (idle_ms > self.after_ms)) if np.count_nonzero(found) else found

    def possible_within(self, ms: int) -> bool:
        """Whether a user can be forgotten after less than so many ms."""
        return self.after_ms > 0 and ms > self.after_ms // SINGLE_CLICK_DIVISOR


NEVER = Forgetting(0)


def reset_rows(rows: Rows, event_ids: Hashes | None, gone: Index) -> None:
    """Give new rows without event ids to the users at the positions `gone`."""
    if len(gone):
        rows[gone] = new_rows(len(gone), rows.dtype, int(rows["model"][gone[0]]))
        if event_ids is not None:
            event_ids[gone] = NO_ID


def partition_times(arena: Arena, found: Found, owner: npt.NDArray[np.intp], time_ms: I64) -> I64:
    """Compute the time of each click's partition, including the click itself.

    found    where the rows of the m users are
    owner    (n,) intp, index into the users: the user of each click. The clicks of each partition are in order
    time_ms  (n,) int64, times of the clicks, ms since the epoch
    returns  (n,) int64, ms since the epoch
    """
    if len(found.partitions) == 1:
        return _newest_so_far(time_ms, arena.newest_ms(found.partitions[0]))
    of_click = found.partition[owner]
    now_ms = np.empty(len(time_ms), np.int64)
    for number, partition in enumerate(found.partitions):
        mine = np.flatnonzero(of_click == number)
        now_ms[mine] = _newest_so_far(time_ms[mine], arena.newest_ms(partition))
    return now_ms


def _newest_so_far(time_ms: I64, before: int) -> I64:
    found: I64 = np.maximum.accumulate(np.maximum(time_ms, before))
    return found


def latest_times(partitions: Sequence[Partition], partition: Index, now_ms: I64) -> dict[Partition, int]:
    """The time of each partition after the last of its n clicks, ms since the epoch. One without a click is left out.

    partition  (n,) intp, index into partitions of each click. now_ms: (n,) int64, as `partition_times` returns them
    """
    newest = np.zeros(len(partitions), np.int64)
    newest[partition] = now_ms  # of several values numpy writes the last one
    return {one: time_ms for one, time_ms in zip(partitions, newest.tolist(), strict=True) if time_ms}


class Swept(NamedTuple):
    """The result of a sweep.

    owners     the forgotten users
    next_slot  the slot where the next sweep begins
    clicks     number of clicks since the last sweep; 0 if this cycle has swept
    """

    owners: Sequence[Owner]
    next_slot: int
    clicks: int


def sweep(arena: Arena, forgetting: Forgetting, clicks: int, busy: Collection[Owner]) -> Swept:
    """Find the forgotten users in the next slots of the arena, once in CLICKS_PER_SWEEP clicks or more.

    Does not change the arena. Users of a partition without a click in this cycle are not part of the result: the
    transaction of the cycle does not write the mark of such a partition, and a recovery may still be reading its rows.

    clicks  number of clicks in this cycle
    busy    users with a click in this cycle. They are never part of the result
    """
    clicks += arena.unswept_clicks
    if clicks < CLICKS_PER_SWEEP:
        return Swept((), arena.next_slot, clicks)
    end = min(arena.capacity, arena.next_slot + SLOTS_PER_CLICK * clicks)
    next_slot = end if end < arena.capacity else 0
    used, history, last_ms, now_ms = arena.ages(arena.next_slot, end)
    slots = used[forgetting.forgotten(history, last_ms, now_ms)].tolist()
    if not slots:
        return Swept((), next_slot, 0)
    busy, partitions = set(busy), {partition for partition, _ in busy}
    owners = [owner for owner in map(arena.owner, slots) if owner[0] in partitions and owner not in busy]
    return Swept(owners, next_slot, 0)
