"""Publishes messages to a topic, and creates topics.

The partitioner is that of the Java client (murmur2), so all messages of a user are in the same partition as those that
a Java producer writes. The producer is idempotent: a retry neither repeats nor reorders messages.
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import NewTopic

from stream.access.credentials import connect
from stream.access.refusal import Admin, refused
from stream.errors import ConfigError
from stream.kafka_config import PLAINTEXT, KafkaConfig

CONNECT_S = 10.0
CREATE_S = 12.0
FLUSH_S = 60.0

Headers = Mapping[str, bytes]


class Publisher:
    """Sends messages to one topic; `close` returns when the broker has acknowledged all of them.

    partitions  number of partitions of the topic
    """

    def __init__(self, broker: str, topic: str, config: KafkaConfig = PLAINTEXT) -> None:
        """Raises ConfigError if the broker cannot be reached, refuses this client or has no such topic."""
        self._topic = topic
        self._broker = broker
        self._failure: KafkaError | None = None
        self.partitions = len(partitions_of(broker, topic, config))
        self._producer = connect(
            Producer,
            broker,
            config,
            {
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "compression.type": "lz4",
                "error_cb": lambda error: None,  # errors that matter also fail a delivery
                "log_level": 0,
            },
        )

    def send(
        self, key: bytes | None, value: bytes | None, partition: int | None = None, headers: Headers | None = None
    ) -> None:
        """Queue one message. If `partition` is None, the key determines it.

        Raises ConfigError if the broker rejected an earlier message.
        """
        number = -1 if partition is None else partition
        while True:
            try:
                self._producer.produce(
                    self._topic, value, key, number, on_delivery=self._delivered, headers=dict(headers or {})
                )
                break
            except BufferError:  # the queue is full: messages are made faster than the broker accepts them
                self._producer.poll(0.1)
        self._producer.poll(0)
        self._check()

    def close(self) -> None:
        """Wait for all acknowledgements. Raises ConfigError if the broker did not accept a message."""
        left = self._producer.flush(FLUSH_S)
        self._check()
        if left:
            raise ConfigError(
                f"broker {self._broker} did not accept {left:,} messages within {FLUSH_S:g} s; is it still up?"
            )

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    def _check(self) -> None:
        if self._failure is None:
            return
        raise refused(KafkaException(self._failure), f"WRITE on topic {self._topic}") or ConfigError(
            f"topic {self._topic} on {self._broker} did not accept a message ({self._failure.str()})"
        )


def partitions_of(broker: str, topic: str, config: KafkaConfig) -> list[int]:
    """The numbers of a topic's partitions. Raises ConfigError if the broker or the topic cannot be reached."""
    topics = cluster_of(Admin(broker, config)).topics
    if topic not in topics:
        raise no_topic(broker, topic, topics)
    return sorted(topics[topic].partitions)


def cluster_of(admin: Admin) -> Any:
    """What the cluster says of itself and of its topics. ConfigError: it refuses, or is silent for CONNECT_S."""
    try:
        return admin.described(CONNECT_S)
    except KafkaException as exc:
        raise admin.refusal() or ConfigError(
            f"broker {admin.broker} cannot be reached ({exc.args[0].str()}); is it up? See --broker"
        ) from exc


def no_topic(broker: str, topic: str, others: Iterable[str]) -> ConfigError:
    """The error for a topic that is not there. others: the topics that this user may see"""
    near = nearest(topic, others)
    return ConfigError(
        f"broker {broker} has no topic {topic!r} that this user may see; "
        + (f"did you mean {near!r}? Else " if near else "")
        + "name another one, create it with `eddy topics create` if a worker needs it, or give this user a right on it "
        "(docs/security.md)"
    )


def nearest(topic: str, others: Iterable[str]) -> str | None:
    """The topic whose name is so similar that it may be meant; none of Kafka's own."""
    near = get_close_matches(topic, [name for name in others if not name.startswith("__")], 1, 0.7)
    return near[0] if near else None


def create_topic(admin: Admin, topic: NewTopic) -> None:
    """Create a topic if it does not exist. Raises ConfigError."""
    try:
        admin.create_topics([topic])[topic.topic].result(timeout=CREATE_S)
    except KafkaException as exc:
        if exc.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise refused(exc, f"CREATE on topic {topic.topic}, or on the cluster") or ConfigError(
                f"topic {topic.topic} could not be created: {exc.args[0].str()}"
            ) from exc
