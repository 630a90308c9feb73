"""One transaction of a command over a group's changelog and offsets, while no worker can be in the group.

`eddy topics repair` and `eddy state import` write in it. They use one transactional id for a group, so the later of two
such commands fences the earlier one. A worker that starts meanwhile makes the generation of `only_member` old, and
Kafka refuses the offsets, and with them the whole transaction.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from stream.access.credentials import connect
from stream.access.place import COMMAND
from stream.access.refusal import Admin, refused
from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka_config import KafkaConfig

ANSWER_S = 10.0
JOIN_S = 60.0
PAUSE_S = 0.2
TRANSACTION_S = 600
"""Of the transaction. If this process dies in it, the next run rolls it back at once; else this time does."""

NO_COORDINATOR_YET = (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE)

Records = Iterable[tuple[bytes, bytes | None, int]]
"""Key, value and partition of records for the changelog."""


def check_no_members(admin: Admin, group: str) -> None:
    """Raises ConfigError if the group has members. Waits for a coordinator, which a new cluster makes at first use."""
    deadline_s = time.monotonic() + JOIN_S
    while True:
        try:
            members = admin.describe_consumer_groups([group])[group].result(timeout=ANSWER_S).members
            break
        except KafkaException as exc:
            error = exc.args[0]
            if error.code() not in NO_COORDINATOR_YET or time.monotonic() > deadline_s:
                raise refused(exc) or ConfigError(
                    f"group {group} could not be asked for its members: {error.name()} {error.str()}"
                ) from exc
            time.sleep(PAUSE_S)
    if members:
        names = ", ".join(f"{member.group_instance_id or member.member_id} on {member.host}" for member in members)
        raise ConfigError(
            f"group {group} has {len(members)} member{'s' * (len(members) > 1)} ({names}); stop all workers, and wait "
            "for the session timeout of one that was killed"
        )


def roll_back(broker: str, config: KafkaConfig, group: str) -> None:
    """Roll back the transaction that an earlier command left open when it died. Else nothing could be read past it."""
    try:
        open_producer(broker, config, group)
    except KafkaException as exc:
        raise refused(exc) or ConfigError(f"no transactions for group {group}: {exc.args[0].str()}") from exc


def open_producer(broker: str, config: KafkaConfig, group: str) -> Producer:
    """A producer that has rolled back what an earlier command of the group left open."""
    producer = connect(
        Producer,
        broker,
        config,
        {
            "transactional.id": f"{group}:repair",
            "transaction.timeout.ms": TRANSACTION_S * 1000,
            "linger.ms": 20,
            "queue.buffering.max.kbytes": 100_000,
            "log_level": 2,
        },
    )
    producer.init_transactions(JOIN_S)
    return producer


def transact(
    producer: Producer,
    topic: str,
    records: Records,
    offsets: Mapping[Partition, int],
    member: Consumer,
    metadata: str = "",
) -> None:
    """Write records to the changelog `topic`, and offsets, in one transaction.

    offsets   partition of the clicks -> the offset to read next. They are sent after the last record
    metadata  a text that Kafka keeps beside the offsets
    Raises KafkaException; the transaction is then rolled back.
    """
    producer.begin_transaction()
    try:
        for key, value, partition in records:
            while True:
                try:
                    producer.produce(topic, value, key, partition)
                    break
                except BufferError:  # the queue is full: wait until librdkafka has sent some records
                    producer.poll(0.1)
        if offsets:
            positions = [TopicPartition(*partition, offset, metadata) for partition, offset in offsets.items()]
            producer.send_offsets_to_transaction(positions, member.consumer_group_metadata(), JOIN_S)
        producer.commit_transaction(TRANSACTION_S)
    except KafkaException as exc:
        if not exc.args[0].fatal():
            producer.abort_transaction(JOIN_S)
        raise


@contextmanager
def only_member(broker: str, config: KafkaConfig, group: str, topic: str) -> Iterator[Consumer]:
    """Join the group and read nothing. Raises ConfigError if the group does not let us in."""
    consumer = connect(
        Consumer,
        broker,
        config,
        {
            "group.id": group,
            "client.id": COMMAND,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "max.poll.interval.ms": 3_600_000,
            "log_level": 2,
        },
    )
    joined = False

    def pause(consumer: Consumer, partitions: list[TopicPartition]) -> None:
        nonlocal joined
        joined = True
        consumer.assign(partitions)
        consumer.pause(partitions)

    try:
        consumer.subscribe([topic], on_assign=pause)
        deadline = time.monotonic() + JOIN_S
        while not joined:
            message = consumer.poll(0.2)
            error = message.error() if message is not None else None
            if (error is not None and error.name() == "INCONSISTENT_GROUP_PROTOCOL") or time.monotonic() > deadline:
                raise ConfigError(f"group {group} cannot be joined: a worker has started; stop all workers")
        yield consumer
    finally:
        consumer.close()
