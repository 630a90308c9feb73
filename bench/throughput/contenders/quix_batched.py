"""Quix Streams in batches, with the Consumer and Producer of its Application. The states are arrays in memory.

A StreamingDataFrame processes one message at a time. To process messages in batches, Quix's documentation names these
two classes ("Using Producer & Consumer").

    python quix_batched.py BROKER CLICKS_TOPIC RESULTS_TOPIC MODEL
"""

import sys

from quixstreams import Application

from bench.throughput.contenders.model import BATCH, Users, decode, encode, open_graphs


def main(broker: str, clicks_topic: str, results_topic: str, model: str) -> None:
    users = Users(open_graphs(model))
    app = Application(broker_address=broker, consumer_group=results_topic, auto_offset_reset="earliest")
    with app.get_consumer() as consumer, app.get_producer() as producer:
        consumer.subscribe([clicks_topic])
        while True:
            messages = [message for message in consumer.consume(BATCH, 0.05) if message.error() is None]
            if messages:
                for result in users.process([decode(message.value()) for message in messages]):
                    producer.produce(topic=results_topic, key=result.user_id.encode(), value=encode(result))
                for message in {message.partition(): message for message in messages}.values():
                    consumer.store_offsets(message=message)


if __name__ == "__main__":
    main(*sys.argv[1:])
