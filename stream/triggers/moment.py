"""What is known of a user when a trigger is considered: at the end of a session, after time away, or at a click.

A moment is that of the user's last click before it. If the click is of an earlier batch, the user's row in the arena is
as of this click. Else the clicks of the batch say it.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from stream.detect.detector import Evidence
from stream.sessions.ends import BEFORE, Batch
from stream.sessions.track import I64, Track
from stream.state.arena import NO_SLOT, Arena, Owner
from stream.state.row import Rows
from stream.triggers.memory import CONSENT, U8, UNKNOWN, Times, consents, times_of, write_times

Life = tuple[Owner, int, int]
"""A user's row between two times of being forgotten: by how many requests in the batch, and how often for idleness."""

Changed = tuple[Sequence[Owner], Rows | None]
"""The users without a click in a batch whose rows are changed, and these rows (n,)."""


class Moments:
    """The moments of users who have no click in the batch: `after` of all of them is BEFORE."""

    def __init__(self, arena: Arena) -> None:
        """The arena does not change while this is used."""
        self._arena = arena
        self._rows: dict[Owner, np.void | None] = {}

    def row(self, owner: Owner) -> np.void | None:
        """The user's row in the arena; None = there is none."""
        if owner not in self._rows:
            slots = self._arena.find([owner]).slots
            self._rows[owner] = None if slots[0] == NO_SLOT else self._arena.gather(slots)[0]
        return self._rows[owner]

    def recent(self, owner: Owner, after: int) -> list[int]:
        """The user's last items, the last one first. after: as in Ended"""
        row = self.row(owner)
        return [] if row is None else [int(item) for item in row["recent"]]

    def consent(self, owner: Owner, after: int) -> int:
        """The last known consent, one of the values of memory. after: as in Ended"""
        row = self.row(owner)
        return UNKNOWN if row is None else int(row[CONSENT])

    def life(self, owner: Owner, after: int) -> Life:
        """Which of the user's rows has what is known. after: as in Ended"""
        return owner, 0, 0

    def times(self, life: Life) -> Times:
        """The times of the last triggers in this row before the batch."""
        owner, requests, idle = life
        row = None if requests or idle else self.row(owner)
        return {} if row is None else times_of(row)

    def write(self, times: Mapping[Life, Times]) -> Changed:
        """The rows with these times."""
        owners = [owner for owner, _, _ in times]
        if not owners:
            return (), None
        rows = self._arena.gather(self._arena.find(owners).slots)
        for at, of_user in enumerate(times.values()):
            write_times(rows, at, of_user)
        return owners, rows


class BatchMoments(Moments):
    """The moments of a batch."""

    def __init__(self, arena: Arena, batch: Batch, track: Track, seen: Evidence, given: U8 | None, rows: Rows) -> None:
        """seen: the clicks of the track. given, rows: as in Triggers"""
        super().__init__(arena)
        self.batch, self.track, self.seen = batch, track, seen
        self._given = np.full(len(seen.owner), UNKNOWN, np.uint8) if given is None else given
        self._fresh = seen.clicks_before == 0
        self._after = rows

    def row(self, owner: Owner) -> np.void | None:
        return self.batch.taken[owner] if owner in self.batch.taken else super().row(owner)

    @cached_property
    def consents(self) -> U8:
        """As memory.consents."""
        return consents(self.track, self._given, self._fresh, self.batch.before[CONSENT])

    @cached_property
    def _idle(self) -> I64:
        """(d,) how often the user has begun again up to each click of the track."""
        begun = np.cumsum(self._fresh[self.track.by_user])
        first = np.flatnonzero(self.track.first)
        before = np.append(0, begun)[first].repeat(np.diff(np.append(first, len(begun))))
        found: I64 = begun - before
        return found

    def recent(self, owner: Owner, after: int) -> list[int]:
        if after == BEFORE:
            return super().recent(owner, after)
        return [int(item) for item in self.seen.recent[self.track.by_user[after]]]

    def consent(self, owner: Owner, after: int) -> int:
        return super().consent(owner, after) if after == BEFORE else int(self.consents[after])

    def life(self, owner: Owner, after: int) -> Life:
        if after == BEFORE:
            return super().life(owner, after)
        life = self.batch.life
        return owner, 0 if life is None else int(life[self.track.owner[after]]), int(self._idle[after])

    def write(self, times: Mapping[Life, Times]) -> Changed:
        """Write the times of users with a click in the batch to their rows; `Moments.write` for the others."""
        if not times:
            return (), None
        owners, life = self.batch.owners, self.batch.life
        lives = [0] * len(owners) if life is None else life.tolist()
        idle = dict(zip(self.track.owner.tolist(), self._idle.tolist(), strict=True))  # of the last click of each
        for user, (owner, requests) in enumerate(zip(owners, lives, strict=True)):
            of_user = times.get((owner, requests, idle.get(user, 0)))
            if of_user is not None and self._after["clicks"][user] > 0:  # else begun again with a click that failed
                write_times(self._after, user, of_user)
        busy = set(owners)  # a user whom a request removes is left out where the rows are staged
        return super().write({life_: of_user for life_, of_user in times.items() if life_[0] not in busy})
