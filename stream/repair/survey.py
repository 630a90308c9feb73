"""Reads what a repair must know: offsets, clicks' ends, rows and marks, and whether the topic was created again."""

import heapq
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream.access.refusal import Admin
from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import FETCHED, POSITION_KEY, REPAIRING, Changelog, Mark
from stream.kafka.topics import partition_counts
from stream.repair.placement import KEYS, STAY, find_partitioner, partitions_before, placed
from stream.repair.plan import Change, Found, Place
from stream.settings import Topics
from stream.state.checksum import intact
from stream.state.row import HEAD, Head

COMPARED = 5
"""Clicks of a partition that are compared with rows, to see whether the topic was created again."""

SILENT_S = 30.0
PROGRESS_ROWS = 200_000

Say = Callable[[str], None]


class Survey(NamedTuple):
    """What was found.

    before       number of partitions for which the rows were written
    found        one per partition of the clicks
    partitioner  name of the partitioner that places the rows now; None if no row moves
    """

    before: int
    found: Sequence[Found]
    partitioner: str | None

    @property
    def place(self) -> Place | None:
        """Where the rows belong; None if none moves."""
        name, now = self.partitioner, len(self.found)
        return None if name is None else lambda key: placed(key, name, now)


def survey(
    admin: Admin, broker: str, changelog: Changelog, topics: Topics, partitioner: str, clicks: str, say: Say
) -> Survey:
    """Read everything. Nothing is changed.

    partitioner  a name of PARTITIONERS, STAY, or "auto"
    clicks       "same", "new" or "auto": whether a topic was created again, where this cannot be seen
    Raises ConfigError if the topics do not fit or it cannot be decided what to do.
    """
    counts = partition_counts(admin, broker)
    missing = [name for name in (topics.clicks, topics.changelog) if name not in counts]
    if missing:
        raise ConfigError(
            f"no topic {', '.join(missing)} on {broker}; create it with `eddy topics create`, then run the repair"
        )
    now, size = counts[topics.clicks], counts[topics.changelog]
    if size > now:
        raise ConfigError(
            f"topic {topics.changelog} has {size} partitions, {topics.clicks} has {now}: rows of {size} partitions "
            f"cannot be moved to fewer; create {topics.clicks} with {size} partitions, or add the missing ones"
        )
    partitions = [Partition(topics.clicks, number) for number in range(now)]
    found, begun_from = _read(changelog, partitions, size, say)
    sample = {number: [*one.rows][:KEYS] for number, one in enumerate(found)}
    before = begun_from or (size if size < now else partitions_before(sample, now))
    with closing(changelog.consumer("read_committed")) as consumer:
        found = [replace(one, replaced=_replaced(consumer, one, clicks)) for one in found]
        name = partitioner
        if partitioner == "auto" and (before == now or not any(sample.values())):
            name = STAY
        elif partitioner == "auto":
            added = {
                number: [key for _, key in _keys(consumer, one.partition, one.first, one.end, KEYS) if key]
                for number, one in enumerate(found[before:], before)
            }
            name = find_partitioner({number: sample[number] for number in range(before)}, before, added, now)
    return Survey(before, found, None if name == STAY else name)


class Strays(NamedTuple):
    """Clicks that are not decided yet and lie in a partition from which the rows of their users move away."""

    partition: Partition
    clicks: int
    users: int


def strays(changelog: Changelog, changes: Sequence[Change], place: Place) -> list[Strays]:
    """The strays in each partition of a plan that has some."""
    found = []
    with closing(changelog.consumer("read_committed")) as consumer:
        for number, change in enumerate(changes):
            partition, end = change.found.partition, change.found.end
            keys = [
                key
                for _, key in _keys(consumer, partition, change.next, end)
                if key is not None and place(key) != number
            ]
            if keys:
                found.append(Strays(partition, len(keys), len(set(keys))))
    return found


def _read(changelog: Changelog, partitions: Sequence[Partition], size: int, say: Say) -> tuple[list[Found], int | None]:
    """Read the changelog, which has `size` partitions. Also returns the old number of partitions of a begun repair."""
    committed, ends = changelog.committed(partitions), changelog.ends(partitions)
    values: dict[Partition, dict[bytes, bytes]] = {partition: {} for partition in partitions}
    read = 0

    def take(partition: Partition, rows: Mapping[bytes, bytes | None]) -> None:
        nonlocal read
        for key, row in rows.items():
            if row is None:
                values[partition].pop(key, None)
            else:
                values[partition][key] = row
        if (read + len(rows)) // PROGRESS_ROWS > read // PROGRESS_ROWS:
            say(f"{read + len(rows):,} rows read")
        read += len(rows)

    changelog.read_raw(partitions[:size], take)
    found, begun_from = [], None
    for partition in partitions:
        rows = values[partition]
        value = rows.pop(POSITION_KEY, None)
        begun = value is not None and value.startswith(REPAIRING)
        if value is not None and begun:
            count, _, value = value[len(REPAIRING) :].partition(b" ")
            begun_from = int(count)
        good = {key: row for key, row in rows.items() if len(row) >= HEAD.size and intact(key, row)}
        found.append(
            Found(
                partition,
                *ends[partition],
                committed[partition],
                None if value is None else Mark.decode(value, partition),
                good,
                sorted(rows.keys() - good.keys()),
                begun=begun,
            )
        )
    return found, begun_from


def _replaced(consumer: Consumer, found: Found, clicks: str) -> bool | None:
    """Whether the topic was created again since the rows were written; None if it is not needed or not to be seen.

    A row has the offset of its user's last click. If the topic is still the same, that offset has a click of this user.
    """
    if found.mark is None or found.agrees:
        return None
    offsets = ((Head.of(row).source_offset, key) for key, row in found.rows.items())
    there = [(offset, key) for offset, key in offsets if found.first <= offset < min(found.end, found.mark.next)]
    same = [
        read == key
        for offset, key in heapq.nlargest(COMPARED, there)
        for at, read in _keys(consumer, found.partition, offset, offset + 1, 1)
        if at == offset
    ]
    if same:
        return same.count(True) * 2 <= len(same)
    if clicks == "auto" or not found.first < found.mark.next <= found.end:
        return None
    return clicks == "new"


def _keys(
    consumer: Consumer, partition: Partition, begin: int, end: int, most: int | None = None
) -> Iterator[tuple[int, Any]]:
    """Offset and key of the committed clicks in begin <= offset < end, at most `most`.

    Raises ConfigError if a transaction of another application is open before the end.
    """
    if begin >= end:
        return
    consumer.assign([TopicPartition(*partition, begin)])
    given, deadline = 0, time.monotonic() + SILENT_S
    while True:
        messages = consumer.consume(FETCHED, 0.05)  # it waits so long for the last of so many
        if messages:
            deadline = time.monotonic() + SILENT_S
        elif time.monotonic() > deadline:
            raise ConfigError(f"{partition} could not be read for {SILENT_S:.0f} s; run the repair again")
        for message in messages:
            error = message.error()
            if error is not None:
                if error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                if message.offset() < end:
                    raise ConfigError(
                        f"a transaction of another application is open on {partition}; run the repair when it has ended"
                    )
                return
            if message.offset() >= end:
                return
            yield message.offset(), message.key()
            given += 1
            if given == most or message.offset() + 1 == end:
                return
