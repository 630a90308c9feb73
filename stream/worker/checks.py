"""What is checked before a worker joins: joining makes the whole group wait.

First its rights, topics and limits, and all that is wrong with them is one error. Then the changelog: its rows must be
of this model, and of this group.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial

from confluent_kafka import KafkaException, TopicPartition

from stream.access.refusal import Admin
from stream.errors import NoAnswer, Problems
from stream.events import Partition
from stream.kafka.changelog import Changelog, disagreement
from stream.kafka.topics import NO_RIGHTS, Checked, check_same_partitions, check_topics, partition_counts, record_limits
from stream.kafka.waiting import KafkaWatch, patiently
from stream.kafka_config import KafkaConfig
from stream.rekey.topic import CARRY_BYTES, check_source, copy_limit
from stream.settings import Settings
from stream.state.arena import Arena

CHECKED_PARTITIONS = 64
"""How many partitions of the changelog are looked at before a worker joins. All rows of a group have one model."""

CALL_S = 10.0

log = logging.getLogger(__name__)


def check_cluster(
    settings: Settings,
    source: str,
    worker_id: str,
    config: KafkaConfig,
    watch: KafkaWatch,
    longest_row: int,
    carries: bool,
) -> tuple[int, dict[str, int]]:
    """Check topics and rights. If Kafka goes away meanwhile, wait for it and begin again.

    source, carries  the topic that the producers write, the clicks topic itself if it is not re-keyed; and whether rows
                     go through the topic of the copies
    worker_id        no living process of the group has it
    Returns the number of partitions of the changelog, and topic -> largest size of a record in bytes.
    Raises ConfigError with all reasons. Of a worker that re-keys, missing topics come before the rest.
    """
    topics = settings.topics
    groups, ids = [settings.group], [f"{settings.group}:{worker_id}"]
    if source != topics.clicks:
        groups.append(topics.clicks)
        ids.append(f"{ids[0]}:rekey")
    while True:
        watch.wait()
        problems, checked, more = Problems(), Checked({}, {}), NO_RIGHTS
        try:
            if source != topics.clicks:
                more = check_source(settings.broker, source, topics.clicks, config)
            with problems:
                checked = check_topics(settings.broker, topics, config, *groups, ids=ids, more=more)
            present = partition_counts(Admin(settings.broker, config), settings.broker)
        except NoAnswer:  # it went away meanwhile
            continue
        with problems:
            if not settings.drain and {topics.clicks, topics.changelog} <= present.keys():
                check_same_partitions(present, topics)
        problems.end()
        limits = record_limits(topics, checked.configs, longest_row)
        if source != topics.clicks:
            most_bytes = settings.max_message_bytes + (longest_row + CARRY_BYTES if carries else 0)
            limits[topics.clicks] = copy_limit(topics.clicks, checked.configs, most_bytes)
        return checked.partitions[topics.changelog], limits


def check_rows(changelog: Changelog, arena: Arena, clicks: str, partitions: int, watch: KafkaWatch) -> None:
    """Refuse rows of another model, Eddy version or group.

    A few of the newest rows show it. What they do not show, the recovery refuses. Raises ConfigError.
    """
    some = [Partition(clicks, number) for number in range(min(partitions, CHECKED_PARTITIONS))]
    try:
        committed = patiently(watch, partial(_committed, changelog), some)
        marks = patiently(watch, partial(changelog.newest, take=arena.check), some)
        stands = {partition: marks[partition].next if partition in marks else None for partition in some}
        apart = [partition for partition in some if stands[partition] != committed[partition]]
        if apart:
            patiently(watch, partial(_check_group, changelog), apart)
    except (KafkaException, TimeoutError) as exc:
        log.warning("the changelog cannot be read yet, so its rows are checked after the worker has joined: %s", exc)


def _committed(changelog: Changelog, partitions: Sequence[Partition]) -> Mapping[Partition, int | None]:
    """The group's committed offsets, without those of a pending transaction: a worker that was killed left it, and it
    would be waited for."""
    consumer = changelog.consumer("read_uncommitted")
    try:
        answer = consumer.committed([TopicPartition(*partition) for partition in partitions], timeout=CALL_S)
    finally:
        consumer.close()
    for found in answer:
        if found.error is not None:
            raise KafkaException(found.error)
    return {Partition(at.topic, at.partition): at.offset if at.offset >= 0 else None for at in answer}


def _check_group(changelog: Changelog, partitions: Sequence[Partition]) -> None:
    """Raises ConfigError if the rows of a partition are of another group, or of other offsets of this one.

    Workers of the group may go on meanwhile. One transaction has a partition's offset and the mark of its rows, and
    both only grow. So the mark must not be before an offset that was read before it, nor after one that was read after
    it. These reads wait for pending transactions.
    """
    before = changelog.positions(partitions)
    marks = changelog.marks(partitions)
    after = changelog.positions(partitions)
    ends = changelog.ends([Partition(changelog.topic, partition.number) for partition in partitions])
    for partition in partitions:
        first, last = before[partition].committed, after[partition].committed
        if partition in marks:
            mark = marks[partition].next
            if last is None or mark > last or (first is not None and mark < first):
                raise disagreement(changelog.group, partition, last, mark)
        elif first is not None and ends[Partition(changelog.topic, partition.number)][1] == 0:
            raise disagreement(changelog.group, partition, last, None)
