"""Decides what a repair changes: the offset at which each partition continues, and the partition of each row.

    found    what Kafka has: offsets, clicks' first and end offsets, changelog
    plan     per partition: offset, rows to write, rows to delete, mark. Nothing is read or written here

The rule that must not break: afterwards each partition's offset, mark and rows agree, every row that was intact is in
exactly one partition, and no offset is set back over clicks that were decided. A plan of what a repair has left changes
nothing, so a repair can be run again at any time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import Mark
from stream.log_lines import hashed
from stream.sessions.track import due
from stream.state.checksum import with_head
from stream.state.row import CHECKSUM_BYTES, NO_OFFSET, Head
from stream.state.seen import MINUTE_MS

CHECKSUMS = 1 << 64

Place = Callable[[bytes], int]
"""User id in UTF-8 -> the partition where the user's clicks are now."""


@dataclass(frozen=True)
class Found:
    """One partition as Kafka has it.

    partition  of the clicks
    first      first offset of the clicks that Kafka still has
    end        high watermark of the clicks
    committed  the group's offset; None if it has none
    mark       the changelog's mark; None if it has none
    rows       user id -> row, only rows that are intact
    broken     user ids of the other rows
    replaced   True if the clicks are not those of which the rows were made (the topic was created again); None if it
               could not be found out or is not needed
    begun      True if an earlier repair began to change this partition and did not end
    """

    partition: Partition
    first: int
    end: int
    committed: int | None = None
    mark: Mark | None = None
    rows: Mapping[bytes, bytes] = field(default_factory=dict)
    broken: Sequence[bytes] = ()
    replaced: bool | None = None
    begun: bool = False

    @property
    def agrees(self) -> bool:
        """True if offset and mark agree, and the clicks reach as far."""
        return self.mark is not None and self.committed == self.mark.next <= self.end


@dataclass(frozen=True)
class Change:
    """What is written to one partition, all in one transaction.

    found    the partition before
    next     the offset to continue at
    rows     user id -> row; None deletes it
    mark     the new mark; None if the partition stays without rows and offset
    arrived  number of rows from other partitions
    left     number of rows that went to other partitions
    merged   number of rows that were left out because their user has a row with more clicks
    why      the reason for the offset, for a person
    """

    found: Found
    next: int
    rows: Mapping[bytes, bytes | None]
    mark: Mark | None
    arrived: int
    left: int
    merged: int
    why: str

    @property
    def needed(self) -> bool:
        """False if the partition is already as it should be."""
        if self.mark is None:
            return False
        return bool(self.rows) or self.found.begun or not self.found.agrees or self.mark != self.found.mark


def plan(found: Sequence[Found], place: Place | None, accept_lost_rows: bool) -> list[Change]:
    """Plan a repair of all partitions; `found` is in the order of their numbers, without gaps.

    place             None: every row stays in its partition
    accept_lost_rows  continue although rows are missing: their users begin without history
    Raises ConfigError if rows are missing, or if the offset of a partition cannot be found out.
    """
    continued = []
    for one in found:
        if not accept_lost_rows:
            _check_rows(one)
        continued.append(_offset(one))
    newest = max((one.mark.time_ms for one in found if one.mark), default=0)
    times = [one.mark.time_ms if one.mark else newest for one in found]
    wanted: list[dict[bytes, bytes]] = [{} for _ in found]
    merged = [0] * len(found)
    for number, one in enumerate(found):
        for key, row in one.rows.items():
            to = number if place is None else place(key)
            if to != number:
                row = _moved(key, row, times[number], times[to])
            if key in wanted[to]:
                merged[number] += 1
                row = max(wanted[to][key], row, key=_history)
            wanted[to][key] = row
    parts = zip(found, continued, times, wanted, merged, strict=True)
    return [_change(one, *of, time_ms, rows, n) for one, of, time_ms, rows, n in parts]


def _moved(key: bytes, row: bytes, from_ms: int, to_ms: int) -> bytes:
    """The row in a partition with another time. A session that has not ended ends half an hour after this time."""
    seen_ms = Head.of(row).seen_ms
    is_open = bool(seen_ms) and int(due(np.array([seen_ms]))[0]) > from_ms // MINUTE_MS
    return with_head(key, row, seen_ms=to_ms if is_open else 0)


def _change(found: Found, next_: int, why: str, time_ms: int, wanted: Mapping[bytes, bytes], merged: int) -> Change:
    rows = {
        key: row
        if found.rows.get(key) == row and Head.of(row).source_offset < next_
        else with_head(key, row, source_offset=NO_OFFSET)
        for key, row in wanted.items()
    }
    checksum = sum(int.from_bytes(row[:CHECKSUM_BYTES], "little") for row in rows.values()) % CHECKSUMS
    untouched = found.mark is None and found.committed is None and not rows
    gone = [key for key in (*found.rows, *found.broken) if key not in rows]
    return Change(
        found=found,
        next=next_,
        rows={
            **{key: row for key, row in rows.items() if found.rows.get(key) != row},
            **dict.fromkeys(gone),
        },
        mark=None if untouched else Mark(next_, len(rows), checksum, time_ms, found.mark.kept if found.mark else b""),
        arrived=sum(key not in found.rows for key in rows),
        left=len(gone) - sum(key not in rows for key in found.broken),
        merged=merged,
        why=why,
    )


def _history(row: bytes) -> tuple[int, int]:
    head = Head.of(row)
    return head.clicks, head.last_ms


def _check_rows(found: Found) -> None:
    """Raises ConfigError if rows of the partition are missing."""
    totals = len(found.rows), sum(int.from_bytes(row[:CHECKSUM_BYTES], "little") for row in found.rows.values())
    if found.mark is None:
        if not found.rows and not found.committed:
            return
        lost = f"the changelog of {found.partition} is empty, and the group is at offset {found.committed}"
    elif found.mark.accounts_for(totals[0], totals[1] % CHECKSUMS, len(found.broken)):
        return
    else:
        lost = (
            f"the changelog of {found.partition} lost or changed rows: {found.mark.users} users were written, "
            f"{totals[0]} intact rows are there"
        )
        if found.broken:
            lost += f", and {len(found.broken)} broken ones, the first one of user {hashed(found.broken[0])}"
    raise ConfigError(
        f"{lost}; restore the topic from a copy, or add --accept-lost-rows: users without a row then begin without "
        "history, and no click is decided twice"
    )


def _offset(found: Found) -> tuple[int, str]:
    """The offset to continue at and the reason. No click before it is undecided, and none from it on is decided."""
    first, end, committed, mark = found.first, found.end, found.committed, found.mark
    if mark is None:
        if committed is None:
            return first, "new partition"
        if committed <= end:
            return committed, "no rows; the group's offset counts"
        return first, "no rows, and the group's offset is behind the end: the topic was created again"
    if found.agrees and not found.replaced:
        return mark.next, "offset and rows agree"
    replaced = found.replaced
    if replaced is None:
        if mark.next > end:
            replaced = True
        elif mark.next <= first:
            replaced = False
        else:
            raise ConfigError(
                f"it cannot be seen whether {found.partition} was created again since its rows were written: no click "
                "of a user with a row is left to compare. Add --clicks same if it is the topic that the workers have "
                "read, or --clicks new if it was created again"
            )
    if replaced:
        return first, "the topic was created again: it is read from its first click"
    if mark.next > end:
        return end, "Kafka lost decided clicks at the end"
    if committed is None or committed > end:
        return mark.next, "the group had no usable offset: the rows' offset counts"
    if committed < mark.next:
        return mark.next, "the group's offset was set back: the rows' offset counts"
    return committed, f"rows are older than the group's offset: {committed - mark.next} offsets are in no row"
