"""Reads the messages of a topic, for the commands beside a worker: dead-letters, explain, feedback."""

import math
from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from stream.access.credentials import connect
from stream.access.publish import CONNECT_S, partitions_of
from stream.access.refusal import refused
from stream.errors import ConfigError
from stream.kafka_config import PLAINTEXT, KafkaConfig

SILENT_S = 30.0
"""A topic from which nothing comes for so long, and whose end is not reached, cannot be read."""


def read_messages(
    broker: str, topic: str, config: KafkaConfig = PLAINTEXT, since_ms: int = 0, last: int | None = None
) -> Iterator[Message]:
    """The committed messages of a topic, from a Kafka timestamp on to the end at the call; in order in each partition.

    It joins no group and commits nothing, and needs no right but READ on the topic.

    last  begin so many offsets before the end of all partitions together, instead of at a timestamp
    Raises ConfigError if the broker cannot be reached, refuses this client, has no such topic or stops to answer.
    """
    numbers = partitions_of(broker, topic, config)
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
                elif message.error().code() != KafkaError.GROUP_AUTHORIZATION_FAILED:  # librdkafka asks for the group
                    raise KafkaException(message.error())
    except KafkaException as exc:
        raise refused(exc, f"READ on topic {topic}") or ConfigError(
            f"topic {topic} on {broker} cannot be read ({exc.args[0].str()})"
        ) from exc
    finally:
        consumer.close()


def _before_the_end(consumer: Consumer, topic: str, numbers: list[int], last: int) -> list[TopicPartition]:
    """Where to begin so that about `last` messages are left, as many of each partition as it has of all messages."""
    ends = {n: consumer.get_watermark_offsets(TopicPartition(topic, n), timeout=CONNECT_S) for n in numbers}
    whole = sum(high - low for low, high in ends.values())
    share = min(1.0, last / max(whole, 1))
    return [TopicPartition(topic, n, high - math.ceil((high - low) * share)) for n, (low, high) in ends.items()]
