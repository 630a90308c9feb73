"""Quix Streams, one click at a time: a StreamingDataFrame with a stateful function.

The states are where Quix keeps them: in RocksDB, with a changelog topic.

    python quix_events.py BROKER CLICKS_TOPIC RESULTS_TOPIC MODEL
"""

import pickle
import sys
from typing import Any

import msgspec
from quixstreams import Application
from quixstreams import State as KeyState

from bench.throughput.contenders.model import Click, State, open_graphs


def main(broker: str, clicks_topic: str, results_topic: str, model: str) -> None:
    graphs = open_graphs(model)
    app = Application(broker_address=broker, consumer_group=results_topic, auto_offset_reset="earliest")

    def recommend(value: dict[str, Any], state: KeyState) -> dict[str, Any]:
        kept = state.get_bytes("state")
        before = None if kept is None else State(*pickle.loads(kept))
        after, result = graphs.one(msgspec.convert(value, Click), before)
        state.set_bytes("state", pickle.dumps(tuple(after)))
        return msgspec.structs.asdict(result)

    clicks = app.topic(clicks_topic, value_deserializer="json")
    results = app.topic(results_topic, value_serializer="json")
    app.dataframe(clicks).apply(recommend, stateful=True).to_topic(results)
    app.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
