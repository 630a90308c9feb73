"""Cycles that have recovered from given offsets and rows, without Kafka."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec

from stream.events import Partition
from stream.kafka.changelog import Mark, Position
from stream.kafka.consumer.fetch import Chunk, Fetch
from stream.kafka.leaders import Targets
from stream.model.runtime import load_model
from stream.settings import Topics
from stream.wire.json import JsonCodec
from stream.worker.cycles.cycle import Cycles
from stream.worker.cycles.size import CycleSize
from stream.worker.served import open_engine

CLICKS_0 = Partition("clicks", 0)


class Delivery:
    """A producer that starts."""

    targets = Targets()
    seconds: ClassVar[dict[str, float]] = {}

    async def start(self) -> None:
        return None


class Changelog:
    """The answers for a partition: (committed offset, offset of the rows); the last answer is repeated."""

    group, topic = "shop", "changelog"

    def __init__(self, *answers: tuple[Position, int | None]) -> None:
        self._answers = list(answers)

    def positions(self, partitions: Sequence[Partition]) -> dict[Partition, Position]:
        return dict.fromkeys(partitions, self._answers[0][0])

    def read(self, partitions: Sequence[Partition], take: Any) -> dict[Partition, Mark]:
        stands = self._answers[0][1]
        if len(self._answers) > 1:
            self._answers.pop(0)
        return {} if stands is None else {partition: Mark(stands, 0, 0) for partition in partitions}


async def decided(cycles: Cycles, *chunks: Chunk) -> None:
    """Let the cycles decide one fetch, and wait until it is acked."""
    acked: list[bool] = []
    fetch = Fetch(chunks, sum(len(chunk.records) for chunk in chunks), 0)
    events, left = [SimpleNamespace(value=fetch, ack=lambda: acked.append(True))], chunks
    while left := tuple(await cycles._decide(left, events)):
        await cycles._written()
    await cycles._written()
    assert acked == [True]


def recovered(model_dir: Path, *answers: tuple[Position, int | None]) -> Cycles:
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 20, 1, 0.001)
    stubs: Any = (Delivery(), Changelog(*answers))
    cycles = Cycles(
        engine,
        JsonCodec(65_536, 1),
        *stubs,
        Topics(),
        dict.fromkeys(msgspec.structs.astuple(Topics()), 1_000_000),
        CycleSize(1_000, 10.0),
    )

    async def recover() -> None:
        await cycles.read(await cycles.recover([CLICKS_0], 1, b"member"), [CLICKS_0])

    asyncio.run(recover())
    return cycles
