"""Takes the row of an anonymous id out of its partition, at a click with which the id turns out to be a user's.

Of the id's clicks before that click nothing stays where it was, as after a request to forget it. So its open session
has no end under the anonymous id. What in the row is of the partition is changed for another one:

    source_offset          there is none yet
    seen_ms                CLOSED, if the session had ended by the time of the partition: it does not end again
    offsets of a session or an episode  as `elsewhere` gives them, so that its id stays what it was
    counts of the partition's users     zero: the user is a new one where the row goes

The rule that must not break: the row depends only on the clicks of the partition and their order, never on the batch.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from stream.detect.episodes import OPENED, UNUSUAL_MS
from stream.events import elsewhere
from stream.model.runtime import I64
from stream.population.watch import ROW_FIELDS
from stream.sessions.track import NAMES, SEEN, due
from stream.sessions.unusual import ENDING
from stream.state.arena import NO_SLOT, Arena, Found, Owner
from stream.state.checksum import checksums
from stream.state.event_ids import Hashes, to_bytes
from stream.state.evict import Forgetting
from stream.state.row import NO_OFFSET, Index, Rows
from stream.state.seen import MINUTE_MS

Left = Mapping[int, bytes]
"""Number of a row that leaves -> the row as the changelog of the user would have it."""

NOTHING: Left = {}

CLOSED = 0
"""The field SEEN of a row whose session had ended, as of a user who was never seen: nothing ends by it again."""

SESSION, END = NAMES[0], ENDING[1].name


class Leaving(NamedTuple):
    """A row that leaves.

    before  number of clicks of the batch before it
    owner   the anonymous id
    life    number of requests before it that end a row of this id
    number  tells it apart from the others of the batch
    user    the key of the row where it goes
    """

    before: int
    owner: Owner
    life: int
    number: int
    user: bytes


def left(
    leaving: Sequence[Leaving],
    arena: Arena,
    forgetting: Forgetting,
    owners: Sequence[Owner],
    life: Index | None,
    found: Found,
    of_click: Index,
    now_ms: I64,
    rows: Rows,
    event_ids: Hashes | None,
    others: tuple[Sequence[Owner], Rows | None],
) -> Left:
    """The rows that leave in a batch.

    An id without a row, or that is forgotten by the time of its partition, has none.

    owners, life  (m,) as in Columns
    found         where their rows were before the batch
    of_click, now_ms  (n,) of each click: index into found.partitions, and the time of the partition
    rows, event_ids   (m,) after the batch
    others        the owners without a click in the batch whose rows are changed, and these rows
    """
    if not leaving:  # nearly all batches
        return NOTHING
    lives = [0] * len(owners) if life is None else life.tolist()
    entry = {each: i for i, each in enumerate(zip(owners, lives, strict=True))}
    changed = {owner: i for i, owner in enumerate(others[0])}
    sent: dict[int, bytes] = {}
    for one in leaving:
        at = entry.get((one.owner, one.life))
        ids: Hashes | None = None
        if at is not None:
            row = rows[at : at + 1].copy()
            ids = None if event_ids is None else event_ids[at : at + 1]
        else:
            slots = arena.find([one.owner]).slots
            if one.life or slots[0] == NO_SLOT:
                continue
            row = arena.gather(slots)
            if one.owner in changed and others[1] is not None:
                row = others[1][changed[one.owner] : changed[one.owner] + 1].copy()
            ids = arena.event_ids.gather(slots) if arena.event_ids else None
        time_ms = time_of(arena, one.owner, found, of_click, now_ms, one.before)
        gone = forgetting.forgotten(row["clicks"], row["last_ms"], np.array([time_ms]))
        if row["clicks"][0] and not gone[0]:
            sent[one.number] = _sealed(row, ids, one, time_ms)
    return sent


def time_of(arena: Arena, owner: Owner, found: Found, of_click: Index, now_ms: I64, before: int) -> int:
    """The time of an owner's partition before the click at a position, ms since the epoch. The rest is as in `left`."""
    partition = owner[0]
    if partition in found.partitions:
        clicks = np.flatnonzero(of_click[:before] == found.partitions.index(partition))
        if len(clicks):
            return int(now_ms[clicks[-1]])
    return arena.newest_ms(partition)


def _sealed(row: Rows, ids: Hashes | None, one: Leaving, time_ms: int) -> bytes:
    """The row (1,) as it goes; it is changed."""
    number = one.owner[0].number
    row["source_offset"] = NO_OFFSET
    if due(row[SEEN])[0] <= time_ms // MINUTE_MS:
        row[SEEN] = CLOSED
    row[SESSION] = elsewhere(number, int(row[SESSION][0]))
    if row[UNUSUAL_MS][0]:
        row[OPENED] = elsewhere(number, int(row[OPENED][0]))
    if END in (row.dtype.names or ()) and row[END][0] > 0:  # 1 + an offset
        row[END] = 1 + elsewhere(number, int(row[END][0]) - 1)
    for field in ROW_FIELDS:
        row[field.name] = 0
    rests = None if ids is None else to_bytes(ids)
    row["checksum"] = checksums([one.user], row, rests)
    return row.tobytes() + (rests[0] if rests else b"")
