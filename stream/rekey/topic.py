"""The topic that is keyed by the user: its name, how it is created, and what is checked before a worker starts.

It is a copy of the topic that the producers write, the source, and the clicks topic of the workers. So it needs what
the source has: the retention, because the copies keep their timestamps, and room for the largest message and a key.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec
from confluent_kafka.admin import NewTopic

from stream.access.publish import create_topic
from stream.access.refusal import Admin
from stream.access.rights import READ, WRITE, Rights, check_may_create
from stream.errors import ConfigError
from stream.kafka.topics import (
    DEFAULT_LIMIT,
    FRAME_BYTES,
    LIMIT,
    check_same_partitions,
    check_topics,
    configs_of,
    create_topics,
    partition_counts,
)
from stream.kafka_config import PLAINTEXT, KafkaConfig
from stream.mapping.parse import read_mapping
from stream.settings import Topics
from stream.wire.dead_letter import LONGEST_KEY

log = logging.getLogger(__name__)

AS_THE_SOURCE = ("retention.ms", "retention.bytes", "message.timestamp.after.max.ms")
"""What a new topic gets from the source: else copies of old messages would be deleted, or late clocks refused."""

CARRY_BYTES = 2_000
"""Of a message that carries a state beside click, key and row: a second id, and the names of its headers."""

ROW_BYTES = 32_768
"""Room for a row in a new topic, more than most models need; a worker checks the room for its own."""


def by_user(source: str) -> str:
    """The name of the topic with the copies. The consumer group that copies has the same name."""
    return f"{source}-by-user"


def rekeyed(topics: Topics) -> Topics:
    """The topics of a worker whose clicks are re-keyed; `topics.clicks` is the source."""
    return msgspec.structs.replace(topics, clicks=by_user(topics.clicks))


def topics_by(topics: Topics, mapping: str) -> Topics:
    """The topics of a worker that reads by the mapping file at this path; "" = no mapping. Raises ConfigError."""
    return rekeyed(topics) if mapping and read_mapping(Path(mapping)).mapping.rekey else topics


def create(
    broker: str,
    topics: Topics,
    mapping: str,
    partitions: int,
    replication: int,
    config: KafkaConfig = PLAINTEXT,
    *others: str,
) -> dict[str, str]:
    """Create the missing topics of a worker that reads by a mapping. Returns topic name -> what was done.

    others  as in create_topics
    A re-keyed topic and the changelog get as many partitions as the source. Raises ConfigError as create_topics does.
    """
    worked = topics_by(topics, mapping)
    if worked == topics:
        return create_topics(broker, topics, partitions, replication, config, *others)
    admin = Admin(broker, config)
    source, copy = topics.clicks, worked.clicks
    done = {source: "exists"}
    present = partition_counts(admin, broker)
    wanted = {source, *worked.names(), *others} - present.keys()
    check_may_create(admin, sorted(wanted))  # all at once: else `create_topics` would name the rest after the copy
    if source not in present:
        create_topic(admin, NewTopic(source, partitions, replication))
        done[source] = "created"
    present = partition_counts(admin, broker)
    count = present.get(source, partitions)
    if copy not in present:
        more_bytes = ROW_BYTES + CARRY_BYTES if read_mapping(Path(mapping)).mapping.carries else 0
        create_copy(admin, broker, source, copy, count, replication, more_bytes)
        done[copy] = "created"
    done[source] += f", {count} partitions"
    rest = create_topics(broker, worked, count, replication, config, *others)
    return done | {name: what.replace("exists", done.get(name, "exists"), 1) for name, what in rest.items()}


def create_copy(
    admin: Admin, broker: str, source: str, copy: str, partitions: int, replication: int, more_bytes: int = 0
) -> None:
    """Create the topic `copy` for copies of the messages of `source`, with `more_bytes` of room. Raises ConfigError."""
    configs = configs_of(admin, broker, [source])
    if source not in configs:
        log.warning("the new topic has Kafka's default retention, because that of the source is not known: %s", copy)
    found = configs.get(source, {})
    same = {name: found[name] for name in AS_THE_SOURCE if name in found}
    limit = int(found.get(LIMIT, DEFAULT_LIMIT)) + LONGEST_KEY + FRAME_BYTES + more_bytes
    create_topic(admin, NewTopic(copy, partitions, replication, config={**same, LIMIT: str(limit)}))


def check_all(broker: str, topics: Topics, mapping: str, config: KafkaConfig = PLAINTEXT) -> dict[str, int]:
    """Return topic -> partitions of a worker that reads by a mapping. Raises ConfigError if it would not start."""
    worked = topics_by(topics, mapping)
    more = check_source(broker, topics.clicks, worked.clicks, config) if worked != topics else {}
    found = check_topics(broker, worked, config, more=more).partitions
    check_same_partitions(found, worked)
    return found


def check_source(broker: str, source: str, copy: str, config: KafkaConfig) -> Rights:
    """Raises ConfigError if the source or the topic of the copies is missing. Returns the rights that copying needs."""
    present = partition_counts(Admin(broker, config), broker)
    missing = [name for name in (source, copy) if name not in present]
    if missing:
        raise ConfigError(
            f"no topic {', '.join(missing)} on {broker} that this user may see; the mapping has rekey = true, so the "
            f"workers copy the topic of the producers (--clicks-topic {source}) to {copy}: create what is missing with "
            f"`eddy topics create --broker {broker} --clicks-topic {source} --mapping FILE`, give another "
            "--clicks-topic, or, if it exists, give this user the rights on it (docs/security.md)"
        )
    return {source: (READ,), copy: (READ, WRITE)}


def copy_limit(copy: str, configs: Mapping[str, Mapping[str, str]], max_message_bytes: int) -> int:
    """Return the most bytes of a copied click: key, value and headers together.

    configs  as `check_topics` returns them
    max_message_bytes  of a click, and of the row that may come with it
    Raises ConfigError if a valid click may not fit into the topic of the copies.
    """
    limit = int(configs.get(copy, {}).get(LIMIT, DEFAULT_LIMIT)) - FRAME_BYTES
    if limit <= max_message_bytes + LONGEST_KEY:
        raise ConfigError(
            f"topic {copy} has {LIMIT}={limit + FRAME_BYTES}, and a click may have {max_message_bytes} bytes: raise it "
            f"with kafka-configs.sh --alter --topic {copy} --add-config "
            f"{LIMIT}={max_message_bytes + LONGEST_KEY + FRAME_BYTES + 1}, or lower --max-message-bytes"
        )
    return limit
