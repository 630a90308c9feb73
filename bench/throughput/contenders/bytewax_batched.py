"""Bytewax in batches: `flat_map_batch` gets the messages of a poll at once. The states are arrays in memory.

Bytewax's documentation recommends the operator and the source's `batch_size` for throughput.

    python -m bytewax.run "bytewax_batched.py:flow(BROKER, CLICKS_TOPIC, RESULTS_TOPIC, MODEL)"
"""

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSinkMessage, KafkaSourceMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow

from bench.throughput.contenders.model import BATCH, Users, decode, encode, open_graphs


def flow(broker: str, clicks_topic: str, results_topic: str, model: str) -> Dataflow:
    users = Users(open_graphs(model))

    def recommend(messages: list[KafkaSourceMessage]) -> list[KafkaSinkMessage]:
        results = users.process([decode(message.value) for message in messages])
        return [KafkaSinkMessage(result.user_id.encode(), encode(result)) for result in results]

    dataflow = Dataflow("recommend")
    clicks = kop.input("clicks", dataflow, brokers=[broker], topics=[clicks_topic], batch_size=BATCH)
    results = op.flat_map_batch("recommend", clicks.oks, recommend)
    kop.output("results", results, brokers=[broker], topic=results_topic)
    return dataflow
