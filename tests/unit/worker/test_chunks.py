"""Which chunks are decided under an assignment: its own, each where the last one ended."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stream.kafka.changelog import POSITION_KEY, Position
from stream.kafka.delivery import Outcome
from stream.kafka.fetch import Chunk
from tests.unit.worker.recovered import CLICKS_0, recovered


@pytest.mark.parametrize("begin", [0, 10, 12])
def test_a_chunk_that_does_not_begin_at_the_end_of_the_last_one_is_refused(model_dir: Path, begin: int) -> None:
    """If clicks were skipped or repeated before the engine, the worker ends and no state is wrong."""
    cycles = recovered(model_dir, (Position(11, 11), 11))
    record = SimpleNamespace(offset=max(begin, 11), key=None, value=None, timestamp=0)
    with pytest.raises(RuntimeError, match="left out or repeated"):
        cycles._process([Chunk(CLICKS_0, 1, begin, 13, 0, [record], 0)], cycles.positions())


def test_a_chunk_of_an_older_generation_is_dropped(model_dir: Path) -> None:
    """It was fetched before a rebalance and begins where that assignment was: nothing is decided, nobody ends."""
    cycles = recovered(model_dir, (Position(11, 11), 11))
    record = SimpleNamespace(offset=4, key=None, value=None, timestamp=0)
    asyncio.run(cycles._decide([Chunk(CLICKS_0, 0, 4, 5, 0, [record], 0)]))
    assert cycles.positions() == {CLICKS_0: 11}


def test_a_batch_that_is_processed_when_the_partitions_are_revoked_is_dropped(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole group waits for the running cycle: it begins no transaction any more."""
    cycles = recovered(model_dir, (Position(11, 11), 11))
    process = cycles._process

    def process_during_revoke(*arguments: Any) -> object:
        batch = process(*arguments)
        cycles.release()
        return batch

    monkeypatch.setattr(cycles, "_process", process_during_revoke)
    began: list[object] = []

    async def commit(*arguments: object) -> Outcome:
        began.append(arguments)
        return Outcome.COMMITTED

    monkeypatch.setattr(cycles._delivery, "commit", commit, raising=False)
    asyncio.run(cycles._decide([Chunk(CLICKS_0, 1, 11, 12, 0, [], 0)]))
    assert began == []


def test_offsets_without_clicks_are_skipped(model_dir: Path) -> None:
    """A range of markers, rolled-back or lost clicks moves the offset without a decision."""
    cycles = recovered(model_dir, (Position(11, 11), 11))
    chunks = [Chunk(CLICKS_0, 1, 11, 15, 0, [], 0), Chunk(CLICKS_0, 1, 15, 40, 25, [], 0)]
    batch = cycles._process(chunks, cycles.positions())
    assert batch.offsets == {CLICKS_0: 40}
    assert [(record.key, record.value, record.partition) for record in batch.records] == [
        (POSITION_KEY, b"40 0 0000000000000000 0", 0)
    ]
