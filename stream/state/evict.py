"""Users who stay away are forgotten: their next click starts a new row, and the old row leaves memory and changelog.

The rule that must not break: whether a click starts a new row follows from the clicks of its partition in their order,
never from the batch it is in or from when the sweep came by. So the time is the partition's own: the largest click time
that it has seen. That is the largest last_ms of its rows, so it survives a restart, and it never goes back: a user whom
the sweep may remove would be forgotten at every later click. Old clicks that a worker catches up on forget nobody.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.state.arena import Arena, Owner

I64 = npt.NDArray[np.int64]

DAY_MS = 86_400_000

SINGLE_CLICK = 3
"""A user with one click is forgotten after a third of the time: most are bots or browsers that keep no cookies."""

SLOTS_PER_CLICK, SLOTS_PER_CYCLE = 4, 256
"""How far a sweep looks: users can leave faster than they come, and no cycle waits for the others' rows."""


class Forgetting(NamedTuple):
    """After how many ms without a click a user is forgotten; 0 = never."""

    after_ms: int

    def forgotten(self, clicks: npt.NDArray[np.uint32], last_ms: I64, now_ms: I64) -> npt.NDArray[np.bool_]:
        """(n,) which users are forgotten: fields of their rows, and the time of their partition."""
        if not self.after_ms:
            return np.zeros(len(last_ms), np.bool_)
        limit = np.where(clicks > 1, self.after_ms, self.after_ms // SINGLE_CLICK)
        return (last_ms > 0) & (now_ms - last_ms > limit)  # 0: a new row


NEVER = Forgetting(0)


def partition_times(arena: Arena, owners: Sequence[Owner], owner: npt.NDArray[np.intp], time_ms: I64) -> I64:
    """(n,) the time of each click's partition when the click has come, ms.

    owners   m users
    owner    (n,) index into owners of each click's user; the clicks of a partition in order
    time_ms  (n,) of the clicks
    """
    number = {partition: i for i, partition in enumerate(dict.fromkeys(partition for partition, _ in owners))}
    of_click = np.fromiter((number[partition] for partition, _ in owners), np.intp, len(owners))[owner]
    now_ms = np.empty(len(time_ms), np.int64)
    for partition, i in number.items():
        mine = np.flatnonzero(of_click == i)
        now_ms[mine] = np.maximum.accumulate(np.maximum(time_ms[mine], arena.newest_ms(partition)))
    return now_ms


class Swept(NamedTuple):
    """The users whom a sweep has found forgotten, and the slot at which the next one begins."""

    owners: Sequence[Owner]
    hand: int


def sweep(arena: Arena, forgetting: Forgetting, clicks: int, busy: Collection[Owner]) -> Swept:
    """Look at the next slots of the arena, as many as befit a cycle of so many clicks; touches nothing.

    busy  users who click in this cycle: they stay
    """
    end = min(arena.capacity, arena.hand + SLOTS_PER_CYCLE + SLOTS_PER_CLICK * clicks)
    hand = end if end < arena.capacity else 0
    ages = arena.ages(arena.hand, end)
    slots = ages.slots[forgetting.forgotten(ages.clicks, ages.last_ms, ages.newest_ms)].tolist()
    if not slots:
        return Swept((), hand)
    busy = set(busy)
    return Swept([owner for owner in map(arena.owner, slots) if owner not in busy], hand)
