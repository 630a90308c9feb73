"""Reads committed offsets and changelog rows, both as of the last transaction that was committed or rolled back.

The rule that must not break: a partition's rows and its committed offset come from the same transactions. If one of
them is read a transaction too early, decisions are repeated. So each transaction also writes the offset that it commits
into the changelog, under POSITION_KEY, and recovery compares the two. The same row holds the number of the partition's
rows and a checksum over them, so rows that were lost or altered are noticed. Three details make them equal:

    offsets             read with read_committed: the broker waits for pending transactions over them
    end of changelog    the high watermark, not the last stable offset, which stands before a pending transaction
    rows                read with read_committed, up to that end
"""

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from stream.access.credentials import connect
from stream.access.refusal import refused
from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.leaders import Leaders, watermarks
from stream.kafka.waiting import NoWatch, Watch
from stream.kafka_config import PLAINTEXT, KafkaConfig

STABLE_S = 60.0
"""A dead worker's open transaction is decided within its timeout plus the broker's check interval (10 s)."""

POSITION_KEY = b"\xffposition"
"""Key of the one row of each partition that belongs to no user. Its value is a Mark. 0xff occurs nowhere in UTF-8, so
no user id can be this key."""

TAIL = 16
"""How many offsets before the end a partition's mark is looked for. The mark is the last record of a transaction, so
only markers and rolled-back transactions can be behind it."""

REPAIRING = b"repair "
"""A mark that begins with it was replaced by `eddy topics repair`, which has not ended. No worker takes such a mark."""

CALL_S = 5.0
FETCHED = 5_000

Take = Callable[[Partition, dict[bytes, bytes | None]], Any]
"""Takes rows of a clicks partition: key -> row, None for a tombstone."""

From = Callable[[int, int], int]
"""First offset and high watermark of a partition -> where to begin to read it."""

log = logging.getLogger(__name__)


class Mark(NamedTuple):
    """The row under POSITION_KEY: which clicks a partition's other rows hold, and what they add up to.

    next      the rows hold all clicks below this offset
    users     number of rows
    checksum  sum of the checksums of the rows, modulo 2^64
    time_ms   the partition's time: the largest time of a click so far, ms since the epoch
    kept      what else is kept of the partition
    """

    next: int
    users: int
    checksum: int
    time_ms: int = 0
    kept: bytes = b""

    def encode(self) -> bytes:
        """The row's value: numbers in decimal, the checksum as 16 hexadecimal digits, and `kept` if any."""
        numbers = b"%d %d %016x %d" % (self.next, self.users, self.checksum, self.time_ms)
        return numbers + b" " + self.kept if self.kept else numbers

    @classmethod
    def decode(cls, value: bytes, partition: Partition) -> "Mark":
        """Raises ConfigError if another version of Eddy wrote it."""
        found = re.fullmatch(rb"(\d+) (\d+) ([0-9a-f]{16}) (\d+)(?: (.+))?", value, re.DOTALL)
        if value.startswith(REPAIRING):
            raise ConfigError(
                f"a repair of the changelog of partition {partition} has begun and not ended; run `eddy topics repair "
                "--apply` again with this --group and --changelog-topic"
            )
        if found is None:
            raise ConfigError(
                f"the changelog of partition {partition} was written with another Eddy version, its row "
                f"{POSITION_KEY!r} is {value[:60]!r}; start with another --group and --changelog-topic (all users then "
                "begin without history), or with the version that wrote it"
            )
        return cls(int(found[1]), int(found[2]), int(found[3], 16), int(found[4]), found[5] or b"")

    def accounts_for(self, users: int, checksum: int, broken: int) -> bool:
        """True if these are the rows that were written, apart from `broken` rows that could not be read."""
        if broken:
            return users <= self.users <= users + broken
        return (users, checksum) == (self.users, self.checksum)


class Position(NamedTuple):
    """Where a group is in one partition.

    committed  its committed offset; None if it has none
    next       the offset to read next: the committed one, else the first of the partition. Kafka may have deleted the
               committed one; the fetch then notices what is lost
    """

    committed: int | None
    next: int


class Changelog:
    """Reads a group's committed offsets and its changelog. All calls block: they run in threads of their own.

    topic  the changelog: its partition p holds the states of the users of partition p of the clicks
    watch  its clock measures the time limits: they stand still while Kafka does not answer
    """

    def __init__(
        self, broker: str, group: str, topic: str, config: KafkaConfig = PLAINTEXT, watch: Watch | None = None
    ) -> None:
        self._broker, self._config = broker, config
        self._watch = watch or NoWatch()
        self.group = group
        self.topic = topic

    def positions(self, partitions: Sequence[Partition]) -> dict[Partition, Position]:
        """The group's position in each partition. Waits while a transaction over the offsets is pending.

        Raises ConfigError if an offset is beyond the partition's end: the topic is not the one it was committed on.
        """
        committed = self.committed(partitions)
        positions: dict[Partition, Position] = {}
        for partition, (low, high) in self.ends(partitions).items():
            offset = committed[partition]
            if offset is not None and offset > high:
                raise ConfigError(
                    f"group {self.group} has committed offset {offset} on {partition}, which ends at {high}: the topic "
                    f"was created again; {REPAIR}, or start with another --group and --changelog-topic"
                )
            positions[partition] = Position(offset, low if offset is None else offset)
        return positions

    def marks(self, partitions: Sequence[Partition]) -> dict[Partition, Mark]:
        """The marks at the ends of partitions of the clicks; a partition is left out where the end shows none."""
        return self._rows(partitions, lambda low, high: max(low, high - TAIL), lambda *_: None)

    def newest(self, partitions: Sequence[Partition], take: Take) -> dict[Partition, Mark]:
        """Read the rows of the last TAIL offsets as `read` does, and wait for no pending transaction."""
        return self._rows(partitions, lambda low, high: max(low, high - TAIL), take, wait=False)

    def read_raw(self, partitions: Sequence[Partition], take: Take) -> None:
        """Read all rows as `read` does. The rows of POSITION_KEY are given to `take`, too, and are not decoded."""
        self._read(partitions, lambda low, high: low, take)

    def read(self, partitions: Sequence[Partition], take: Take) -> dict[Partition, Mark]:
        """Read all rows up to the high watermark at the call. Returns the marks of the partitions that have one.

        partitions  of the clicks
        take        called with each batch of rows while they are read, without the rows of POSITION_KEY
        Raises TimeoutError if nothing more can be read for STABLE_S, NoLeader, and whatever `take` raises.
        """
        return self._rows(partitions, lambda low, high: low, take)

    def _rows(
        self, partitions: Sequence[Partition], begin: From, take: Take, wait: bool = True
    ) -> dict[Partition, Mark]:
        marks: dict[Partition, Mark] = {}

        def split(partition: Partition, rows: dict[bytes, bytes | None]) -> None:
            value = rows.pop(POSITION_KEY, None)
            if value is not None:
                marks[partition] = Mark.decode(value, partition)
            take(partition, rows)

        self._read(partitions, begin, split, wait)
        return marks

    def _read(self, partitions: Sequence[Partition], begin: From, take: Take, wait: bool = True) -> None:
        """Read the changelog's partitions from `begin` (of first offset and high watermark) to their high watermarks.

        The rows of a batch are given to `take` with the latest row of each key only; the rows of a later batch are
        later ones. All partitions are read at the same time. Without `wait`, what comes after the first pending
        transaction is left out.
        """
        of_number = {partition.number: partition for partition in partitions}
        ends = {p.number: end for p, end in self.ends([Partition(self.topic, n) for n in of_number]).items()}
        left = {number for number, (low, high) in ends.items() if high > low}
        consumer = self.consumer("read_committed")
        leaders = Leaders(consumer, self.topic)
        try:
            consumer.assign([TopicPartition(self.topic, number, begin(*ends[number])) for number in left])
            deadline = self._watch.answered_s + STABLE_S
            while left:
                messages = consumer.consume(FETCHED, 0.05)
                rows: dict[int, dict[bytes, bytes | None]] = {}
                for message in messages:
                    number = message.partition()
                    if message.error() is not None:
                        if message.error().code() != KafkaError._PARTITION_EOF:
                            raise KafkaException(message.error())
                        if message.offset() >= ends[number][1] or not wait:  # else a pending transaction is before it
                            left.discard(number)
                        continue
                    rows.setdefault(number, {})[message.key()] = message.value()
                    if message.offset() + 1 >= ends[number][1]:
                        left.discard(number)
                for number, batch in rows.items():
                    take(of_number[number], batch)
                if messages:
                    deadline = self._watch.answered_s + STABLE_S
                    continue
                leaders.check(left)
                if self._watch.answered_s > deadline:
                    raise TimeoutError(f"{self.topic} could not be read to its end on partitions {sorted(left)}")
        finally:
            consumer.close()

    def committed(self, partitions: Sequence[Partition]) -> dict[Partition, int | None]:
        """The group's committed offsets, None where it has none. Waits while a transaction over them is pending."""
        consumer = self.consumer("read_committed")
        asked = [TopicPartition(*partition) for partition in partitions]
        deadline = self._watch.answered_s + STABLE_S
        try:
            while True:
                try:
                    answer = consumer.committed(asked, timeout=CALL_S)
                    for found in answer:
                        if found.error is not None:
                            raise KafkaException(found.error)
                    return {
                        Partition(t.topic, t.partition): None if t.offset == OFFSET_INVALID else t.offset
                        for t in answer
                    }
                except KafkaException as exc:  # UNSTABLE_OFFSET_COMMIT: a transaction is pending; or no coordinator yet
                    if self._watch.answered_s > deadline or refused(exc) is not None:
                        raise
                    log.info("committed offsets not stable yet: error=%s", exc.args[0].name())
        finally:
            consumer.close()

    def ends(self, partitions: Sequence[Partition]) -> dict[Partition, tuple[int, int]]:
        """First offset and high watermark.

        A read_committed consumer would get the last stable offset as the end. That offset does not move while a
        transaction is open: another application's in the clicks, a dead worker's in the changelog.
        """
        consumer = self.consumer("read_uncommitted")
        try:
            return watermarks(consumer, partitions, CALL_S)
        finally:
            consumer.close()

    def consumer(self, isolation: str) -> Consumer:
        """A consumer that asks for the group's offsets and reads topics, and never joins the group."""
        return connect(
            Consumer,
            self._broker,
            self._config,
            {
                "group.id": self.group,  # to ask for its offsets; this consumer never joins
                "enable.auto.commit": False,
                "isolation.level": isolation,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",  # the default continues at the end, and rows would be missing
                "fetch.wait.max.ms": 50,
                "fetch.queue.backoff.ms": 5,  # the default waits 1 s each time when a partition's queue has been full
                "max.partition.fetch.bytes": 8 << 20,
                "fetch.message.max.bytes": 8 << 20,
                "log_level": 2,
            },
        )


REPAIR = "run `eddy topics repair` to continue with the users' states"


def disagreement(group: str, partition: Partition, committed: int | None, position: int | None) -> ConfigError:
    """The error for an offset and rows of a clicks partition that do not belong together. It says what to do.

    committed  the group's committed offset; None if it has none
    position   the offset in the partition's mark; None if the changelog has none
    """
    if committed is None:
        return ConfigError(
            f"the changelog's rows are at offset {position} of {partition}, but group {group} has no committed offset "
            "there. If the rows are of another clicks topic or group, start with another --changelog-topic (`eddy "
            "topics create` makes it) and --group, or with the --group that wrote the rows. If the clicks topic was "
            f"created again, or the group's offsets expired or were deleted, {REPAIR}"
        )
    if position is None:
        return ConfigError(
            f"group {group} is at offset {committed} of {partition}, but the changelog has no rows of that partition: "
            "all users would begin without history; start with the --changelog-topic of this group, another --group if "
            "this one is another application's, or run `eddy topics repair --accept-lost-rows` to begin here"
        )
    return ConfigError(
        f"the changelog's rows are at offset {position} of {partition}, but group {group} is at {committed}: its "
        f"offsets were reset, the topic was created again or the changelog is an older one; {REPAIR}, or start with "
        "another --group and --changelog-topic to read the clicks again"
    )
