"""Reads the messages of a topic, for the commands beside a worker: dead-letters, explain, feedback, record."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from stream.access.credentials import connect
from stream.access.publish import CONNECT_S, partitions_of
from stream.access.refusal import refused
from stream.errors import ConfigError
from stream.kafka_config import PLAINTEXT, KafkaConfig

SILENT_S = 30.0
"""A topic from which nothing comes for so long, and whose end is not reached, cannot be read."""


Span = Mapping[int, range]
"""Partition -> the offsets that are read, also those that no message has or that are of aborted transactions."""


def read_messages(
    broker: str,
    topic: str,
    config: KafkaConfig = PLAINTEXT,
    since_ms: int = 0,
    last: int | None = None,
    span: Span | None = None,
) -> Iterator[Message]:
    """The committed messages of a topic, from a Kafka timestamp on to the end; in order in each partition.

    It joins no group and commits nothing, and needs no right but READ on the topic. While others write, the end is
    where the reader has caught up with them; with `span` it is fixed.

    last  begin so many offsets before the end of all partitions together, instead of at a timestamp
    span  read these offsets instead, as `span_of` has found them
    Raises ConfigError if the broker cannot be reached, refuses this client, has no such topic or stops to answer.
    """
    numbers = partitions_of(broker, topic, config)
    with _consumer(broker, topic, config) as consumer:
        if span is not None:
            numbers = [number for number, offsets in span.items() if offsets]
            consumer.assign([TopicPartition(topic, number, span[number].start) for number in numbers])
        elif last is None:
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
                number = message.partition()
                if message.error() is None:
                    if span is None or message.offset() < span[number].stop:
                        yield message
                    if span is not None and message.offset() + 1 >= span[number].stop and number in left:
                        left.discard(number)
                        consumer.pause([TopicPartition(topic, number)])  # others may write faster than this reads
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    left.discard(number)
                elif message.error().code() != KafkaError.GROUP_AUTHORIZATION_FAILED:  # librdkafka asks for the group
                    raise KafkaException(message.error())


def span_of(broker: str, topic: str, config: KafkaConfig = PLAINTEXT, since_ms: int = 0) -> dict[int, range]:
    """The offsets of each partition of a topic from a Kafka timestamp on to the end at the call; 0 = all of them.

    Raises ConfigError as `read_messages`.
    """
    numbers = partitions_of(broker, topic, config)
    with _consumer(broker, topic, config) as consumer:
        whole = {n: range(*consumer.get_watermark_offsets(TopicPartition(topic, n), CONNECT_S)) for n in numbers}
        if not since_ms:
            return whole
        asked = [TopicPartition(topic, number, since_ms) for number in numbers]
        begins = {one.partition: one.offset for one in consumer.offsets_for_times(asked, timeout=CONNECT_S)}
    # A partition without a message of this time or later begins at its end, which has a negative number
    return {n: range(begins[n] if begins[n] >= 0 else all_.stop, all_.stop) for n, all_ in whole.items()}


@contextmanager
def _consumer(broker: str, topic: str, config: KafkaConfig) -> Iterator[Consumer]:
    """A consumer without a group, closed at the end. What Kafka refuses it becomes a ConfigError."""
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
        yield consumer
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
