"""Re-keying: the messages of the source are copied, exactly once, to the topic that is keyed by the user.

The copies of a batch and the offsets of the source are in one Kafka transaction. So whatever happens, the committed
offsets say which messages have copies, and the loop goes on from there:

    assign  the group gives partitions: membership and offsets are read, and reading begins at the offsets
    copy    read committed messages -> copies -> one transaction with the offsets and the membership
    revoke  nothing is written until the next assignment

A batch is only written under the membership that was taken when its partitions were assigned. After anything but a
committed transaction the loop reads the offsets again. It keeps nothing else, so there is nothing to recover.

Source: KIP-98, KIP-447, as stream/kafka/delivery.py, whose producer it uses.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from stream.access.begin import Begin
from stream.access.refusal import refused
from stream.errors import ConfigError, Fenced, NoRegistry
from stream.events import Partition
from stream.kafka.changelog import Changelog
from stream.kafka.delivery import FENCED, Delivery, Outcome, Record, Undecided
from stream.kafka.leaders import with_leaders
from stream.kafka.waiting import Watch, in_daemon, patiently
from stream.meter import Meter
from stream.rekey.copy import copied
from stream.wire.codec import Codec

MOST_MESSAGES = 5_000
"""In one transaction. After one that failed there are half as many: Kafka rolls back what takes longer than the session
timeout, as large messages do where it takes few bytes a second."""

QUICK_S = 1.5
"""After a transaction that took no longer there are twice as many: a quarter of the least session timeout."""

WAIT_S = 0.5
"""How long one read waits for a first message. A worker that ends waits for it."""

ROLL_BACKS = 10
"""The worker ends after so many transactions one after the other that were not committed."""

ASK_AGAIN_S = 1.0
"""Pause before messages are read again for which the Schema Registry did not answer."""

CLOSE_S = 5.0
LEAVE_READS = 20

log = logging.getLogger(__name__)


class Rekeying:
    """Copies the source. Call `run` and `close` in the event loop; what blocks runs in a thread, one call at a time.

    source      topic of the messages
    topic       topic of the copies
    most_bytes, anonymous  as in `copied`
    connect     makes the consumer, a member of the group that all workers share which copy the source
    offsets     reads the committed offsets of this group; it has no changelog
    begin_at    where the group begins in a partition without a committed offset
    watch       its clock measures the time limits
    meter       gets the copies, and what Kafka deleted before it was copied
    stay_in_group  as in Settings
    """

    def __init__(
        self,
        source: str,
        topic: str,
        most_bytes: int,
        codec: Codec,
        connect: Callable[[], Consumer],
        offsets: Changelog,
        delivery: Delivery,
        begin_at: Begin,
        watch: Watch,
        meter: Meter,
        stay_in_group: bool = False,
        anonymous: Callable[[bytes], str | None] | None = None,
    ) -> None:
        self._source = source
        self._topic = topic
        self._copied = partial(copied, codec=codec, topic=topic, most_bytes=most_bytes, anonymous=anonymous)
        self._connect = connect
        self._offsets = offsets
        self._delivery = delivery
        self._begin_at = begin_at
        self._watch = watch
        self._meter = meter
        self._stay_in_group = stay_in_group
        self._consumer: Any = None
        self._given: list[Partition] = []  # by the group
        self._member: bytes | None = None  # taken when they were given; None: nothing may be written
        self._next: dict[Partition, int] = {}  # the offset to copy next; empty: it must be read from Kafka
        self._failures, self._most = 0, MOST_MESSAGES
        self._closing = False
        self._ended = asyncio.Event()
        meter.count("rekeyed", 0)

    async def run(self) -> None:
        """Copy until `close`. Raises what ends the worker."""
        await self._delivery.start()
        self._consumer = self._connect()
        self._consumer.subscribe(
            [self._source], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )
        while not self._closing:
            records, offsets = await in_daemon("rekey", self._read)
            if offsets and self._member is not None:
                await self._write(records, offsets, self._member)
        await in_daemon("rekey", self._leave)
        self._ended.set()

    async def close(self) -> None:
        """Let the transaction end that has begun, and leave the group."""
        self._closing = True
        if self._consumer is not None:
            await asyncio.wait({asyncio.ensure_future(self._ended.wait())}, timeout=CLOSE_S)

    def lag(self) -> int:
        """Set the level of what is not copied yet in each partition of this worker. Returns the sum, in messages."""
        behind: dict[str, float] = {}
        for partition, next_ in dict(self._next).items():
            _, high = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
            behind[str(partition.number)] = max(0, high - next_)  # the latest fetch knows `high`
        self._meter.levels("rekey_lag", "partition", behind)
        return int(sum(behind.values()))

    # -- in the thread ------------------------------------------------------------------------------------------------

    def _assigned(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        """Called by `consume`. The membership is taken here, once: a later one could belong to other partitions."""
        self._given = [Partition(p.topic, p.partition) for p in partitions]
        self._member = consumer.consumer_group_metadata()
        self._next = {}
        consumer.assign([])  # `_begin` assigns them with their offsets

    def _revoked(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        self._given, self._member, self._next = [], None, {}

    def _leave(self) -> None:
        """Leave the group, so that the others go on at once: a static member that only closes is waited for."""
        if not self._stay_in_group:
            self._consumer.unsubscribe()
            for _ in range(LEAVE_READS):  # at least one: the client leaves in the background
                self._consumer.consume(1, 0.1)  # calls `_revoked`
                if not self._given:
                    break
        self._next = {}
        self._consumer.close()

    def _read(self) -> tuple[list[Record], dict[Partition, int]]:
        """The copies of the next messages, and partition -> the offset after them; both empty if there are none."""
        messages = self._consumer.consume(1, WAIT_S)
        if messages:
            messages += self._consumer.consume(self._most - 1, 0.0)  # what was fetched
        if not self._next:  # a rebalance, or a transaction that was not committed: these messages are read again
            if self._given and self._member is not None:
                self._begin()
            return [], {}
        records: list[Record] = []
        offsets: dict[Partition, int] = {}
        for message in messages:
            error, partition = message.error(), Partition(message.topic(), message.partition())
            if error is None:
                try:
                    records.append(self._copied(message))
                except NoRegistry:  # the rest is read again; the registry's client has said it
                    self._next = {}
                    time.sleep(ASK_AGAIN_S)
                    break
                offsets[partition] = message.offset() + 1
            elif error.code() != KafkaError._PARTITION_EOF:
                self._check(error)
            elif message.offset() > self._next.get(partition, 0):  # behind the markers of the producers' transactions
                offsets[partition] = message.offset()
        return (records, offsets) if self._next else ([], {})

    def _begin(self) -> None:
        """Read on at the committed offsets; where there is none, where the group begins."""
        committed = patiently(self._watch, self._offsets.committed, self._given)
        fresh = [partition for partition, offset in committed.items() if offset is None]
        begins: Mapping[Partition, int] = with_leaders(self._watch, self._begin_at, fresh) if fresh else {}
        next_: dict[Partition, int] = {}
        for partition, (low, high) in with_leaders(self._watch, self._offsets.ends, self._given).items():
            offset = committed[partition]
            if offset is None:
                offset = max(low, begins.get(partition, low))
            if offset > high:
                raise ConfigError(
                    f"group {self._topic} has re-keyed {partition} up to offset {offset}, but it ends at {high}: the "
                    "topic was created again; stop the workers and delete this group with kafka-consumer-groups.sh "
                    f"--delete --group {self._topic}, and the new topic is re-keyed from its begin"
                )
            if offset < low:
                self._meter.count("clicks_lost", low - offset)
                log.warning(
                    "messages were deleted before they were re-keyed: partition=%s from=%d to=%d lost=%d; raise the "
                    "topic's retention, or find out why no worker re-keyed them in time",
                    partition,
                    offset,
                    low,
                    low - offset,
                )
            next_[partition] = max(offset, low)
        self._consumer.assign([TopicPartition(*partition, offset) for partition, offset in next_.items()])
        self._next = next_
        log.info("re-keying: topic=%s offsets=%s", self._source, {str(p): offset for p, offset in next_.items()})

    def _check(self, error: KafkaError) -> None:
        """An error of the consumer. Raises what ends the worker; the others pass by themselves."""
        if error.code() == KafkaError._AUTO_OFFSET_RESET:  # Kafka has deleted what comes next
            self._next = {}
            return
        if error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise ConfigError(f"topic {self._source} was deleted while this worker re-keyed it; create it again")
        if error.name() in FENCED:
            raise Fenced(f"another worker re-keys under this worker's id ({error.name()}): {error.str()}")
        if error.fatal() or refused(KafkaException(error)) is not None:
            raise KafkaException(error)
        log.warning("re-keying waits, the topic cannot be read: topic=%s error=%s", self._source, error.name())

    # -- in the event loop --------------------------------------------------------------------------------------------

    async def _write(self, records: Sequence[Record], offsets: Mapping[Partition, int], member: bytes) -> None:
        """One transaction. After it, `_next` is what the committed offsets are, or empty."""
        began_s = time.monotonic()
        try:
            outcome = await self._delivery.commit(records, offsets, member)
        except Undecided as exc:
            log.warning("re-keying: producer replaced, its transaction may be committed or not: reason=%s", exc)
            await self._delivery.restart()
            outcome = Outcome.ROLLED_BACK  # or committed: the offsets say it
        if outcome is Outcome.COMMITTED:
            self._failures = 0
            if time.monotonic() - began_s <= QUICK_S:
                self._most = min(MOST_MESSAGES, 2 * self._most)
            self._meter.count("rekeyed", len(records))
            self._next.update(offsets)
            return
        self._next = {}
        self._failures, self._most = self._failures + 1, max(2, self._most // 2)
        if outcome is Outcome.STALE:  # the group has a newer generation, and gives partitions again
            self._member = None
        elif self._failures >= ROLL_BACKS:
            raise RuntimeError(f"the re-keying was rolled back {ROLL_BACKS} times, one after the other")
