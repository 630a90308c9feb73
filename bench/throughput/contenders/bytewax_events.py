"""Bytewax, one click at a time: `stateful_map` keeps the state of each user in memory.

python -m bytewax.run "bytewax_events.py:flow(BROKER, CLICKS_TOPIC, RESULTS_TOPIC, MODEL)"
"""

import bytewax.operators as op
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow

from bench.throughput.contenders.model import Click, Result, State, decode, encode, open_graphs


def flow(broker: str, clicks_topic: str, results_topic: str, model: str) -> Dataflow:
    graphs = open_graphs(model)

    def recommend(state: State | None, click: Click) -> tuple[State, Result]:
        return graphs.one(click, state)

    def message(one: tuple[str, Result]) -> KafkaSinkMessage:
        return KafkaSinkMessage(one[0].encode(), encode(one[1]))

    dataflow = Dataflow("recommend")
    source = kop.input("clicks", dataflow, brokers=[broker], topics=[clicks_topic])
    clicks = op.map("decode", source.oks, lambda message: decode(message.value))
    keyed = op.key_on("user", clicks, lambda click: click.user_id)
    results = op.stateful_map("recommend", keyed, recommend)
    kop.output("results", op.map("encode", results, message), brokers=[broker], topic=results_topic)
    return dataflow
