"""What `eddy state export` and `eddy state import` ask a cluster before they begin."""

from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import KafkaException, TopicCollection

from stream.access.refusal import Admin
from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import Changelog
from stream.kafka.topics import check_same_partitions, partition_counts
from stream.kafka_config import KafkaConfig
from stream.rekey.topic import by_user
from stream.settings import Topics

ANSWER_S = 10.0


class Cluster(NamedTuple):
    """The group whose states are meant, and its topics.

    partitions  of the clicks topic; the changelog has as many
    clicks_id   Kafka's id of the clicks topic (KIP-516): a topic that is created again has another one. "" = unknown
    copies      the topic with re-keyed copies of the clicks topic; "" = there is none
    """

    broker: str
    config: KafkaConfig
    admin: Admin
    topics: Topics
    changelog: Changelog
    partitions: Sequence[Partition]
    clicks_id: str
    copies: str = ""


def look(broker: str, config: KafkaConfig, group: str, topics: Topics) -> Cluster:
    """Look at the topics of a group. Raises ConfigError if no Kafka answers, or if topics are missing or do not fit."""
    admin = Admin(broker, config)
    counts = partition_counts(admin, broker)
    missing = [name for name in (topics.clicks, topics.changelog) if name not in counts]
    if missing:
        raise ConfigError(f"no topic {', '.join(missing)} on {broker}; create it with `eddy topics create`")
    check_same_partitions(counts, topics)
    partitions = [Partition(topics.clicks, number) for number in range(counts[topics.clicks])]
    changelog = Changelog(broker, group, topics.changelog, config)
    copies = name if (name := by_user(topics.clicks)) in counts else ""
    return Cluster(broker, config, admin, topics, changelog, partitions, _topic_id(admin, topics.clicks), copies)


def _topic_id(admin: Admin, topic: str) -> str:
    try:
        found = admin.describe_topics(TopicCollection([topic]), request_timeout=ANSWER_S)[topic].result(ANSWER_S)
    except (KafkaException, TimeoutError):  # perhaps a broker that knows no ids
        return ""
    return str(found.topic_id)
