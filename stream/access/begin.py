"""Where a group begins that has no committed offsets yet: `--start-at`.

    undecided  after the clicks that another group has decided into the same topic of recommendations; else earliest
    earliest   at the first click that Kafka has
    latest     after the last one
    a time     at the first click that Kafka got at or after it

A worker writes the topic of its recommendations beside the offsets of each batch that it decides. So a new group, for
a new model, finds the groups before it, and decides no click a second time. What a group left out before its own begin
counts as decided, once it has decided a later click of the partition.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

from confluent_kafka import ConsumerGroupTopicPartitions as Group
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec

from stream.access.refusal import Admin
from stream.events import Partition
from stream.kafka_config import KafkaConfig
from stream.start_at import EARLIEST, UNDECIDED, start_time_ms

ANSWER_S = 20.0

Begin = Callable[[Sequence[Partition]], Mapping[Partition, int]]
"""Partitions without a committed offset -> where the group begins in them; a partition that is left out: at its first
offset. It blocks, and raises KafkaException if Kafka does not answer."""

log = logging.getLogger(__name__)


def earliest(_: Sequence[Partition]) -> Mapping[Partition, int]:
    """A Begin: at the first offset of every partition."""
    return {}


def metadata(recommendations: str) -> str:
    """The text that a worker commits beside its offsets."""
    return f"eddy {recommendations}"


def begin(broker: str, config: KafkaConfig, recommendations: str, start_at: str) -> Begin:
    """The Begin of a worker.

    recommendations  the topic of its recommendations
    start_at         as in Settings
    """
    if start_at == EARLIEST:
        return earliest
    if start_at == UNDECIDED:
        return lambda partitions: _undecided(Admin(broker, config), metadata(recommendations), partitions)
    time_ms = start_time_ms(start_at)
    spec = OffsetSpec.latest() if time_ms is None else OffsetSpec.for_timestamp(time_ms)
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
    committed = [(name, at) for name in _groups(admin) for at in _committed(admin, name, partitions)]
    ends = _listed(admin, OffsetSpec.latest(), partitions)  # after the offsets: a group may go on meanwhile
    found: dict[Partition, int] = {}
    groups: set[str] = set()
    for name, at in committed:
        partition = Partition(at.topic, at.partition)
        if at.metadata != ours or not 0 <= at.offset <= ends[partition]:
            continue  # another application's, or of a topic that was created again
        found[partition] = max(at.offset, found.get(partition, 0))
        groups.add(name)
        log.info("another group has decided clicks: group=%s partition=%s offset=%d", name, partition, at.offset)
    _warn_of_workers(admin, sorted(groups))
    return found


def _warn_of_workers(admin: Admin, groups: list[str]) -> None:
    """Log a warning for each of these groups that has members: it goes on to decide the clicks that come."""
    asked = admin.describe_consumer_groups(groups, request_timeout=ANSWER_S) if groups else {}
    for name, future in asked.items():
        try:
            members = len(future.result().members)
        except KafkaException as exc:
            raise _again(exc.args[0]) from exc
        if members:
            log.warning(
                "another group still has workers, so each click is decided twice until they are stopped: group=%s "
                "workers=%d",
                name,
                members,
            )


def _groups(admin: Admin) -> list[str]:
    """The groups that this user may see. Raises KafkaException if a broker has not answered for its groups."""
    found = admin.list_consumer_groups(request_timeout=ANSWER_S).result()
    for failed in found.errors:
        error = (
            failed.args[0] if isinstance(failed, KafkaException) else failed
        )  # confluent-kafka 2.16 gives the latter
        if error.code() != KafkaError._UNSUPPORTED_FEATURE:  # the embedded broker, which keeps no groups
            raise _again(error)
    return sorted(group.group_id for group in found.valid)


def _committed(admin: Admin, group: str, partitions: Sequence[Partition]) -> list[TopicPartition]:
    """The offsets that a group has committed; none if this user may not see them.

    Raises KafkaException while a transaction over them is pending: what it commits must not be decided again.
    """
    asked = [TopicPartition(*partition) for partition in partitions]
    futures = admin.list_consumer_group_offsets([Group(group, asked)], require_stable=True, request_timeout=ANSWER_S)
    try:
        found: list[TopicPartition] = futures[group].result().topic_partitions
    except KafkaException as exc:
        error = exc.args[0]
        if error.code() != KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise _again(error) from exc
        log.warning("the offsets of a group may not be read, so its clicks may be decided again: group=%s", group)
        return []
    for at in found:
        if at.error is not None:
            raise _again(at.error)
    return found


def _again(error: KafkaError) -> KafkaException:
    """The error, marked as one after which the read is repeated: beginning elsewhere would decide clicks again."""
    return KafkaException(KafkaError(error.code(), error.str(), False, True))
