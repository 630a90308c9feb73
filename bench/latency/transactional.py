"""Bare confluent-kafka with transactions and ONNX Runtime in batches: results and offsets are committed together.

It has no durable state: after a crash, offsets and results are right, but the users' states are gone.

    python transactional.py BROKER CLICKS_TOPIC RESULTS_TOPIC MODEL
"""

import sys

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.throughput.contenders.model import BATCH, Users, decode, encode, open_graphs


def main(broker: str, clicks_topic: str, results_topic: str, model: str) -> None:
    users = Users(open_graphs(model))
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": results_topic,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": broker,
            "transactional.id": results_topic,
            "queue.buffering.max.messages": 10 * BATCH,
            "linger.ms": 0,  # a commit sends what is left at once; the default of 5 ms only adds to the latency
        }
    )
    producer.init_transactions()
    consumer.subscribe([clicks_topic])
    while True:
        first = consumer.poll(1.0)
        if first is None or first.error() is not None:
            continue
        messages = [first, *(message for message in consumer.consume(BATCH - 1, 0) if message.error() is None)]
        producer.begin_transaction()
        for result in users.process([decode(message.value()) for message in messages]):
            producer.produce(results_topic, encode(result), result.user_id.encode())
        ends = {message.partition(): message.offset() + 1 for message in messages}
        offsets = [TopicPartition(clicks_topic, partition, end) for partition, end in ends.items()]
        producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata())
        producer.commit_transaction()


if __name__ == "__main__":
    main(*sys.argv[1:])
