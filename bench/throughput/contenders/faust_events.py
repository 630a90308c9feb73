"""Stock Faust, one click at a time: an agent with a table. The table is in memory and has a changelog topic.

python faust_events.py BROKER CLICKS_TOPIC RESULTS_TOPIC MODEL
"""

import pickle
import sys
from typing import Any

import faust
import msgspec

from bench.throughput.contenders.model import Click, State, open_graphs

PARTITIONS = 8


def application(broker: str, clicks_topic: str, results_topic: str, model: str) -> faust.App:
    graphs = open_graphs(model)
    app = faust.App(
        results_topic,
        broker=f"kafka://{broker}",
        store="memory://",
        topic_partitions=PARTITIONS,
        web_enabled=False,
    )
    clicks = app.topic(clicks_topic, key_type=bytes, value_serializer="json")
    results = app.topic(results_topic, key_type=bytes, value_serializer="json")
    states = app.Table("states", key_type=str, value_type=bytes, partitions=PARTITIONS)

    @app.agent(clicks)
    async def recommend(stream: Any) -> None:
        async for value in stream:
            click = msgspec.convert(value, Click)
            kept = states.get(click.user_id)
            after, result = graphs.one(click, None if kept is None else State(*pickle.loads(kept)))
            states[click.user_id] = pickle.dumps(tuple(after))
            await results.send(key=click.user_id.encode(), value=msgspec.structs.asdict(result))

    return app


if __name__ == "__main__":
    faust.Worker(application(*sys.argv[1:]), loglevel="warn").execute_from_commandline()
