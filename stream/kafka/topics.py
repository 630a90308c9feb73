"""The topics of a worker: created by `eddy topics create`, checked before every start, and never changed.

The changelog must be compacted and have as many partitions as the clicks: its partition p holds the states of the users
of clicks partition p. Kafka refuses a record that is larger than its topic's `max.message.bytes`, and the transaction
with it. So the limits are read here, and every record is made to fit.
"""

import logging
import time
from collections.abc import Mapping, Sequence

import msgspec
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from stream.errors import ConfigError
from stream.settings import Topics

ANSWER_S = 6.0
COMPACTED = {
    "cleanup.policy": "compact",
    "min.cleanable.dirty.ratio": "0.2",  # recovery reads what compaction leaves: compact early
    "segment.bytes": "67108864",
}

LIMIT = "max.message.bytes"
DEFAULT_LIMIT = 1_048_588
"""Kafka's default of LIMIT: 1 MiB and 12 bytes."""

SMALLEST_LIMIT = 16_384
"""The smallest LIMIT of an output topic. A decision or an alert without its list takes less, also with ids of 256
characters that JSON writes as six bytes each."""

FRAME_BYTES = 128
"""Bytes that Kafka counts beside key and value: 61 for the header of a batch, up to 33 for that of a record."""

log = logging.getLogger(__name__)


def create_topics(broker: str, topics: Topics, partitions: int, replication: int) -> dict[str, str]:
    """Create the topics that do not exist, check those that do. Returns topic name -> what was done.

    Raises ConfigError if the broker does not answer or refuses, or if existing topics do not fit.
    """
    admin = _admin(broker)
    present = _partitions(admin, broker)
    wanted = [name for name in msgspec.structs.astuple(topics) if name not in present]
    for name in wanted:
        config = COMPACTED if name == topics.changelog else {}
        count = present.get(topics.clicks, partitions) if name == topics.changelog else partitions
        future = admin.create_topics([NewTopic(name, count, replication, config=config)])[name]
        try:
            future.result(timeout=ANSWER_S * 2)
        except KafkaException as exc:
            if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise ConfigError(f"topic {name} could not be created: {exc.args[0].str()}") from exc
    found = _wait_for(admin, broker, topics)
    return {name: f"{'created' if name in wanted else 'exists'}, {count} partitions" for name, count in found.items()}


def check_topics(broker: str, topics: Topics) -> dict[str, int]:
    """Topic name -> partitions, if a worker can run on them. Raises ConfigError with what to do otherwise."""
    return _check(_admin(broker), broker, topics)


def record_limits(broker: str, topics: Topics, longest_row: int) -> dict[str, int]:
    """The most bytes that key and value of one record may have together, for each topic that a worker writes.

    longest_row  bytes of the longest key and value of a state row, which cannot be cut
    Raises ConfigError if state rows do not fit into the changelog.
    """
    written = [name for name in msgspec.structs.astuple(topics) if name != topics.clicks]
    limits = {name: limit - FRAME_BYTES for name, limit in _limits(_configs(_admin(broker), written), written).items()}
    if limits[topics.changelog] < longest_row:
        raise ConfigError(
            f"topic {topics.changelog} has {LIMIT}={limits[topics.changelog] + FRAME_BYTES}: this model's state rows "
            f"need {longest_row + FRAME_BYTES}; {_raise_limit(topics.changelog, longest_row + FRAME_BYTES)}"
        )
    return limits


def _check(admin: AdminClient, broker: str, topics: Topics) -> dict[str, int]:
    present = _partitions(admin, broker)
    missing = [name for name in msgspec.structs.astuple(topics) if name not in present]
    if missing:
        raise ConfigError(
            f"no topic {', '.join(missing)} on {broker}; create what is missing with `eddy topics create "
            f"--broker {broker}`"
        )
    if present[topics.changelog] != present[topics.clicks]:
        raise ConfigError(
            f"topic {topics.changelog} has {present[topics.changelog]} partitions, {topics.clicks} has "
            f"{present[topics.clicks]}: they must be equal; give another --changelog-topic, and another --group with "
            "it, and create it with `eddy topics create`"
        )
    names = list(msgspec.structs.astuple(topics))
    configs = _configs(admin, names)
    _check_compaction(configs, topics.changelog)
    for name, limit in _limits(configs, [topics.recommendations, topics.anomalies, topics.dead_letters]).items():
        if limit < SMALLEST_LIMIT:
            raise ConfigError(
                f"topic {name} has {LIMIT}={limit}, too small for every event; {_raise_limit(name, SMALLEST_LIMIT)}"
            )
    return {name: present[name] for name in names}


def _admin(broker: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker, "log_level": 0, "socket.connection.setup.timeout.ms": 5000})


def _partitions(admin: AdminClient, broker: str) -> dict[str, int]:
    """Topic -> partitions, for every topic of the cluster. Raises ConfigError if no broker answers."""
    try:
        metadata = admin.list_topics(timeout=ANSWER_S)
    except KafkaException as exc:
        raise ConfigError(
            f"no Kafka answers at {broker} within {ANSWER_S:.0f} s ({exc.args[0].name()}); is it running, and is "
            "--broker its address as seen from here?"
        ) from exc
    return {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}


def _wait_for(admin: AdminClient, broker: str, topics: Topics) -> dict[str, int]:
    """`check_topics` once the cluster knows the new topics everywhere."""
    deadline = time.monotonic() + ANSWER_S
    names = set(msgspec.structs.astuple(topics))
    while not names <= _partitions(admin, broker).keys() and time.monotonic() < deadline:
        time.sleep(0.05)
    return _check(admin, broker, topics)


def _configs(admin: AdminClient, names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Topic -> its configuration. A topic that may not be asked is left out and logged."""
    if (admin.list_topics(timeout=ANSWER_S).cluster_id or "").startswith("mockCluster"):
        return {}  # librdkafka's embedded broker, which compacts nothing and never answers the question
    found: dict[str, dict[str, str]] = {}
    for resource, future in admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, name) for name in names]
    ).items():
        try:
            found[resource.name] = {name: entry.value for name, entry in future.result(timeout=ANSWER_S).items()}
        except (KafkaException, TimeoutError) as exc:  # not allowed to ask, perhaps; the worker can run without
            log.warning(
                "topic's configuration could not be read, so cleanup.policy is not checked and %s is taken to be %d: "
                "topic=%s error=%s",
                LIMIT,
                DEFAULT_LIMIT,
                resource.name,
                exc,
            )
    return found


def _limits(configs: Mapping[str, Mapping[str, str]], names: Sequence[str]) -> dict[str, int]:
    """Topic -> its LIMIT in bytes."""
    return {name: int(configs.get(name, {}).get(LIMIT, DEFAULT_LIMIT)) for name in names}


def _raise_limit(topic: str, limit: int) -> str:
    return f"raise it with kafka-configs.sh --alter --topic {topic} --add-config {LIMIT}={limit}"


def _check_compaction(configs: Mapping[str, Mapping[str, str]], changelog: str) -> None:
    """Refuse a changelog whose rows Kafka would delete by age."""
    policy = configs.get(changelog, {}).get("cleanup.policy", "compact")
    if "compact" not in policy or "delete" in policy:
        raise ConfigError(
            f"topic {changelog} has cleanup.policy={policy}: Kafka would delete users' states; set it to compact with "
            f"kafka-configs.sh --alter --topic {changelog} --add-config cleanup.policy=compact"
        )
