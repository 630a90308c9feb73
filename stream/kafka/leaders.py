"""A partition without a leader: no broker that has it is up, or its leader is being elected. Nothing of it can be read.

Kafka answers meanwhile, so no clock stands still. How long it lasts is the operator's affair, as with an outage: who
needs the partition waits as long as it takes, and the log says for which one.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from confluent_kafka import KafkaException, TopicPartition

from stream.events import Partition
from stream.kafka.waiting import REMIND_S, NoLeader, Watch, patiently

ANSWER_S = 5.0

LOOK_S = 5.0
"""How often it is looked whether the partitions still have leaders, while a read gets no message."""

PAUSE_S = 0.5
"""Pause before a partition that had no leader is read again."""

T = TypeVar("T")

log = logging.getLogger(__name__)


def check_leaders(consumer: Any, partitions: Iterable[Partition]) -> None:
    """Raises NoLeader if a partition has none. Kafka's silence, and a topic that is missing, are found elsewhere."""
    without: list[Partition] = []
    asked: dict[str, Any] = {}
    for partition in sorted(partitions):
        try:
            if partition.topic not in asked:
                asked[partition.topic] = consumer.list_topics(partition.topic, timeout=ANSWER_S).topics[partition.topic]
        except KafkaException:
            return
        found = asked[partition.topic].partitions.get(partition.number)
        if found is not None and found.leader < 0:
            without.append(partition)
    if without:
        raise NoLeader(without)


def watermarks(consumer: Any, partitions: Iterable[Partition], answer_s: float) -> dict[Partition, tuple[int, int]]:
    """First offset and end of each partition, as the consumer's isolation level has it. Raises NoLeader."""
    partitions = list(partitions)
    try:
        return {p: consumer.get_watermark_offsets(TopicPartition(*p), timeout=answer_s) for p in partitions}
    except KafkaException:
        check_leaders(consumer, partitions)
        raise


class Leaders:
    """Looks now and then whether partitions have leaders, for a read that gets no message."""

    def __init__(self, consumer: Any, topic: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._consumer, self._topic, self._clock_s = consumer, topic, clock_s
        self._looked_s = clock_s()

    def check(self, numbers: Iterable[int]) -> None:
        """Raises NoLeader if a partition with one of these numbers has none."""
        if self._clock_s() - self._looked_s > LOOK_S:
            check_leaders(self._consumer, [Partition(self._topic, number) for number in numbers])
            self._looked_s = self._clock_s()


def led(
    watch: Watch, read: Callable[[Sequence[Partition]], Mapping[Partition, T]], partitions: Sequence[Partition]
) -> Mapping[Partition, T]:
    """Read as `patiently` does, and leave out the partitions that have no leader, or whose changelog has none."""
    left = list(partitions)
    while left:
        try:
            return patiently(watch, read, left)
        except NoLeader as exc:
            numbers = {partition.number for partition in exc.partitions}
            left = [partition for partition in left if partition.number not in numbers]
    return {}


def with_leaders(
    watch: Watch,
    read: Callable[[Sequence[Partition]], T],
    partitions: Sequence[Partition],
    go_on: Callable[[], None] = lambda: None,
    clock_s: Callable[[], float] = time.monotonic,
) -> T:
    """Read as `patiently` does, and wait for partitions without a leader as long as it takes, with a line in the log.

    go_on  called before each try after the first one; what it raises ends the waiting
    """
    since_s, said_s, named = clock_s(), 0.0, ""
    while True:
        try:
            found = patiently(watch, read, partitions)
        except NoLeader as exc:
            now_s = clock_s()
            since_s = since_s if named else now_s
            if exc.names != named or now_s - said_s > REMIND_S:
                named, said_s = exc.names, now_s
                log.warning(
                    "partitions have no leader, Eddy waits for one: partitions=[%s] waited_s=%.0f; are the brokers up "
                    "that have them?",
                    named,
                    now_s - since_s,
                )
        else:
            if named:
                log.info("partitions have leaders again: partitions=[%s] waited_s=%.0f", named, clock_s() - since_s)
            return found
        time.sleep(PAUSE_S)
        go_on()
