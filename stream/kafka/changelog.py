"""Where a worker's partitions stand: committed offsets and changelog rows, both as of the last decided transaction.

The rule that must not break: a partition's rows and its committed offset come from the same transactions, so equal
offsets mean equal rows. Reading one of them a transaction too early gave repeated decisions (design part 6), hence:
every transaction also writes, per partition, the offset it commits under POSITION_KEY, and recovery demands that the
two are equal. To get there,
offsets are read with read_committed (the broker then waits for pending transactions), the changelog's end is the high
watermark and not the last stable offset, and its rows are read with read_committed up to that end.
"""

import logging
import time
from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import OFFSET_BEGINNING, OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from stream.errors import ConfigError

STABLE_S = 60.0
"""A dead worker's open transaction is decided within its timeout plus the broker's check interval (10 s)."""

POSITION_KEY = b"\xffposition"
"""Key of the one row of each partition that is no user's: the next offset of the clicks that the other rows stand for,
in decimal. 0xff occurs nowhere in UTF-8, so no user id can be this key."""

CALL_S = 5.0
FETCHED = 20_000

log = logging.getLogger(__name__)


class Position(NamedTuple):
    """A group's place in one partition.

    committed  its committed offset, None if it never committed one
    next       the offset to read next: the committed one, or the first that there is
    """

    committed: int | None
    next: int


class Changelog:
    """Reads a group's committed offsets and its changelog. All calls block; a Changelog belongs to one thread."""

    def __init__(self, broker: str, group: str, clicks: str, changelog: str) -> None:
        self._broker = broker
        self.group = group
        self._clicks = clicks
        self._topic = changelog

    def positions(self, partitions: Sequence[int]) -> dict[int, Position]:
        """Where the group stands in each clicks partition, once no transaction over it is pending.

        Raises ConfigError if an offset lies beyond the topic's end: the topic is not the one it was committed on.
        """
        consumer = self._consumer("read_committed")
        try:
            found = self._stable(consumer, [TopicPartition(self._clicks, p) for p in partitions])
            positions: dict[int, Position] = {}
            for partition, offset in found.items():
                low, high = consumer.get_watermark_offsets(TopicPartition(self._clicks, partition), timeout=CALL_S)
                if offset is not None and offset > high:
                    raise ConfigError(
                        f"group {self.group} has committed offset {offset} on {self._clicks}-{partition}, which ends "
                        f"at {high}: the topic was created again; start with another --group and --changelog-topic"
                    )
                if offset is not None and offset < low:
                    log.warning(
                        "clicks lost before they were read: topic=%s partition=%d committed=%d first=%d; "
                        "raise the topic's retention",
                        self._clicks,
                        partition,
                        offset,
                        low,
                    )
                positions[partition] = Position(offset, max(low, offset or 0))
            return positions
        finally:
            consumer.close()

    def read(self, partitions: Sequence[int]) -> dict[int, dict[bytes, bytes]]:
        """The latest row of each user of each partition and its POSITION_KEY, up to the high watermark at the call.

        Raises TimeoutError if the end does not come nearer for STABLE_S.
        """
        ends = self._ends(partitions)
        rows: dict[int, dict[bytes, bytes]] = {partition: {} for partition in partitions}
        left = {partition for partition, (low, high) in ends.items() if high > low}
        consumer = self._consumer("read_committed")
        try:
            consumer.assign([TopicPartition(self._topic, p, OFFSET_BEGINNING) for p in left])
            deadline = time.monotonic() + STABLE_S
            while left:
                messages = consumer.consume(FETCHED, 0.05)
                for message in messages:
                    partition = message.partition()
                    if message.error() is not None:
                        if message.error().code() != KafkaError._PARTITION_EOF:
                            raise KafkaException(message.error())
                        if message.offset() >= ends[partition][1]:  # else a pending transaction lies before the end
                            left.discard(partition)
                    elif message.value() is None:
                        rows[partition].pop(message.key(), None)
                    else:
                        rows[partition][message.key()] = message.value()
                        if message.offset() + 1 >= ends[partition][1]:
                            left.discard(partition)
                if messages:
                    deadline = time.monotonic() + STABLE_S
                elif time.monotonic() > deadline:
                    raise TimeoutError(
                        f"the changelog {self._topic} could not be read to its end on partitions {sorted(left)}"
                    )
            return rows
        finally:
            consumer.close()

    def _stable(self, consumer: Consumer, asked: list[TopicPartition]) -> dict[int, int | None]:
        deadline = time.monotonic() + STABLE_S
        while True:
            try:
                answer = consumer.committed(asked, timeout=CALL_S)
                for found in answer:
                    if found.error is not None:
                        raise KafkaException(found.error)
                return {t.partition: None if t.offset == OFFSET_INVALID else t.offset for t in answer}
            except (
                KafkaException
            ) as exc:  # UNSTABLE_OFFSET_COMMIT while a transaction is pending, or no coordinator yet
                if time.monotonic() > deadline:
                    raise
                log.info("committed offsets not stable yet: error=%s", exc.args[0].name())

    def _ends(self, partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
        """First offset and high watermark: a read_committed consumer would be told the last stable offset instead."""
        consumer = self._consumer("read_uncommitted")
        try:
            return {
                p: consumer.get_watermark_offsets(TopicPartition(self._topic, p), timeout=CALL_S) for p in partitions
            }
        finally:
            consumer.close()

    def _consumer(self, isolation: str) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._broker,
                "group.id": self.group,  # to ask for its offsets; this consumer never joins
                "enable.auto.commit": False,
                "isolation.level": isolation,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",  # the default goes on at the end: rows left out without a word
                "fetch.wait.max.ms": 50,
                "max.partition.fetch.bytes": 8 << 20,
                "fetch.message.max.bytes": 8 << 20,
                "log_level": 2,
            }
        )


def disagreement(group: str, clicks: str, partition: int, committed: int | None, position: int | None) -> ConfigError:
    """Why offset and rows of a partition cannot belong together, and what to do.

    committed  the group's next offset, None if it has none
    position   the one the changelog's rows stand for, None if it has no rows
    """
    if committed is None:
        return ConfigError(
            f"the changelog's rows of partition {partition} stand at offset {position} of {clicks}, but group {group} "
            "has no committed offset: the rows are another group's, or its offsets were deleted; start with the "
            "--group that wrote them, or with another --changelog-topic"
        )
    if position is None:
        return ConfigError(
            f"group {group} is at offset {committed} of {clicks}-{partition}, but the changelog has nothing of that "
            "partition: every user would begin anew; start with the --changelog-topic of this group, or, to begin "
            "anew, with another --group as well"
        )
    return ConfigError(
        f"the changelog's rows of partition {partition} stand at offset {position} of {clicks}, but group {group} is "
        f"at {committed}: its offsets were reset, the topic was created again or the changelog is an older one; start "
        "with another --group and --changelog-topic to read it anew"
    )
