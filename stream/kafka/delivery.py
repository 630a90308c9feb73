"""One transaction per cycle: outputs, dead letters, rows and source offsets become visible together or not at all.

Each worker has one transactional producer (KIP-447). Its transactional id consists of the group and the worker id, so a
restarted worker fences its previous process. The group's generation and member id are sent with the offsets, so a
worker that was frozen for longer than its session timeout cannot write. If a call times out, its outcome is unknown and
the same call is repeated; the records are not produced again. A producer that hangs or is broken is replaced: the new
one fences it, and Kafka's offsets say whether the transaction was committed. A producer that another process has fenced
ends the process.

Sources: KIP-98, KIP-447; librdkafka's INTRODUCTION.md, "Transactional producer"; librdkafka #5456 (a hanging call).
"""

import asyncio
import enum
import logging
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from stream.access.credentials import connect
from stream.access.refusal import refused
from stream.errors import ConfigError, Fenced
from stream.events import Partition
from stream.kafka.leaders import Targets
from stream.kafka.waiting import NoWatch, Watch, in_daemon
from stream.kafka_config import PLAINTEXT, KafkaConfig

CALL_S = 10.0
"""Time limit that librdkafka gets for each call. A call that timed out is repeated."""

CHECK_S = 0.5

AFTER_BREAK_S = 3.0
"""How long Kafka may answer before a call is given up if connections were lost. After the restart of a broker, which is
removed from the metadata and added again, librdkafka 2.16 waits for the removed one, and the call never returns."""

STARTS = 3  # how many producers may fail at their start, one after the other

MOST_BYTES = 1_000_000_000
"""The largest message.max.bytes that librdkafka accepts."""

FENCED = frozenset({"_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH", "FENCED_INSTANCE_ID"})
"""Errors that mean that another process uses this worker's id."""

STALE = frozenset({"ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS"})
"""Errors that mean that the group has a newer generation, which this worker does not know yet."""

log = logging.getLogger(__name__)


class Record(NamedTuple):
    """One message to write. A `value` of None is a tombstone. If `partition` is None, the key determines it.

    timestamp  ms since the epoch; 0 = the time at which it is written
    """

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    timestamp: int = 0
    headers: list[tuple[str, bytes | None]] | None = None


class Outcome(enum.Enum):
    """How a transaction ended.

    COMMITTED    everything is visible
    ROLLED_BACK  nothing is visible, and the same records may be sent again
    STALE        nothing is visible, and the records must not be sent again: a different worker may have these
                 partitions
    """

    COMMITTED = "committed"
    ROLLED_BACK = "rolled_back"
    STALE = "stale"


def group_metadata(group: str, generation: int, member_id: str, instance_id: str | None) -> bytes:
    """Convert Faust's group membership to the argument of confluent-kafka's send_offsets_to_transaction.

    The result is librdkafka's serialised rd_kafka_consumer_group_metadata_t ("CGMDv2"), as
    Consumer.consumer_group_metadata() returns it. Raises Fenced if this worker is not a member: the broker would accept
    the offsets without fencing.
    """
    if generation < 0 or not member_id:
        raise Fenced(f"no membership in group {group} (generation {generation}); offsets would be written unfenced")
    instance = b"\x01" if instance_id is None else b"\x00" + instance_id.encode() + b"\x00"
    return b"CGMDv2:" + struct.pack("=i", generation) + group.encode() + b"\0" + member_id.encode() + b"\0" + instance


class Undecided(Exception):
    """The producer cannot be used any more. Whether its transaction was committed is not known before `restart`."""


class Delivery:
    """The worker's only producer. Its calls block, so they run in their own thread, the delivery thread.

    Call `start`, `commit` and `restart` in the event loop.

    transaction_timeout_s  at most the session timeout, because the next owner of a dead worker's partitions must wait
                           for the open transaction
    hang_s                 a call that takes longer than this while Kafka answers is given up
    limits                 topic -> largest size of a record in bytes, as topics.record_limits returns it
    watch                  knows for how long Kafka has answered, and whether connections were lost
    targets                what is written to: a call is not given up while a partition of it has no leader
    seconds                how long steps 1 and 2, and 3 and 4, of the latest `commit` took; empty if it failed
    """

    def __init__(
        self,
        broker: str,
        transactional_id: str,
        transaction_timeout_s: float,
        hang_s: float,
        limits: Mapping[str, int],
        config: KafkaConfig = PLAINTEXT,
        watch: Watch | None = None,
        targets: Targets | None = None,
    ) -> None:
        self.targets = targets or Targets()
        self._hang_s = hang_s
        self._turn = asyncio.Lock()
        self._timeout_s = transaction_timeout_s
        self._watch = watch or NoWatch()
        self._breaks = self._watch.breaks  # at the end of the producer's last call
        self.seconds: Mapping[str, float] = {}
        own = {
            "transactional.id": transactional_id,
            "transaction.timeout.ms": int(transaction_timeout_s * 1000),
            "reconnect.backoff.max.ms": 1000,  # with the default, a broker that is back is noticed 10 s late
            "retry.backoff.ms": 5,  # with the default, each transaction waits 100 ms before its first send
            "linger.ms": 0,  # commit flushes anyway
            # Kafka applies max.message.bytes to batches, and librdkafka does not split a refused one
            "batch.size": min(900_000, *limits.values()),
            "message.max.bytes": min(MOST_BYTES, max(limits.values()) + 1024),  # with a record's framing
            "batch.num.messages": 100_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_000_000,
            "socket.nagle.disable": True,
            "partitioner": "murmur2_random",  # the Java client's, so that joins by key find their partition
            "log_level": 2,
        }
        self._make = partial(connect, Producer, broker, config, own)
        self._producer: Any = self._make()

    async def start(self) -> None:
        """Fence an earlier producer with this transactional id, and roll back its open transaction.

        Raises KafkaException if the cluster does not allow it, Undecided if STARTS producers hang or are broken.
        """
        for left in reversed(range(STARTS)):
            try:
                await self._run(self._start, self._producer, None)
                return
            except Undecided as exc:
                if not left:
                    raise
                log.warning("producer could not start, so it is replaced: reason=%s", exc)
                self._replace()

    async def restart(self) -> None:
        """Replace the producer after Undecided. Then its transaction is committed or rolled back, once and for all."""
        async with self._turn:
            self._replace()
            await self.start()

    def _replace(self) -> None:
        old = [self._producer]
        self._producer = self._make()
        threading.Thread(target=old.clear, name="old producer", daemon=True).start()  # its end may take a while

    async def commit(
        self, records: Sequence[Record], offsets: Mapping[Partition, int], member: bytes, metadata: str = ""
    ) -> Outcome:
        """Write all records and the source offsets (partition -> the offset to read next) in one transaction.

        metadata  a text that Kafka keeps beside the offsets

        1. begin      after a crash from here to step 4, the transaction is rolled back by `start` of the restarted
                      worker or by its timeout. Nothing of it is visible, and the clicks are read again
        2. produce    the records are sent in the background. If the broker refuses one, step 4 fails
        3. offsets    are sent with the membership. The group coordinator refuses a member of an older generation
        4. commit     waits for all records. After a crash behind this step everything is visible, and recovery reads
                      the new rows

        Raises Fenced if another producer uses this transactional id, ConfigError if a topic's size limit is now lower
        than at the start or this user may not write to a topic any more, Undecided if the producer hangs or is broken.
        """
        async with self._turn:  # a producer has one transaction at a time
            self.seconds = {}
            if self._watch.breaks != self._breaks:  # its calls often hang after a restart of the broker
                self._replace()
                await self.start()
            return Outcome(await self._run(self._commit, self._producer, records, offsets, member, metadata))

    async def _run(self, call: Callable[..., Any], producer: Any, records: Any, *arguments: Any) -> Any:
        """Run a call in the delivery thread and wait for it. Raises Undecided if it hangs; its thread then stays.

        records  what the call writes; None if it starts the producer: it waits for whatever was written before
        """
        began_s, soon_s, waits = self._watch.answered_s, min(AFTER_BREAK_S, self._hang_s), False
        future = asyncio.ensure_future(in_daemon("delivery", call, producer, records, *arguments))
        while True:
            done, _ = await asyncio.wait({future}, timeout=CHECK_S)
            if done:
                self._breaks = self._watch.breaks
                self.targets.goes_on()
                return future.result()
            answered_s = self._watch.answered_s - began_s
            broken = self._watch.breaks != self._breaks
            if answered_s <= (soon_s if broken else self._hang_s):
                continue
            waited, waits = waits, await self.targets.missing(records)
            if not waits and not waited:  # a call has the whole time again when the leader is back
                future.cancel()
                raise Undecided(f"a call to Kafka has not returned in {answered_s:.0f} s (librdkafka #5456)")
            began_s, soon_s = self._watch.answered_s, self._hang_s  # a new producer would wait for the same transaction

    def _start(self, producer: Any, _: None) -> None:
        try:
            self._until_known(producer, producer.init_transactions, CALL_S)
        except KafkaException as exc:
            if refused(exc) is not None or not exc.args[0].fatal():
                raise
            raise Undecided(exc.args[0].str()) from exc

    def _commit(
        self, producer: Any, records: Sequence[Record], offsets: Mapping[Partition, int], member: bytes, metadata: str
    ) -> Outcome:
        """Steps 1 to 4 of `commit`, in the delivery thread. A thread that was given up uses its own producer only."""
        began_s = time.monotonic()
        positions = [TopicPartition(*partition, offset, metadata) for partition, offset in offsets.items()]
        try:
            producer.begin_transaction()  # 1
            self._produce(producer, records)  # 2
            produced_s = time.monotonic()
            self._until_known(producer, producer.send_offsets_to_transaction, positions, member, CALL_S)  # 3
            self._until_known(producer, producer.commit_transaction, CALL_S)  # 4
            self.seconds = {"produce": produced_s - began_s, "commit": time.monotonic() - produced_s}
            return Outcome.COMMITTED
        except KafkaException as exc:
            failed = exc
        try:
            return self._roll_back(producer, failed)
        except KafkaException as exc:
            error = exc.args[0]
            took_s = time.monotonic() - began_s
            if error.name() in FENCED and took_s < self._timeout_s:  # else Kafka itself has fenced it, as too old
                raise Fenced(f"another producer works under this worker's id ({error.name()}): {error.str()}") from exc
            raise Undecided(f"{error.name()} after {took_s:.1f} s: {error.str()}") from exc

    def _roll_back(self, producer: Any, failed: KafkaException) -> Outcome:
        """After an error in a transaction, in the delivery thread. Raises KafkaException if it cannot roll back."""
        error = failed.args[0]
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:  # Kafka would refuse the same records again
            raise ConfigError(
                f"Kafka refused a record that fits the max.message.bytes read at the start ({error.str()}); if the "
                "limit was lowered since then, start again: the worker then cuts records to it; if this worker may "
                "not read the topic's configuration, allow it DescribeConfigs or raise max.message.bytes"
            ) from failed
        refusal = refused(failed)
        if refusal is not None:  # after it librdkafka's producer fails every transaction with _STATE
            raise refusal from failed
        if error.name() in FENCED or error.fatal() or not error.txn_requires_abort():
            raise failed
        log.warning("transaction rolled back: error=%s detail=%s", error.name(), error.str())
        self._until_known(producer, producer.abort_transaction, CALL_S)
        return Outcome.STALE if error.name() in STALE else Outcome.ROLLED_BACK

    @staticmethod
    def _produce(producer: Any, records: Sequence[Record]) -> None:
        """Step 2 of `commit`, in the delivery thread."""
        for topic, key, value, partition, timestamp, headers in records:
            number = -1 if partition is None else partition
            while True:
                try:  # by position: names take 1.2 us more for each record
                    producer.produce(topic, value, key, number, None, None, timestamp, headers)
                    break
                except BufferError:  # the queue is full: wait until librdkafka has sent some records
                    producer.poll(0.05)

    def _until_known(self, producer: Any, call: Callable[..., Any], *arguments: Any) -> None:
        """Repeat a call until its outcome is known, in the delivery thread; not for a producer that was given up."""
        while True:
            try:
                call(*arguments)
                return
            except KafkaException as exc:
                error = exc.args[0]
                if not error.retriable() or error.txn_requires_abort() or producer is not self._producer:
                    raise
                log.warning("kafka call repeated: call=%s error=%s", call.__name__, error.name())
                time.sleep(0.05)
