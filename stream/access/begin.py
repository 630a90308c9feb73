"""Where a group begins that has no committed offsets yet: `--start-at`.

    undecided  after the clicks that another group has decided into the same topic of recommendations; else earliest
    earliest   at the first click that Kafka has
    latest     after the last one
    a time     at the first click that Kafka got at or after it

A worker writes the topic of its recommendations beside each offset that it commits. So a new group, for a new model,
finds the groups before it, and decides no click a second time.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from confluent_kafka import ConsumerGroupTopicPartitions as Group
from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from stream.access.refusal import Admin
from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka_config import KafkaConfig

ANSWER_S = 20.0
UNDECIDED, EARLIEST, LATEST = "undecided", "earliest", "latest"
KEYWORDS = (UNDECIDED, EARLIEST, LATEST)

Begin = Callable[[Sequence[Partition]], Mapping[Partition, int]]
"""Partitions without a committed offset -> where the group begins in them; a partition that is left out: at its first
offset. It blocks, and raises KafkaException if Kafka does not answer."""

log = logging.getLogger(__name__)


def earliest(_: Sequence[Partition]) -> Mapping[Partition, int]:
    """A Begin: at the first offset of every partition."""
    return {}


def start_at(text: str) -> str | int:
    """The setting start_at: one of KEYWORDS, or a time in ms since the epoch. Raises ConfigError.

    text  a time is ISO 8601, in UTC if it has no offset
    """
    if text in KEYWORDS:
        return text
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"setting start_at is {text!r}; it must be one of {', '.join(KEYWORDS)}, or a time: 2026-11-01T00:00:00"
        ) from None
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def metadata(recommendations: str) -> str:
    """The text that a worker commits beside its offsets."""
    return f"eddy {recommendations}"


def begin(broker: str, config: KafkaConfig, recommendations: str, start_at: str | int) -> Begin:
    """The Begin of a worker.

    recommendations  the topic of its recommendations
    start_at         one of KEYWORDS, or a time in ms since the epoch
    """
    if start_at == EARLIEST:
        return earliest
    if start_at == UNDECIDED:
        return lambda partitions: _undecided(Admin(broker, config), metadata(recommendations), partitions)
    spec = OffsetSpec.latest() if isinstance(start_at, str) else OffsetSpec.for_timestamp(start_at)
    return lambda partitions: _at(Admin(broker, config), spec, partitions)


def _at(admin: Admin, spec: OffsetSpec, partitions: Sequence[Partition]) -> dict[Partition, int]:
    """The offsets that Kafka has for a spec; where no click is as late, the end of the partition."""
    found = _listed(admin, spec, partitions)
    late = [partition for partition, offset in found.items() if offset < 0]
    return found | (_listed(admin, OffsetSpec.latest(), late) if late else {})


def _listed(admin: Admin, spec: OffsetSpec, partitions: Sequence[Partition]) -> dict[Partition, int]:
    # With read_committed, the end would be the first open transaction: clicks that come into it later are new ones.
    asked = {TopicPartition(*partition): spec for partition in partitions}
    futures = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=ANSWER_S)
    return {Partition(of.topic, of.partition): future.result().offset for of, future in futures.items()}


def _undecided(admin: Admin, ours: str, partitions: Sequence[Partition]) -> dict[Partition, int]:
    """For each partition, the highest offset up to which a group with our metadata has decided its clicks."""
    ends = _listed(admin, OffsetSpec.latest(), partitions)
    found: dict[Partition, int] = {}
    for name in _groups(admin):
        for at in _committed(admin, name, partitions):
            partition = Partition(at.topic, at.partition)
            if at.metadata != ours or not 0 <= at.offset <= ends[partition]:
                continue  # another application's, or of a topic that was created again
            found[partition] = max(at.offset, found.get(partition, 0))
            log.info("another group has decided clicks: group=%s partition=%s offset=%d", name, partition, at.offset)
    return found


def _groups(admin: Admin) -> list[str]:
    """The groups that this user may see."""
    found = admin.list_consumer_groups(request_timeout=ANSWER_S).result()
    return sorted(group.group_id for group in found.valid)


def _committed(admin: Admin, group: str, partitions: Sequence[Partition]) -> list[TopicPartition]:
    """The offsets that a group has committed; none if this user may not see them or if the group is gone."""
    asked = [TopicPartition(*partition) for partition in partitions]
    futures = admin.list_consumer_group_offsets([Group(group, asked)], require_stable=True, request_timeout=ANSWER_S)
    try:
        found: list[TopicPartition] = futures[group].result().topic_partitions
    except KafkaException as exc:
        log.warning("offsets of a group cannot be read: group=%s error=%s", group, exc.args[0].name())
        return []
    return [at for at in found if at.error is None]
