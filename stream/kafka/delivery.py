"""One transaction per cycle: outputs, dead letters, rows and source offsets become visible together or not at all.

Each worker has one transactional producer (KIP-447). Its transactional id consists of the group and the worker id, so a
restarted worker fences its previous process. The group's generation and member id are sent with the offsets, so a
worker that was frozen for longer than its session timeout cannot write. If a call times out, its outcome is unknown and
the same call is repeated; the records are not produced again. If the producer is fenced or broken, the process ends.

Sources: KIP-98, KIP-447; librdkafka's INTRODUCTION.md, "Transactional producer"; librdkafka #5456 (a hanging call).
"""

import asyncio
import enum
import fcntl
import logging
import os
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from stream.access.credentials import connect
from stream.access.refusal import refused
from stream.errors import ConfigError, Fenced
from stream.events import Partition
from stream.kafka.watchdog import end
from stream.kafka_config import PLAINTEXT, KafkaConfig

CALL_S = 10.0
"""Time limit that librdkafka gets for each call. A call that timed out is repeated until `hang_s` is over."""

MOST_BYTES = 1_000_000_000
"""The largest message.max.bytes that librdkafka accepts."""

FENCED = frozenset({"_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH", "FENCED_INSTANCE_ID"})
"""Errors that mean that another process uses this worker's id."""

STALE = frozenset({"ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS"})
"""Errors that mean that the group has a newer generation, which this worker does not know yet."""

log = logging.getLogger(__name__)


class Record(NamedTuple):
    """One message to write. A `value` of None is a tombstone. If `partition` is None, the key determines it."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None


class Outcome(enum.Enum):
    """How a transaction ended.

    COMMITTED    everything is visible
    ROLLED_BACK  nothing is visible, and the same records may be sent again
    STALE        nothing is visible, and the records must not be sent again: the group has a newer generation, in which
                 a different worker may have these partitions
    """

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
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


class WorkerLock:
    """A worker number that no other process with this `data_dir` uses. The lock is held until the process ends."""

    def __init__(self, data_dir: Path) -> None:
        """Lock the lowest free number. Raises ConfigError if `data_dir` cannot be written."""
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            number = 0
            while not self._lock(data_dir / f"worker-{number}.lock"):
                number += 1
        except OSError as exc:
            raise ConfigError(
                f"no worker number can be locked in {data_dir} ({exc.strerror}); give --worker-id or another --data-dir"
            ) from exc
        self.worker_id = str(number)

    def _lock(self, path: Path) -> bool:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file  # the lock lives as long as the open file
        return True


class Delivery:
    """The worker's only producer. Its calls block, so they run in their own thread, the delivery thread.

    Call `start`, `commit` and `close` in the event loop. The docstrings of the other methods name the thread.

    transaction_timeout_s  at most the session timeout, because the next owner of a dead worker's partitions must wait
                           for the open transaction
    hang_s                 a call that takes longer than this ends the process
    limits                 topic -> largest size of a record in bytes, as topics.record_limits returns it
    """

    def __init__(
        self,
        broker: str,
        transactional_id: str,
        transaction_timeout_s: float,
        hang_s: float,
        limits: Mapping[str, int],
        config: KafkaConfig = PLAINTEXT,
    ) -> None:
        self._thread = ThreadPoolExecutor(1, "delivery")
        self._hang_s = hang_s
        self._producer = connect(
            Producer,
            broker,
            config,
            {
                "transactional.id": transactional_id,
                "transaction.timeout.ms": int(transaction_timeout_s * 1000),
                "retry.backoff.ms": 5,  # with the default, each transaction waits 100 ms before its first send
                "linger.ms": 0,  # commit flushes anyway
                # Kafka applies max.message.bytes to batches, and librdkafka does not split a refused one
                "batch.size": min(900_000, *limits.values()),
                "message.max.bytes": min(
                    MOST_BYTES, max(limits.values()) + 1024
                ),  # librdkafka also counts a record's framing
                "batch.num.messages": 100_000,
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 1_000_000,
                "socket.nagle.disable": True,
                "partitioner": "murmur2_random",  # the Java client's, so that joins by key find their partition
                "log_level": 2,
            },
        )

    async def start(self) -> None:
        """Fence an earlier process with this transactional id, and roll back its open transaction."""
        await self._run(self._until_known, self._producer.init_transactions, CALL_S)

    async def commit(self, records: Sequence[Record], offsets: Mapping[Partition, int], member: bytes) -> Outcome:
        """Write all records and the source offsets (partition -> the offset to read next) in one transaction.

        1. begin      after a crash from here to step 4, the transaction is rolled back by `start` of the restarted
                      worker or by its timeout. Nothing of it is visible, and the clicks are read again
        2. produce    the records are sent in the background. If the broker refuses one, step 4 fails
        3. offsets    are sent with the membership. The group coordinator refuses a member of an older generation
        4. commit     waits for all records. After a crash behind this step everything is visible, and recovery reads
                      the new rows

        Raises Fenced if another producer uses this transactional id, ConfigError if a topic's size limit is now lower
        than at the start or this user may not write to a topic any more, KafkaException if the producer is broken.
        """
        outcome: Outcome = await self._run(self._commit, records, offsets, member)
        return outcome

    async def close(self) -> None:
        """Stop the thread. No transaction is open, because `commit` always ends its transaction."""
        self._thread.shutdown(wait=False)

    async def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Run a call in the delivery thread and wait for it. After `hang_s` seconds, end the process."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)
        done, _ = await asyncio.wait({future}, timeout=self._hang_s)
        if not done:
            end(TimeoutError(f"a call to the broker has not returned in {self._hang_s:.0f} s (librdkafka #5456)"))
        return future.result()

    def _commit(self, records: Sequence[Record], offsets: Mapping[Partition, int], member: bytes) -> Outcome:
        """Steps 1 to 4 of `commit`, in the delivery thread."""
        producer = self._producer
        positions = [TopicPartition(*partition, offset) for partition, offset in offsets.items()]
        try:
            producer.begin_transaction()  # 1
            self._produce(records)  # 2
            self._until_known(producer.send_offsets_to_transaction, positions, member, CALL_S)  # 3
            self._until_known(producer.commit_transaction, CALL_S)  # 4
        except KafkaException as exc:
            error = exc.args[0]
            if error.name() in FENCED:
                raise Fenced(f"another producer works under this worker's id ({error.name()}): {error.str()}") from exc
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:  # Kafka would refuse the same records again
                raise ConfigError(
                    f"Kafka refused a record that fits the max.message.bytes read at the start ({error.str()}); if the "
                    "topic's limit was lowered since then, start again: the worker then cuts records to the new limit; "
                    "if this worker may not read the topic's configuration, allow it DescribeConfigs or raise "
                    "max.message.bytes"
                ) from exc
            if error.fatal() or not error.txn_requires_abort():
                raise
            refusal = refused(exc)
            if refusal is not None:  # after it librdkafka's producer fails every transaction with _STATE
                raise refusal from exc
            log.warning("transaction rolled back: error=%s detail=%s", error.name(), error.str())
            self._until_known(producer.abort_transaction, CALL_S)
            return Outcome.STALE if error.name() in STALE else Outcome.ROLLED_BACK
        return Outcome.COMMITTED

    def _produce(self, records: Sequence[Record]) -> None:
        """Step 2 of `commit`, in the delivery thread."""
        produce = self._producer.produce
        for topic, key, value, partition in records:
            while True:
                try:
                    produce(topic, value, key, -1 if partition is None else partition)
                    break
                except BufferError:  # the queue is full: wait until librdkafka has sent some records
                    self._producer.poll(0.05)

    @staticmethod
    def _until_known(call: Callable[..., Any], *arguments: Any) -> None:
        """Repeat a call until its outcome is known, in the delivery thread. `_run` limits it to `hang_s` seconds."""
        while True:
            try:
                call(*arguments)
            except KafkaException as exc:
                error = exc.args[0]
                if not error.retriable() or error.txn_requires_abort():
                    raise
                log.warning("kafka call repeated: call=%s error=%s", call.__name__, error.name())
                time.sleep(0.05)
            else:
                return
