"""Reads the output topics from given offsets: all partitions of them, committed messages only.

Offsets that are committed to Kafka play no part: what counts is the offset that a sink stored beside its data.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from threading import Event as Flag
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from stream.access.credentials import connect
from stream.access.publish import no_topic
from stream.access.refusal import refused
from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka_config import KafkaConfig

ANSWER_S = 5.0
PAUSE_S = 0.5

BEHIND_S = 3.0
"""After a restart a broker may not know at once how far a partition goes."""

LOOK_S = 30.0
"""How often it is looked whether a topic has more partitions."""

NO_GROUP = {"group.id": "eddy-sink"}
"""librdkafka demands one, also if none is joined."""

log = logging.getLogger(__name__)


class Source:
    """The messages of the topics; `seek` comes before `take`.

    partitions  of all topics, as they were at the last `seek`
    stopped     set from another thread or a signal handler: calls that wait return soon
    """

    def __init__(
        self,
        broker: str,
        topics: Sequence[str],
        config: KafkaConfig,
        stopped: Flag,
        group: Mapping[str, Any] = NO_GROUP,
    ) -> None:
        """
        group  properties of the consumer group, for a Source that joins one (stream/sinks/group.py)
        Raises ConfigError if librdkafka cannot use the configuration.
        """
        self._broker, self._topics, self._stopped = broker, topics, stopped
        self.partitions: list[Partition] = []
        self._ends: dict[Partition, int] | None = None  # at the first seek
        self._open: set[Partition] = set()  # whose end was not reached
        self._stale = False
        self._looked_s = time.monotonic()
        self._joins = group is not NO_GROUP
        own = {
            **group,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "error",  # `seek` counts what Kafka has deleted, and does not pass over it silently
            "fetch.wait.max.ms": 100,
            "reconnect.backoff.max.ms": 1000,
            "log_level": 0,
            "error_cb": lambda error: None,  # the watch on Kafka logs outages
        }
        self._consumer = connect(Consumer, broker, config, own)

    @property
    def ended(self) -> bool:
        """True if all messages were taken that the topics had at the first seek."""
        return self._ends is not None and not self._open

    @property
    def stale(self) -> bool:
        """True if the caller must seek again: partitions were added, or Kafka has deleted the next messages."""
        if not self._stale and time.monotonic() - self._looked_s > LOOK_S:
            self._looked_s = time.monotonic()
            self._stale = self._has_grown()
        return self._stale

    def look(self) -> list[Partition]:
        """Look up the partitions. Raises ConfigError if a topic does not exist, KafkaException without an answer."""
        listed = self._consumer.list_topics(timeout=ANSWER_S).topics  # all: a question for one may create it
        for topic in self._topics:
            if topic not in listed:
                raise no_topic(self._broker, topic, listed)
        self.partitions = [Partition(topic, number) for topic in self._topics for number in listed[topic].partitions]
        return self.partitions

    def seek(self, stored: Mapping[Partition, int]) -> None:
        """Read on at the stored offsets; in a partition without one, at its begin.

        Messages that Kafka has deleted are counted in a warning. Raises ConfigError if a partition ends before its
        stored offset, and KafkaException if Kafka does not answer.
        """
        starts, ends = {}, {}
        for partition in self.partitions:
            begin, ends[partition] = self._range(partition, stored.get(partition, 0))
            starts[partition] = stored.get(partition, begin)
            if starts[partition] < begin:
                lost = begin - starts[partition]
                log.warning(
                    "Kafka has deleted messages before they were read: partition=%s offsets=%d", partition, lost
                )
                starts[partition] = begin
        if self._ends is None:
            self._ends = ends
            self._open = {partition for partition, end in ends.items() if starts[partition] < end}
        self._stale = False
        self._consumer.assign([TopicPartition(*partition, offset) for partition, offset in starts.items()])

    def take(self, most: int, timeout_s: float) -> list[Message]:
        """The next messages, in order within each partition. Raises ConfigError if a topic cannot be read."""
        found = []
        for message in self._consumer.consume(most, timeout_s):
            partition = Partition(message.topic(), message.partition())
            error = message.error()
            if error is None:
                found.append(message)
                if self._ends is not None and message.offset() + 1 >= self._ends.get(partition, 0):
                    self._open.discard(partition)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._open.discard(partition)
            elif error.code() == KafkaError._AUTO_OFFSET_RESET:
                self._stale = True
            elif error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED and not self._joins:
                continue  # librdkafka asks for the group that it demands, and no right on it is needed to read on
            elif error.code() > 0:  # negative: a connection was lost, and librdkafka makes a new one
                raise refused(KafkaException(error), f"READ on topic {partition.topic}") or ConfigError(
                    f"{partition} on {self._broker} cannot be read ({error.str()})"
                )
        return found

    def behind(self, at: Mapping[Partition, int]) -> int:
        """About how many offsets are not taken yet, without a question to Kafka. at: the next offset of each."""
        ends = {p: self._consumer.get_watermark_offsets(TopicPartition(*p), cached=True)[1] for p in self.partitions}
        return sum(max(0, ends[p] - at.get(p, 0)) for p in self.partitions if ends[p] > 0)

    def close(self) -> None:
        self._consumer.close()

    def _range(self, partition: Partition, stored: int) -> tuple[int, int]:
        """The first offset of a partition, and that after its last committed message."""
        deadline_s = time.monotonic() + BEHIND_S
        while True:
            begin, end = self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=ANSWER_S)
            if stored <= end or self._stopped.is_set():
                return begin, end
            if time.monotonic() > deadline_s:
                raise ConfigError(
                    f"{partition} ends at offset {end}, but the sink has stored {stored}: the topic was deleted and "
                    "created again, or is another cluster's. To begin again, delete the sink's offsets of it "
                    "(docs/sinks.md)"
                )
            self._stopped.wait(PAUSE_S)

    def _has_grown(self) -> bool:
        try:
            listed = self._consumer.list_topics(timeout=ANSWER_S).topics
        except KafkaException:
            return False  # Kafka is away
        return sum(len(listed[topic].partitions) for topic in self._topics if topic in listed) > len(self.partitions)
