"""Publishes messages to a topic and reads topics, for the commands beside a worker: replay, forget, dead-letters.

The partitioner is that of the Java client (murmur2), so all messages of a user are in the same partition as those that
a Java producer writes. The producer is idempotent: a retry neither repeats nor reorders messages.
"""

import math
from collections.abc import Iterator, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from stream.access.credentials import connect
from stream.access.refusal import Admin, refused
from stream.errors import ConfigError
from stream.kafka_config import PLAINTEXT, KafkaConfig

CONNECT_S = 10.0
FLUSH_S = 60.0
SILENT_S = 30.0
"""A topic from which nothing comes for so long, and whose end is not reached, cannot be read."""

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
        self.partitions = len(_partitions(broker, topic, config))
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
        raise refused(KafkaException(self._failure)) or ConfigError(
            f"topic {self._topic} on {self._broker} did not accept a message ({self._failure.str()})"
        )


def read_messages(
    broker: str, topic: str, config: KafkaConfig = PLAINTEXT, since_ms: int = 0, last: int | None = None
) -> Iterator[Message]:
    """The committed messages of a topic, from a Kafka timestamp on to the end at the call; in order in each partition.

    It joins no group and commits nothing.

    last  begin so many offsets before the end of all partitions together, instead of at a timestamp
    Raises ConfigError if the broker cannot be reached, refuses this client, has no such topic or stops to answer.
    """
    numbers = _partitions(broker, topic, config)
    own = {
        "group.id": "eddy-reader",  # librdkafka demands one
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",  # retention may delete the first messages meanwhile
        "log_level": 0,
    }
    consumer = connect(Consumer, broker, config, own)
    try:
        if last is None:
            asked = [TopicPartition(topic, number, since_ms) for number in numbers]
            consumer.assign(consumer.offsets_for_times(asked, timeout=CONNECT_S))
        else:
            consumer.assign(_before_the_end(consumer, topic, numbers, last))
        left, silent_s = set(numbers), 0.0
        while left:
            messages = consumer.consume(1_000, 0.5)
            silent_s = 0.0 if messages else silent_s + 0.5
            if silent_s > SILENT_S:
                raise ConfigError(f"topic {topic} on {broker} could not be read to its end; is the broker still up?")
            for message in messages:
                if message.error() is None:
                    yield message
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise KafkaException(message.error())
    except KafkaException as exc:
        raise refused(exc) or ConfigError(f"topic {topic} on {broker} cannot be read ({exc.args[0].str()})") from exc
    finally:
        consumer.close()


def _before_the_end(consumer: Consumer, topic: str, numbers: list[int], last: int) -> list[TopicPartition]:
    """Where to begin so that about `last` messages are left, as many of each partition as it has of all messages."""
    ends = {n: consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=CONNECT_S) for n in numbers}
    whole = sum(high - low for low, high in ends.values())
    share = min(1.0, last / max(whole, 1))
    return [TopicPartition(topic, n, high - math.ceil((high - low) * share)) for n, (low, high) in ends.items()]


def _partitions(broker: str, topic: str, config: KafkaConfig) -> list[int]:
    """The numbers of a topic's partitions. Raises ConfigError if the broker or the topic cannot be reached."""
    admin = Admin(broker, config)
    try:
        topics = admin.list_topics(timeout=CONNECT_S).topics
    except KafkaException as exc:
        raise admin.refusal() or ConfigError(
            f"broker {broker} cannot be reached ({exc.args[0].str()}); is it up? See --broker"
        ) from exc
    if topic not in topics:
        raise ConfigError(
            f"broker {broker} has no topic {topic!r} that this user may see; make it with `eddy topics create`, or "
            "name another one"
        )
    return sorted(topics[topic].partitions)
