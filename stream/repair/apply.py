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
from collections.abc import Sequence

from confluent_kafka import KafkaException
from confluent_kafka.admin import NewPartitions

from stream.access.refusal import Admin, refused
from stream.errors import ConfigError
from stream.kafka.changelog import POSITION_KEY, REPAIRING
from stream.kafka.topics import partition_counts
from stream.kafka_config import KafkaConfig
from stream.repair.plan import Change
from stream.repair.survey import PROGRESS_ROWS, Say
from stream.repair.transaction import ANSWER_S, Records, only_member, open_producer, transact
from stream.settings import Topics


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
    with only_member(broker, config, group, topics.clicks) as member:  # 1
        try:
            if partition_counts(admin, broker)[topics.changelog] < len(changes):
                signs = [
                    (POSITION_KEY, REPAIRING + b"%d " % before + change.found.mark.encode(), number)
                    for number, change in enumerate(changes)
                    if change.found.mark is not None
                ]
                transact(open_producer(broker, config, group), topics.changelog, signs, {}, member)  # 2
                _grow(admin, broker, topics.changelog, len(changes))  # 3
            offsets = {change.found.partition: change.next for change in changes if change.needed}
            producer = open_producer(broker, config, group)  # a new one: the other does not know the new partitions
            transact(producer, topics.changelog, _counted(_records(changes), say), offsets, member)  # 4
        except KafkaException as exc:
            error = exc.args[0]
            raise refused(exc) or ConfigError(
                f"the repair was not written ({error.name()}: {error.str()}); run it again, while no worker starts"
            ) from exc


def _records(changes: Sequence[Change]) -> Records:
    for number, change in enumerate(changes):
        if change.needed and change.mark is not None:
            for key, row in change.rows.items():
                yield key, row, number
            yield POSITION_KEY, change.mark.encode(), number  # the last record: recovery looks for it at the end


def _counted(records: Records, say: Say) -> Records:
    for n, record in enumerate(records, 1):
        if n % PROGRESS_ROWS == 0:
            say(f"{n:,} rows written")
        yield record


def _grow(admin: Admin, broker: str, topic: str, partitions: int) -> None:
    """Add partitions and wait until the brokers know them."""
    admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(timeout=ANSWER_S)
    deadline = time.monotonic() + ANSWER_S
    while partition_counts(admin, broker)[topic] < partitions:
        if time.monotonic() > deadline:
            raise ConfigError(f"topic {topic} has not got {partitions} partitions; run the repair again")
        time.sleep(0.1)
