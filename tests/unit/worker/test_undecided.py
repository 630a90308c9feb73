"""A producer that hangs or breaks: whether its transaction was committed, its successor learns from Kafka's offsets."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.events import Partition
from stream.kafka.changelog import Position
from stream.kafka.consumer.fetch import Chunk
from stream.kafka.delivery import Outcome, Undecided
from stream.kafka.waiting import NoWatch
from stream.model.runtime import load_model
from stream.settings import Topics
from stream.wire.json import JsonCodec
from stream.worker.cycles.cycle import Cycles
from stream.worker.cycles.recovery import Assignment, Recovery
from stream.worker.cycles.size import CycleSize
from stream.worker.served import open_engine
from tests.unit.worker.recovered import CLICKS_0, Changelog, Delivery, decided


@pytest.mark.parametrize(
    ("position", "expected"), [(9, Outcome.COMMITTED), (5, Outcome.ROLLED_BACK), (7, Outcome.STALE)]
)
def test_the_groups_offset_says_how_an_undecided_transaction_ended(
    model_dir: Path, position: int, expected: Outcome
) -> None:
    """A transaction from 5 to 9: at 9 it was committed, at 5 rolled back, and elsewhere another worker is at work."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 20, 1, 0.001)
    stubs: Any = (Delivery(), Changelog((Position(position, position), None)))
    recovery = Recovery(*stubs, engine.arena, ThreadPoolExecutor(1), NoWatch())
    assignment = Assignment(1, b"", {CLICKS_0: 5, Partition("clicks", 1): 3})
    assert asyncio.run(recovery.outcome(assignment, {CLICKS_0: 9}, {CLICKS_0: 1})) is expected


@pytest.mark.parametrize(("position", "sent"), [(9, 1), (5, 2)])
def test_a_batch_is_sent_again_only_if_it_was_not_committed(model_dir: Path, position: int, sent: int) -> None:
    """After a producer that broke, a committed batch is not repeated and a rolled-back one is not lost."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 20, 1, 0.001)

    class Breaking(Delivery):
        commits = restarts = 0

        async def commit(self, records: Any, offsets: Any, member: bytes, metadata: str = "") -> Outcome:
            self.commits += 1
            if self.restarts:
                return Outcome.COMMITTED
            raise Undecided("hangs")

        async def restart(self) -> None:
            self.restarts += 1

    delivery, changelog = Breaking(), Changelog((Position(5, 5), 5))
    stubs: Any = (delivery, changelog)
    limits = dict.fromkeys(msgspec.structs.astuple(Topics()), 1_000_000)
    cycles = Cycles(engine, JsonCodec(65_536, 1), *stubs, Topics(), limits, CycleSize(1_000, 10.0))

    async def decide() -> None:
        await cycles.read(await cycles.recover([CLICKS_0], 1, b"member"), [CLICKS_0])
        changelog._answers[0] = (Position(position, position), None)
        await decided(cycles, Chunk(CLICKS_0, 1, 5, 9, 0, (), 0))

    asyncio.run(decide())
    assert (delivery.commits, delivery.restarts) == (sent, 1)
    assert cycles.positions() == {CLICKS_0: 9}
