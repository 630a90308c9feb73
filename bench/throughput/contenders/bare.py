"""The limit: bare confluent-kafka and ONNX Runtime in batches. No durable state, no transactions, nothing else.

python bare.py BROKER CLICKS_TOPIC RESULTS_TOPIC MODEL
"""

import sys

from confluent_kafka import Consumer, Producer

from bench.throughput.contenders.model import BATCH, Users, decode, encode, open_graphs


def main(broker: str, clicks_topic: str, results_topic: str, model: str) -> None:
    users = Users(open_graphs(model))
    consumer = Consumer({"bootstrap.servers": broker, "group.id": results_topic, "auto.offset.reset": "earliest"})
    producer = Producer({"bootstrap.servers": broker, "queue.buffering.max.messages": 10 * BATCH})
    consumer.subscribe([clicks_topic])
    while True:
        messages = consumer.consume(BATCH, timeout=0.05)
        clicks = [decode(message.value()) for message in messages if message.error() is None]
        if clicks:
            for result in users.process(clicks):
                producer.produce(results_topic, encode(result), result.user_id.encode())
        producer.poll(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
