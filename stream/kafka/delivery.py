"""One transaction per cycle: outputs, dead letters, rows and source offsets become visible together or not at all.

Each worker has one transactional producer (KIP-447). Its transactional id consists of the group and the worker id, so a
restarted worker fences the process before it. The group's generation and member id are sent with the offsets, so a
worker that was frozen for longer than its session cannot write. A call whose outcome is unknown is repeated; the work
itself never is. If the producer is fenced or broken, the process ends.

Sources: KIP-98, KIP-447; librdkafka's INTRODUCTION.md, "Transactional producer"; librdkafka #5456 (the hang).
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

from stream.errors import ConfigError, Fenced
from stream.events import Partition
from stream.kafka.watchdog import end

CALL_S = 10.0
"""librdkafka's own time limit per call; a call that only timed out is made again until `hang_s`."""

MOST_BYTES = 1_000_000_000
"""The largest message.max.bytes that librdkafka takes."""

FENCED = frozenset({"_FENCED", "PRODUCER_FENCED", "INVALID_PRODUCER_EPOCH", "FENCED_INSTANCE_ID"})
"""Errors that mean: another process uses this worker's id."""

STALE = frozenset({"ILLEGAL_GENERATION", "UNKNOWN_MEMBER_ID", "REBALANCE_IN_PROGRESS"})
"""Errors that mean: the group has a newer generation, of which this worker knows nothing yet."""

log = logging.getLogger(__name__)


class Record(NamedTuple):
    """One message to write. A `value` of None is a tombstone; `partition` is None where the key chooses it."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None


class Outcome(enum.Enum):
    """How a transaction ended.

    COMMITTED    everything is visible
    ROLLED_BACK  nothing is visible; the same records may be sent again
    STALE        nothing is visible; the group has a newer generation, so the records belong to another worker now
    """

    COMMITTED = "committed"
    ROLLED_BACK = "rolled back"
    STALE = "stale"


def group_metadata(group: str, generation: int, member_id: str, instance_id: str | None) -> bytes:
    """Faust's membership in the form that confluent-kafka's send_offsets_to_transaction takes.

    The form is librdkafka's serialised rd_kafka_consumer_group_metadata_t ("CGMDv2"), as
    Consumer.consumer_group_metadata() returns it. Raises Fenced without a membership: the broker would accept the
    offsets without any fencing.
    """
    if generation < 0 or not member_id:
        raise Fenced(f"no membership in group {group} (generation {generation}); offsets would be written unfenced")
    instance = b"\x01" if instance_id is None else b"\x00" + instance_id.encode() + b"\x00"
    return b"CGMDv2:" + struct.pack("=i", generation) + group.encode() + b"\0" + member_id.encode() + b"\0" + instance


class WorkerLock:
    """A worker number that no other process under `data_dir` has. It is held until the process ends."""

    def __init__(self, data_dir: Path) -> None:
        """Claim the lowest free number. Raises ConfigError if `data_dir` cannot be written."""
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            number = 0
            while not self._claim(data_dir / f"worker-{number}.lock"):
                number += 1
        except OSError as exc:
            raise ConfigError(
                f"no worker number can be claimed under {data_dir} ({exc.strerror}); give --worker-id or --data-dir"
            ) from exc
        self.worker_id = str(number)

    def _claim(self, path: Path) -> bool:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        self._file = file  # the lock lives as long as the open file
        return True


class Delivery:
    """The worker's only producer. Its calls block, so they run in a thread of their own, the delivery thread.

    `start`, `commit` and `close` are called in the event loop; what they run in the delivery thread says so.

    transaction_timeout_s  not above the session timeout: the partitions of a dead worker wait for its open transaction
    hang_s                 a call that has not returned by then ends the process
    limits                 topic -> the most bytes of a record, as topics.record_limits gives them
    """

    def __init__(
        self,
        broker: str,
        transactional_id: str,
        transaction_timeout_s: float,
        hang_s: float,
        limits: Mapping[str, int],
    ) -> None:
        self._thread = ThreadPoolExecutor(1, "delivery")
        self._hang_s = hang_s
        self._producer = Producer(
            {
                "bootstrap.servers": broker,
                "transactional.id": transactional_id,
                "transaction.timeout.ms": int(transaction_timeout_s * 1000),
                "retry.backoff.ms": 5,  # the default of 100 ms is what a transaction waits for its first send
                "linger.ms": 0,  # commit flushes anyway
                # Kafka applies max.message.bytes to batches, and librdkafka does not split a refused one
                "batch.size": min(900_000, *limits.values()),
                "message.max.bytes": min(MOST_BYTES, max(limits.values()) + 1024),  # it also counts a record's framing
                "batch.num.messages": 100_000,
                "queue.buffering.max.messages": 1_000_000,
                "queue.buffering.max.kbytes": 1_000_000,
                "socket.nagle.disable": True,
                "partitioner": "murmur2_random",  # the Java client's, so that joins by key find their partition
                "log_level": 2,
            }
        )

    async def start(self) -> None:
        """Fence an earlier process with this transactional id, and roll back the transaction that it left open."""
        await self._run(self._again, self._producer.init_transactions, CALL_S)

    async def commit(self, records: Sequence[Record], offsets: Mapping[Partition, int], member: bytes) -> Outcome:
        """Write all records and the source offsets (partition -> the offset to read next) in one transaction.

        1. begin      after a crash from here to 4, `start` of the restarted worker rolls the transaction back, or its
                      timeout does; nothing of it is visible, and the clicks are read again
        2. produce    records go to the broker in the background; the first refused one fails step 4
        3. offsets    sent with the membership; the group coordinator refuses a member of an older generation
        4. commit     waits for all records; after a crash behind it all is visible, and recovery reads these rows

        Raises Fenced if another producer has this transactional id, ConfigError if a topic takes less than it did at
        the start, KafkaException if the producer is broken.
        """
        outcome: Outcome = await self._run(self._commit, records, offsets, member)
        return outcome

    async def close(self) -> None:
        """Stop the thread. No transaction is open: `commit` leaves none."""
        self._thread.shutdown(wait=False)

    async def _run(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Run a call in the delivery thread and wait for it, at most `hang_s`."""
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
            self._again(producer.send_offsets_to_transaction, positions, member, CALL_S)  # 3
            self._again(producer.commit_transaction, CALL_S)  # 4
        except KafkaException as exc:
            error = exc.args[0]
            if error.name() in FENCED:
                raise Fenced(f"another producer works under this worker's id ({error.name()}): {error.str()}") from exc
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:  # the same records would be refused for ever
                raise ConfigError(
                    f"Kafka refused a record that fits the max.message.bytes read at the start ({error.str()}); if the "
                    "topic's limit was lowered meanwhile, start again: records are then cut to it; if this worker may "
                    "not read the topic's configuration, allow it DescribeConfigs or raise max.message.bytes"
                ) from exc
            if error.fatal() or not error.txn_requires_abort():
                raise
            log.warning("transaction rolled back: error=%s detail=%s", error.name(), error.str())
            self._again(producer.abort_transaction, CALL_S)
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
                except BufferError:  # the queue is full: let some of it go out
                    self._producer.poll(0.05)

    @staticmethod
    def _again(call: Callable[..., Any], *arguments: Any) -> None:
        """The same call until its outcome is known, in the delivery thread. `hang_s` of the caller bounds it."""
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
