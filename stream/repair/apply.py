"""Writes a repair: rows, marks and the group's offsets in one transaction, while no worker can be in the group.

1. join     this process is the only member of the group. A worker that starts now makes its generation old, and step 4
            is refused
2. sign     only if the changelog needs more partitions: its marks are replaced by ones that no worker takes
3. grow     the changelog gets the partitions of the clicks. This cannot be part of a transaction
4. change   one transaction: rows where they belong, tombstones where they were, marks, offsets

After a crash before 2 nothing has changed. After one between 2 and 4 no worker starts, and the repair can be run again:
it finds all rows where they were. After 4 all is done.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewPartitions

from stream.access.credentials import connect
from stream.access.refusal import Admin, refused
from stream.errors import ConfigError
from stream.kafka.changelog import POSITION_KEY, REPAIRING
from stream.kafka.topics import partition_counts
from stream.kafka_config import KafkaConfig
from stream.repair.plan import Change
from stream.repair.survey import PROGRESS_ROWS, Say
from stream.settings import Topics

ANSWER_S = 10.0
JOIN_S = 60.0
TRANSACTION_S = 600
"""Of the transaction. If this process dies in it, its next run rolls it back at once; else this time does."""

Records = Iterable[tuple[bytes, bytes | None, int]]
"""Key, value and partition of records for the changelog."""


def check_no_members(admin: Admin, group: str) -> None:
    """Raises ConfigError if the group has members."""
    try:
        members = admin.describe_consumer_groups([group])[group].result(timeout=ANSWER_S).members
    except KafkaException as exc:
        raise refused(exc) or ConfigError(
            f"group {group} could not be asked for its members: {exc.args[0].str()}"
        ) from exc
    if members:
        names = ", ".join(f"{member.group_instance_id or member.member_id} on {member.host}" for member in members)
        raise ConfigError(
            f"group {group} has {len(members)} members ({names}); stop all workers, and wait for the session "
            "timeout of one that was killed"
        )


def roll_back(broker: str, config: KafkaConfig, group: str) -> None:
    """Roll back the transaction that an earlier repair left open when it died. Else nothing could be read past it."""
    try:
        _producer(broker, config, group)
    except KafkaException as exc:
        raise refused(exc) or ConfigError(f"no transactions for group {group}: {exc.args[0].str()}") from exc


def apply(
    admin: Admin,
    broker: str,
    config: KafkaConfig,
    group: str,
    topics: Topics,
    before: int,
    changes: Sequence[Change],
    say: Say,
) -> None:
    """Write the changes. `before` is the number of partitions that the changelog was written for.

    Raises ConfigError if a worker joins meanwhile or Kafka refuses something; what is then left is described above.
    """
    with _member(broker, config, group, topics.clicks) as member:  # 1
        try:
            if partition_counts(admin, broker)[topics.changelog] < len(changes):
                signs = [
                    (POSITION_KEY, REPAIRING + b"%d " % before + change.found.mark.encode(), number)
                    for number, change in enumerate(changes)
                    if change.found.mark is not None
                ]
                _transact(_producer(broker, config, group), topics.changelog, signs, {}, member, say)  # 2
                _grow(admin, broker, topics.changelog, len(changes))  # 3
            offsets = {tuple(change.found.partition): change.next for change in changes if change.needed}
            producer = _producer(broker, config, group)  # a new one: the other does not know the new partitions
            _transact(producer, topics.changelog, _records(changes), offsets, member, say)  # 4
        except KafkaException as exc:
            error = exc.args[0]
            raise refused(exc) or ConfigError(
                f"the repair was not written ({error.name()}: {error.str()}); run it again, while no worker starts"
            ) from exc


def _producer(broker: str, config: KafkaConfig, group: str) -> Producer:
    """A producer that has rolled back what an earlier repair of the group left open."""
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


def _records(changes: Sequence[Change]) -> Records:
    for number, change in enumerate(changes):
        if change.needed and change.mark is not None:
            for key, row in change.rows.items():
                yield key, row, number
            yield POSITION_KEY, change.mark.encode(), number  # the last record: recovery looks for it at the end


def _transact(
    producer: Producer,
    topic: str,
    records: Records,
    offsets: Mapping[tuple[Any, ...], int],
    member: Consumer,
    say: Say,
) -> None:
    """Write records and offsets in one transaction. Raises KafkaException; the transaction is then rolled back."""
    producer.begin_transaction()
    try:
        for n, (key, value, partition) in enumerate(records, 1):
            while True:
                try:
                    producer.produce(topic, value, key, partition)
                    break
                except BufferError:
                    producer.poll(0.1)
            if n % PROGRESS_ROWS == 0:
                say(f"{n:,} rows written")
                producer.poll(0)
        if offsets:
            positions = [TopicPartition(*partition, offset) for partition, offset in offsets.items()]
            producer.send_offsets_to_transaction(positions, member.consumer_group_metadata(), JOIN_S)
        producer.commit_transaction(TRANSACTION_S)
    except KafkaException as exc:
        if not exc.args[0].fatal():
            producer.abort_transaction(JOIN_S)
        raise


def _grow(admin: Admin, broker: str, topic: str, partitions: int) -> None:
    """Add partitions and wait until the brokers know them."""
    admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(timeout=ANSWER_S)
    deadline = time.monotonic() + ANSWER_S
    while partition_counts(admin, broker)[topic] < partitions:
        if time.monotonic() > deadline:
            raise ConfigError(f"topic {topic} has not got {partitions} partitions; run the repair again")
        time.sleep(0.1)


@contextmanager
def _member(broker: str, config: KafkaConfig, group: str, topic: str) -> Iterator[Consumer]:
    """Join the group and read nothing. Raises ConfigError if the group does not let us in."""
    consumer = connect(
        Consumer,
        broker,
        config,
        {
            "group.id": group,
            "client.id": "eddy-repair",
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
