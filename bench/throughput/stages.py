"""CPU time of each stage of a click in Eddy's engine thread, in large batches without Kafka."""

import gc
import logging
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from bench.throughput.clicks import Message, made_up
from bench.throughput.contenders.model import BATCH, K
from stream.events import Partition
from stream.kafka.consumer.fetch import Chunk
from stream.model.runtime import Model, load_model
from stream.settings import Topics
from stream.wire.json import JsonCodec
from stream.worker.cycles import batch
from stream.worker.served import open_engine

CLICKS, PASSES = 4 * BATCH, 3
STAGES = (
    "decode",
    "columns",
    "step",
    "score",
    "rows and p-values",
    "decision objects",
    "encode and records",
    "rows in place",
)
REST = "Kafka clients, event loop, commit"
"""What the worker's process uses beside its engine thread."""


class Stopwatch:
    """CPU seconds within functions. `spent`: name -> seconds; `began`, `ended`: of the latest call, process time."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self.began: dict[str, float] = {}
        self.ended: dict[str, float] = {}

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            self.began[name] = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.ended[name] = time.process_time()
                self.spent[name] += self.ended[name] - self.began[name]

        return timed


def stages(directory: Path) -> dict[str, float]:
    """Stage -> CPU microseconds per click, medians of PASSES. They are measured in a process of its own."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as processes:
        passes = processes.submit(measure, directory).result()
    return {name: round(statistics.median(one[name] for one in passes), 1) for name in STAGES}


def measure(directory: Path) -> list[dict[str, float]]:
    """Process the same clicks several times with new engines. The first pass warms up and is left out."""
    logging.disable(logging.WARNING)
    clicks = made_up(CLICKS)
    return [one_pass(load_model(directory, "cpu"), directory, clicks) for _ in range(PASSES + 1)][1:]


def one_pass(model: Model, directory: Path, clicks: list[Message]) -> dict[str, float]:
    """Stage -> CPU microseconds per click."""
    engine, codec, topics = open_engine(model, directory, K, 0, 0.001), JsonCodec(65_536, 3_600_000), Topics()
    limits = dict.fromkeys(msgspec.structs.astuple(topics), 1_000_000)
    partition, now_ms = Partition(topics.clicks, 0), clicks[-1].timestamp
    records = [
        SimpleNamespace(offset=offset, key=click.key, value=click.value, timestamp=click.timestamp, headers=())
        for offset, click in enumerate(clicks)
    ]
    gc.freeze()  # as the worker does
    watch = Stopwatch()
    for name in ("step", "surprise", "score"):  # a frozen dataclass
        object.__setattr__(model, name, watch.around(name, getattr(model, name)))
    columns = watch.around("columns", engine.encoder.columns)
    engine.encoder.columns, engine.process = columns, watch.around("engine", engine.process)  # type: ignore[method-assign]
    commit, objects = watch.around("rows in place", engine.commit), batch.recommendations
    batch.recommendations = watch.around("decision objects", objects)
    try:
        for start in range(0, len(records), BATCH):
            part = records[start : start + BATCH]
            chunk = Chunk(partition, 1, start, start + len(part), 0, part, 0)
            began = time.process_time()
            decided = batch.decide(engine, codec, topics, [chunk], {partition: start}, now_ms)
            done = batch.encode_all(engine, topics, limits, decided)
            watch.spent["decode"] += watch.began["columns"] - began
            watch.spent["encode and records"] += time.process_time() - watch.ended["engine"]
            commit(done.cycle)
    finally:
        batch.recommendations = objects
    spent = watch.spent
    spent["encode and records"] -= spent["decision objects"]
    spent["step"] += spent["surprise"]
    spent["rows and p-values"] = spent["engine"] - spent["step"] - spent["score"]
    return {name: spent[name] / len(clicks) * 1e6 for name in STAGES}


def with_rest(engine: dict[str, float], cpu_us: float) -> dict[str, float]:
    """Add the rest of the worker's CPU time of a click, as the rounds measured it."""
    return {**engine, REST: round(cpu_us - sum(engine.values()), 1)}


def table(found: dict[str, float]) -> str:
    """Stage and CPU time, for a person."""
    return "\n".join(["Eddy's CPU us per click", *(f"{name:36}{us:>8.1f}" for name, us in found.items())])
