"""What a topic holds and how far a group has come, by consumers of their own that know nothing of Eddy's.

Everything is read with read_committed: what a rolled-back transaction left behind does not count.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

READ_S = 120.0


def _consumer(broker: str, group: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": group,  # to ask for its offsets; nothing here joins
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
    )


def read_topic(broker: str, topic: str) -> list[Message]:
    """Every message of a topic up to its end, each partition's in offset order. Raises TimeoutError."""
    consumer = _consumer(broker, "readers")
    try:
        count = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(count)])
        found: list[Message] = []
        ended: set[int] = set()
        deadline = time.monotonic() + READ_S
        while len(ended) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic} has no end")
            for message in consumer.consume(10_000, 0.1):
                if message.error() is None:
                    found.append(message)
                else:
                    ended.add(message.partition())
        return found
    finally:
        consumer.close()


@contextmanager
def progress(broker: str, group: str, topic: str) -> Iterator[Callable[[], tuple[int, int]]]:
    """A function that gives (messages the group has committed, messages the topic has)."""
    consumer = _consumer(broker, group)
    count = len(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
    partitions = [TopicPartition(topic, partition) for partition in range(count)]

    def look() -> tuple[int, int]:
        deadline = time.monotonic() + READ_S
        while True:
            try:
                committed = sum(max(0, found.offset) for found in consumer.committed(partitions, timeout=10))
                return committed, sum(consumer.get_watermark_offsets(p, timeout=10)[1] for p in partitions)
            except KafkaException:  # a broker that starts has no coordinator yet, one that is down does not answer
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    try:
        yield look
    finally:
        consumer.close()
