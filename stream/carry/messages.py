"""Reads the messages by which a state goes from an anonymous id to a user, and writes the second one of them.

    eddy-join     a click with both ids, keyed by the anonymous one  ->  the second message, keyed by the user, with the
                  click, and with the state if there is one, which leaves in the same transaction
    eddy-carried  that message  ->  the state, if the user has none, and after it the click

The second message goes to the end of the user's partition of the same topic. Workers of other groups skip it: each
group writes its own, with its own state.

The rule that must not break: each message of the first kind has exactly one of the second, and those with one anonymous
id keep their order, whatever they are: a click without a state, or one that is not valid for the worker that reads it.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from stream.carry.arriving import Taken, readable
from stream.carry.leaving import Left
from stream.events import Click, Partition
from stream.kafka.consumer.fetch import Chunk, split
from stream.kafka.delivery import Record
from stream.state.arena import NO_SLOT, Arena, Owner
from stream.state.evict import Forgetting
from stream.wire.codec import Codec
from stream.wire.requests import CARRIED_HEADER, Carried, carried, encode_carried, user_to_join, without_ours


class Message(NamedTuple):
    """The click of a message of the second kind, with the fields of aiokafka's ConsumerRecord that a click has."""

    offset: int
    timestamp: int
    key: bytes
    value: bytes


class Asking(Protocol):
    """Takes notes of a batch; engine.requests has it."""

    def leaves(self, owner: Owner, number: int, user: bytes) -> None: ...
    def arrives(self, owner: Owner, offset: int, row: bytes) -> None: ...
    def about(self, owner: Owner) -> bool: ...


class Way(NamedTuple):
    """Of the states of one worker.

    group       of the worker
    topic       of the clicks
    most_bytes  of key and headers of a message of this topic, together
    """

    group: str
    topic: str
    most_bytes: int


class Moves:
    """The messages of one batch.

    rest     the chunk whose begin must be the begin of another batch; None = there is none
    arrived  number of states that have arrived
    refused  number of states that are broken, or of another model or layout. The clicks with them are decided
    """

    def __init__(
        self,
        way: Way,
        arena: Arena,
        forgetting: Forgetting,
        codec: Codec,
        clicks: Sequence[Click],
        requests: Asking,
    ) -> None:
        """clicks, requests: those of the batch so far. The caller adds one after the other"""
        self._way = way
        self._arena, self._forgetting, self._codec = arena, forgetting, codec
        self._clicks, self._requests = clicks, requests
        self._joins: list[tuple[Any, bytes]] = []
        self._users: dict[Partition, set[bytes]] = {}
        self._times: dict[Partition, tuple[int, int]] = {}  # the least and the largest time of the clicks, ms
        self._noted = 0
        self.rest: Chunk | None = None
        self.arrived = self.refused = 0

    def records(self, chunk: Chunk) -> Iterator[Any]:
        """The records of a chunk that may be clicks, in their order. It ends early if `rest` has to begin a batch."""
        for number, record in enumerate(chunk.records):
            if not record.headers:
                yield record
                continue
            user, found = user_to_join(record), carried(record)
            if user is not None:
                self._join(chunk.partition, record, user)
            elif found is None:
                yield record
            elif found.group == self._way.group:
                if found.row is not None and not self._arrive(chunk.partition, record, found.row):
                    self.rest = split(chunk, number)[1]
                    break
                yield Message(record.offset, record.timestamp, record.key, found.value)
        self._note(chunk.partition)

    def split(self, chunks: Sequence[Chunk], at: int) -> tuple[list[Chunk], list[Chunk]]:
        """The chunks up to `rest`, which is the end of the one at this position, and from there on."""
        assert self.rest is not None
        chunk = chunks[at]
        first, rest = split(chunk, len(chunk.records) - len(self.rest.records))
        return [*chunks[:at], first], [rest, *chunks[at + 1 :]]

    def sent(self, left: Left) -> list[Record]:
        """The messages of the second kind for the batch. left: the rows that leave with it"""
        records: list[Record] = []
        for number, (record, user) in enumerate(self._joins):
            headers = [*without_ours(record.headers), self._header(record.value, left.get(number))]
            if self._size(user, headers) > self._way.most_bytes:
                headers = headers[-1:]
            over = self._size(user, headers) - self._way.most_bytes
            if over > 0:  # a click beyond this worker's limit, which another worker has copied: a dead letter anyway
                headers = [self._header(record.value[: max(1, len(record.value) - over)], None)]
            records.append(Record(self._way.topic, user, None, None, max(0, record.timestamp), headers))
        return records

    def _header(self, value: bytes, row: bytes | None) -> tuple[str, bytes | None]:
        return CARRIED_HEADER, encode_carried(Carried(self._way.group, value, row))

    @staticmethod
    def _size(key: bytes, headers: Sequence[tuple[str, bytes | None]]) -> int:
        return len(key) + sum(len(name) + len(data or b"") + 8 for name, data in headers)

    def outcomes(self, taken: Taken) -> dict[str, int]:
        """What became of the states that came with the batch -> how many. taken: the rows that have become a user's"""
        return {"taken": len(taken), "not_needed": self.arrived - len(taken), "refused": self.refused}

    def _join(self, partition: Partition, record: Any, user: bytes) -> None:
        """Note a message of the first kind, and that the row of its anonymous id leaves, if it may have one."""
        self._note(partition)
        key = self._codec.user(record.key)
        if key is not None:
            owner = partition, key
            if key in self._users[partition] or self._arena.find([owner]).slots[0] != NO_SLOT:
                self._requests.leaves(owner, len(self._joins), self._codec.user(user) or user)
        self._joins.append((record, user))

    def _arrive(self, partition: Partition, record: Any, row: bytes) -> bool:
        """Note that a row arrives. False if its message must be the first one of a batch."""
        key = self._codec.user(record.key)
        if key is None or not readable(self._arena, key, row):
            self.refused += 1
            return True
        self._note(partition)
        owner = partition, key
        if self._must_begin(owner):
            return False
        self._requests.arrives(owner, record.offset, row)
        self._users[partition].add(key)
        self.arrived += 1
        return True

    def _must_begin(self, owner: Owner) -> bool:
        """Whether a row of this user may have ended by now, in the batch or before it, by a request or by idle time.

        Then the user would have two rows in the batch, and one of them would not be in the arena. The first message of
        a batch begins it already.
        """
        if self._requests.about(owner):
            return True
        partition, key = owner
        least, largest = self._times.get(partition, (0, 0))
        now_ms = max(largest, self._arena.newest_ms(partition))
        if key in self._users[partition]:
            return self._forgetting.possible_within(now_ms - least)
        slots = self._arena.find([owner]).slots
        if not self._clicks or slots[0] == NO_SLOT:
            return False
        row = self._arena.gather(slots)
        return bool(self._forgetting.forgotten(row["clicks"], row["last_ms"], np.array([now_ms]))[0])

    def _note(self, partition: Partition) -> None:
        """Note the users and times of the clicks of this partition that were added."""
        users = self._users.setdefault(partition, set())
        for click in self._clicks[self._noted :]:
            users.add(click.user_id.encode())
            self._see(partition, click.timestamp)
        self._noted = len(self._clicks)

    def _see(self, partition: Partition, time_ms: int) -> None:
        least, largest = self._times.get(partition, (time_ms, time_ms))
        self._times[partition] = min(least, time_ms), max(largest, time_ms)
