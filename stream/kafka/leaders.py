"""A partition without a leader: no broker that has it is up, or its leader is being elected.

Nothing of it can be read or written. Kafka answers meanwhile, so no clock stands still. How long it lasts is the
operator's affair, as with an outage: who needs the partition waits as long as it takes, and the log names it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from confluent_kafka import KafkaException, TopicPartition

from stream.events import Partition
from stream.kafka.partitioners import murmur2
from stream.kafka.waiting import REMIND_S, NoLeader, Watch, in_daemon, patiently

ANSWER_S = 5.0

LOOK_S = 5.0
"""How often it is looked whether the partitions still have leaders, while a read gets no message."""

PAUSE_S = 0.5
"""Pause before a partition that had no leader is read again."""

LOOK_AGAIN_S = 1.0
"""Pause before it is looked again whether a partition that is written to has a leader."""

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


class Lines:
    """The lines of the log on partitions without a leader: when they are found, now and then, and when it is over."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._since_s = self._said_s = 0.0
        self._names = ""

    def waits(self, names: str) -> None:
        """Partitions with these names have no leader now."""
        now_s = self._clock_s()
        self._since_s = self._since_s if self._names else now_s
        if names != self._names or now_s - self._said_s > REMIND_S:
            self._names, self._said_s = names, now_s
            log.warning(
                "partitions have no leader, Eddy waits for one: partitions=[%s] waited_s=%.0f; are the brokers up "
                "that have them?",
                names,
                now_s - self._since_s,
            )

    def goes_on(self) -> None:
        """No partition is waited for any more."""
        if self._names:
            waited_s = self._clock_s() - self._since_s
            log.info("partitions have leaders again: partitions=[%s] waited_s=%.0f", self._names, waited_s)
            self._names = ""


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
    lines = Lines(clock_s)
    while True:
        try:
            found = patiently(watch, read, partitions)
        except NoLeader as exc:
            lines.waits(exc.names)
        else:
            lines.goes_on()
            return found
        time.sleep(PAUSE_S)
        go_on()


class Written(Protocol):
    """What has to be known of a record (delivery.Record) to find its partition."""

    @property
    def topic(self) -> str: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def partition(self) -> int | None: ...


class Targets:
    """The partitions that transactions write to, and whether they have leaders. It is asked after a failure only.

    A transaction with a partition without a leader can be rolled back, but stays pending: Kafka writes its markers when
    the partition has a leader again. Until then Kafka answers the next transaction of this producer, and the start of
    its successor, with CONCURRENT_TRANSACTIONS.

    topics  all topics that are written to; none: every partition is taken to have a leader
    client  makes a client with `list_topics`, at the first question and after one without an answer
    """

    def __init__(self, topics: Iterable[str] = (), client: Callable[[], Any] = lambda: None) -> None:
        self._topics, self._make = list(topics), client
        self._client: Any = None
        self._lines = Lines()

    async def missing(self, records: Sequence[Written] | None) -> bool:
        """True if a partition that these records go to has no leader, and log it. None: any partition of the topics.

        Kafka's silence, and a topic that is missing, are found elsewhere.
        """
        return bool((await self._look(records))[0])

    async def led(self, records: Sequence[Written], current: Callable[[], bool]) -> bool:
        """After a roll-back: wait until the records can be written, or `current` is False.

        Returns True if any partition of the topics had no leader: what was rolled back is no bad batch then.
        """
        had_none = False
        while current():
            ours, others = await self._look(records)
            had_none = had_none or bool(ours or others)
            if not ours:
                self.goes_on()
                break
            await asyncio.sleep(LOOK_AGAIN_S)
        return had_none

    def goes_on(self) -> None:
        """No partition is waited for any more."""
        self._lines.goes_on()

    async def _look(self, records: Sequence[Written] | None) -> tuple[list[Partition], list[Partition]]:
        """The partitions without a leader: those of the records, and the others."""
        if not self._topics:
            return [], []
        counts, without = await in_daemon("leaders", self._ask)
        goes_to = without if records is None else {_partition(record, counts) for record in records} if without else ()
        ours = [partition for partition in sorted(without) if partition in goes_to]
        if ours:
            self._lines.waits(", ".join(map(str, ours)))
        return ours, [partition for partition in without if partition not in ours]

    def _ask(self) -> tuple[dict[str, int], set[Partition]]:
        """The number of partitions of each topic, and the partitions without a leader.

        It asks for all topics of the cluster: the question for one that is missing makes some brokers create it, and
        `describe_topics` may wait for the broker that is down.
        """
        client, self._client = self._client or self._make(), None
        try:
            topics = client.list_topics(timeout=ANSWER_S).topics
        except KafkaException:  # the next question has a new client: this one may wait for a broker that is gone
            return {}, set()
        self._client = client
        ours = {name: topics[name].partitions for name in self._topics if name in topics}
        without = {Partition(name, n) for name, of in ours.items() for n, one in of.items() if one.leader < 0}
        return {name: len(partitions) for name, partitions in ours.items()}, without


def _partition(record: Written, counts: Mapping[str, int]) -> Partition | None:
    """Where a record goes; None if its topic is not known, or if any partition will do."""
    if record.partition is not None:
        return Partition(record.topic, record.partition)
    if record.key is None or record.topic not in counts:
        return None
    return Partition(record.topic, murmur2(record.key) % counts[record.topic])
