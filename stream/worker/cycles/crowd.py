"""Finds the click with which more sessions end than one transaction takes (sessions.ends.MOST).

The time of its partition then moves on in steps before it is decided, as if the partition were at rest: the sessions
are what they would be if the click ended them. Those of its own batch do not count, so whether there are steps can
depend on the batches; a step into another hour is one more hour for the rules about full hours, as a rest is.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from stream.events import Partition
from stream.kafka.consumer.fetch import Chunk, split
from stream.sessions.ends import MOST, crowded
from stream.sessions.track import I64
from stream.state.arena import Arena
from stream.state.seen import MINUTE_MS
from stream.worker.cycles.decode import Decoded


class Crowd(NamedTuple):
    """The first click of a batch with which too many sessions end.

    minute  with which they are too many
    number  of its chunk in the batch
    offset  of its message
    """

    partition: Partition
    minute: int
    number: int
    offset: int

    def cut(self, chunks: Sequence[Chunk]) -> tuple[list[Chunk], list[Chunk]]:
        """The chunks of the batch before the click, and those from it on."""
        number, records = self.number, chunks[self.number].records
        at = next(i for i, record in enumerate(records) if record.offset >= self.offset)
        if not at:
            return list(chunks[:number]), list(chunks[number:])
        first, rest = split(chunks[number], at)
        return [*chunks[:number], first], [rest, *chunks[number + 1 :]]


def first_crowd(arena: Arena, found: Decoded, time_ms: I64) -> Crowd | None:
    """The first such click of a batch; None = there is none. time_ms: (n,) of its clicks, ms since the epoch"""
    room, edges = MOST, pairwise([*found.begins, len(found.clicks)])
    for number, (chunk, (begin, end)) in enumerate(zip(found.chunks, edges, strict=True)):
        if begin == end:
            continue
        minutes = np.maximum.accumulate(time_ms[begin:end]) // MINUTE_MS
        due = crowded(arena, chunk.partition, int(minutes[-1]), room)
        if due.crowd is not None:
            at = int(minutes.searchsorted(due.crowd))
            return Crowd(chunk.partition, due.crowd, number, found.origins[begin + at].offset)
        room -= due.sessions
    return None
