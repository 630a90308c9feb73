"""Notices when the topics of a running worker change: deleted, created again, or with more partitions."""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, TopicCollection

from stream.access.refusal import Admin
from stream.errors import ConfigError
from stream.kafka_config import KafkaConfig
from stream.settings import Topics

EVERY_S, DESCRIBE_S = 5.0, 4.0
"""How often TopicWatch asks, and how long it waits for the answer."""

ADDED_CHECKS = 3
"""The check at which added partitions end the worker."""

log = logging.getLogger(__name__)


class PartitionsAdded(ConfigError):
    """Partitions were added to a topic of a running worker."""


class Seen(NamedTuple):
    """What a broker says of a topic."""

    id: str
    partitions: int


class TopicWatch:
    """Compares the topics with what they were when it was made. A broker that does not answer says nothing.

    Without it Kafka's clients go on for minutes: a consumer keeps its partitions until it refreshes its metadata, a
    deleted topic is waited for, and one that was created again is read at the old offset. Only the topic's id shows the
    last one (KIP-516).
    """

    def __init__(self, broker: str, topics: Topics, config: KafkaConfig, source: str = "") -> None:
        """source: the topic of the producers, if the clicks are its re-keyed copy"""
        self._admin = Admin(broker, config)
        self._topics = topics
        self._source = source
        self._missing: set[str] = set()
        self._added = 0
        self._were = self._describe()[0]

    def check(self) -> None:
        """Raises ConfigError if a topic is not what it was. Blocks for up to DESCRIBE_S; call it every EVERY_S.

        A topic must be missing twice: a new leader may not know it yet. Added partitions are a warning at first: most
        clicks still come where they came before, and the worker decides them until the check number ADDED_CHECKS.
        """
        now, missing = self._describe()
        for name in missing & self._missing:
            if name == self._source:
                raise ConfigError(
                    f"topic {name} was deleted while this worker re-keyed it; create it again{self._reset()}"
                )
            states = name in (self._topics.clicks, self._topics.changelog)
            then = "run `eddy topics repair` to continue with the users' states" if states else "start the worker again"
            raise ConfigError(
                f"topic {name} was deleted while this worker ran; create it with `eddy topics create`, then {then}"
            )
        self._missing = missing
        self._were = now | self._were  # a broker that did not answer at the start has described nothing
        if self._source in now and now[self._source].id != self._were[self._source].id:
            raise ConfigError(
                f"topic {self._source} was deleted and created again while this worker re-keyed it{self._reset()}"
            )
        try:
            compare(self._were, now, self._topics)
        except PartitionsAdded as exc:
            self._added += 1
            if self._added >= ADDED_CHECKS:
                raise
            if self._added == 1:
                log.warning("this worker ends in %.0f s: %s", (ADDED_CHECKS - 1) * EVERY_S, exc)

    def _reset(self) -> str:
        """What to do before the new topic of the producers can be read from its begin."""
        group = self._topics.clicks
        return (
            f"; stop the workers and delete group {group} with kafka-consumer-groups.sh --delete --group {group}, and "
            "the new topic is re-keyed from its begin"
        )

    def _describe(self) -> tuple[dict[str, Seen], set[str]]:
        """The topics that the broker describes, and the names of those that it does not know."""
        names = [*self._topics.names(), *([self._source] if self._source else [])]
        found: dict[str, Seen] = {}
        missing: set[str] = set()
        futures: Mapping[str, Any] = self._admin.describe_topics(TopicCollection(names), request_timeout=DESCRIBE_S)
        for name, future in futures.items():
            try:
                topic = future.result(timeout=DESCRIBE_S)
                found[name] = Seen(str(topic.topic_id), len(topic.partitions))
            except KafkaException as exc:
                if exc.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    missing.add(name)
            except TimeoutError:
                continue
        return found, missing


def compare(were: Mapping[str, Seen], now: Mapping[str, Seen], topics: Topics) -> None:
    """Raises ConfigError if clicks or changelog have more partitions than they had, or were created again."""
    for name in (topics.clicks, topics.changelog):
        before, after = were.get(name), now.get(name)
        if before is None or after is None or before == after:
            continue
        if before.id != after.id:
            how = " --accept-lost-rows` if no copy of it can be restored" if name == topics.changelog else "`"
            raise ConfigError(
                f"topic {name} was deleted and created again while this worker ran: offsets and states do not fit it; "
                f"stop the workers and run `eddy topics repair{how}"
            )
        raise PartitionsAdded(
            f"topic {name} has {after.partitions} partitions now, and {before.partitions} when this worker started: "
            "users' clicks go to other partitions than their states; stop the workers and run `eddy topics repair`, "
            "which moves the states"
        )
