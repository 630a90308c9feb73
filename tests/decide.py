"""Passes clicks to an engine as the worker does: columns in, events out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from stream.carry.messages import Way
from stream.engine.engine import Cycle, Engine
from stream.engine.requests import Request
from stream.events import Anomaly, Click, Origin, Partition, Recommendation, SystemAlert
from stream.kafka.consumer.fetch import Chunk
from stream.model.runtime import Model, StateArray
from stream.sessions.ends import rest_ends
from stream.settings import Topics
from stream.wire.codec import Codec
from stream.worker.cycles.batch import Batch, decide, encode_all
from stream.worker.served import anomalies, recommendations, system_alerts

NOW_MS = 1_800_000_000_000


def at_rest(engine: Engine, partitions: Iterable[Partition]) -> Cycle:
    """No click comes to these partitions for half an hour: all their sessions end, if they are not too many."""
    return engine.rest({partition: rest_ends(engine.arena.newest_ms(partition)) for partition in partitions})


class Decided(NamedTuple):
    """A batch's cycle, and the events of its decisions."""

    cycle: Cycle
    recommendations: list[Recommendation]
    anomalies: list[Anomaly]
    system: list[SystemAlert]


class Sent(Protocol):
    """A click in a partition; without an event type, a request to forget the user."""

    @property
    def partition(self) -> int: ...
    @property
    def user(self) -> str: ...
    @property
    def event_type(self) -> str: ...
    @property
    def click(self) -> Click: ...


def batched(
    engine: Engine,
    codec: Codec,
    topics: Topics,
    limits: Mapping[str, int],
    chunks: Sequence[Chunk],
    expected: Mapping[Partition, int],
    now_ms: int,
    way: Way | None = None,
) -> Batch:
    """A batch with its records. The arguments are those of `decide` and `encode_all`."""
    return encode_all(engine, topics, limits, decide(engine, codec, topics, chunks, expected, now_ms, way))


def parted(sent: Sequence[tuple[int, Sent]]) -> tuple[list[Click], list[Origin], list[Request]]:
    """What `Encoder.columns` takes, of (offset, what was sent) each."""
    clicks: list[Click] = []
    origins: list[Origin] = []
    requests: list[Request] = []
    for offset, one in sent:
        if one.event_type:
            clicks.append(one.click)
            origins.append(Origin("clicks", one.partition, offset))
        else:
            requests.append(Request(len(clicks), (Partition("clicks", one.partition), one.user.encode())))
    return clicks, origins, requests


def origins(count: int, start: int = 0, partition: int = 0) -> list[Origin]:
    return [Origin("clicks", partition, start + i) for i in range(count)]


def process(engine: Engine, clicks: Sequence[Click], start: int = 0, partition: int = 0) -> Decided:
    """Decide on clicks at consecutive offsets from `start`, without a commit."""
    read = origins(len(clicks), start, partition)
    cycle = engine.process(engine.encoder.columns(clicks, read), NOW_MS)
    written = (make(engine, clicks, read, cycle) for make in (recommendations, anomalies, system_alerts))
    return Decided(cycle, *written)


def run(engine: Engine, clicks: Sequence[Click], start: int = 0, partition: int = 0) -> Decided:
    """Decide on clicks and commit their rows."""
    decided = process(engine, clicks, start, partition)
    engine.commit(decided.cycle)
    return decided


def view(model: Model, item: str, bucket: int, state: list[StateArray]) -> tuple[float, list[StateArray]]:
    """One view of one user without an engine: its surprise, and the state after it. `state` is the one before it."""
    index, gap = np.array([model.index[item]]), np.array([bucket])
    names = [tensor.name for tensor in model.manifest.state]
    surprise, _ = model.surprise(
        index, np.zeros(1, np.int64), gap, [state[names.index(name)] for name in model.surprise_inputs]
    )
    after = model.step(index[:, None], np.zeros((1, 1), np.int64), gap[:, None], state)
    return float(surprise[0]), [value[:, 0] for value in after]
