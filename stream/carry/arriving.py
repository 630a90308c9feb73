"""Puts the row of an anonymous id in the place of a user's row, if the user has none.

It arrives with a click of the user, and before it. A user who has a row keeps it, and the other one is dropped: what
was done under an anonymous id is not mixed into the state of a known person.

The rule that must not break: the result depends only on the messages of the partition and their order, never on the
batch. A row that is forgotten by the time of the partition counts as none, whether it is swept or not.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stream.carry.leaving import CLOSED, time_of
from stream.model.runtime import I64
from stream.sessions.track import SEEN
from stream.state.arena import NO_SLOT, Arena, Found, Owner
from stream.state.checksum import intact
from stream.state.event_ids import SIZES, Hashes, from_bytes
from stream.state.evict import Forgetting
from stream.state.row import Head, Index, Rows


class Arriving(NamedTuple):
    """A row that arrives.

    before  number of clicks of the batch before it
    user    index into the owners of the batch
    offset  of its message
    row     as `readable` has accepted it
    """

    before: int
    user: int
    offset: int
    row: bytes


Taken = Mapping[Owner, np.void]
"""User -> the row that has become the user's, as it is before the user's next click."""

NOTHING: Taken = {}


def readable(arena: Arena, key: bytes, row: bytes) -> bool:
    """Whether the arena can hold a row under this key: it is unchanged, and of this model and layout."""
    rest = len(row) - arena.dtype.itemsize
    return rest in SIZES and intact(key, row) and Head.of(row).model == arena.model


def put_in_place(
    arriving: Sequence[Arriving],
    arena: Arena,
    forgetting: Forgetting,
    owners: Sequence[Owner],
    owner: Index,
    found: Found,
    of_click: Index,
    now_ms: I64,
    rows: Rows,
    event_ids: Hashes | None,
) -> Taken:
    """Write the rows that arrive in a batch to `rows` and `event_ids` where their users have none. Returns these rows.

    Between a user's row and one that arrives for the user, no such time may pass in the batch that the first one is
    forgotten, nor a request that ends it.

    owners, owner  (m,) and (n,) as in Columns
    found, rows, event_ids  (m,) before the batch; event_ids None = no row has any, and none arrives
    of_click, now_ms  as in `left`
    """
    taken: dict[Owner, np.void] = {}
    for one in arriving:
        user, at = owners[one.user], one.user
        if np.count_nonzero(owner[: one.before] == at):
            continue
        time_ms = time_of(arena, user, found, of_click, now_ms, one.before)
        if found.slots[at] != NO_SLOT:
            has = rows[at : at + 1]
            if not forgetting.forgotten(has["clicks"], has["last_ms"], np.array([time_ms]))[0]:
                continue
        size = arena.dtype.itemsize
        row = np.frombuffer(one.row[:size], arena.dtype).copy()
        row["source_offset"] = one.offset - 1
        if row[SEEN][0] != CLOSED:  # the session goes on, so it is one of the time that this partition has
            row[SEEN] = max(time_ms, int(row["last_ms"][0]))
        rows[at : at + 1] = row
        assert event_ids is not None
        event_ids[at : at + 1] = from_bytes([one.row[size:]])
        taken[user] = row[0]
    return taken
