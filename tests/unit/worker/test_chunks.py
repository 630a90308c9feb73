"""Which chunks are decided under an assignment: its own, each where the last one ended."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stream.events import Partition
from stream.kafka.changelog import POSITION_KEY, Position
from stream.kafka.consumer.fetch import Chunk
from stream.kafka.delivery import Outcome, Record
from stream.worker.cycles import writing
from tests.unit.worker.recovered import CLICKS_0, decided, recovered


@pytest.mark.parametrize("begin", [0, 10, 12])
def test_a_chunk_that_does_not_begin_at_the_end_of_the_last_one_is_refused(model_dir: Path, begin: int) -> None:
    """If clicks were skipped or repeated before the engine, the worker ends and no state is wrong."""
    cycles = recovered(model_dir, (Position(11, 11), 11))
    record = SimpleNamespace(offset=max(begin, 11), key=None, value=None, timestamp=0)
    with pytest.raises(RuntimeError, match="left out or repeated"):
        asyncio.run(decided(cycles, Chunk(CLICKS_0, 1, begin, 13, 0, [record], 0)))


def test_a_chunk_of_an_older_generation_is_dropped(model_dir: Path) -> None:
    """It was fetched before a rebalance and begins where that assignment was: nothing is decided, nobody ends."""
    cycles = recovered(model_dir, (Position(11, 11), 11))
    record = SimpleNamespace(offset=4, key=None, value=None, timestamp=0)
    asyncio.run(decided(cycles, Chunk(CLICKS_0, 0, 4, 5, 0, [record], 0)))
    assert cycles.positions() == {CLICKS_0: 11}


def test_a_chunk_of_a_partition_that_is_not_recovered_is_dropped(model_dir: Path) -> None:
    """Its rows are not there yet. It is fetched again from where the recovery ends."""
    cycles = recovered(model_dir, (Position(11, 11), 11))
    record = SimpleNamespace(offset=4, key=None, value=None, timestamp=0)
    asyncio.run(decided(cycles, Chunk(Partition(CLICKS_0.topic, 1), 1, 4, 5, 0, [record], 0)))
    assert cycles.positions() == {CLICKS_0: 11}


def test_a_batch_that_is_processed_when_the_partitions_are_revoked_is_dropped(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole group waits for the running cycle: it begins no transaction any more."""
    cycles = recovered(model_dir, (Position(11, 11), 11))
    encode_all = writing.encode_all

    def encode_during_revoke(*arguments: Any) -> object:
        cycles.release()
        return encode_all(*arguments)

    monkeypatch.setattr(writing, "encode_all", encode_during_revoke)
    began: list[object] = []

    async def commit(*arguments: object) -> Outcome:
        began.append(arguments)
        return Outcome.COMMITTED

    monkeypatch.setattr(cycles._writer._delivery, "commit", commit, raising=False)
    asyncio.run(decided(cycles, Chunk(CLICKS_0, 1, 11, 12, 0, [], 0)))
    assert began == []


def test_offsets_without_clicks_are_skipped(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A range of markers, rolled-back or lost clicks moves the offset without a decision."""
    cycles = recovered(model_dir, (Position(11, 11), 11))
    written: list[tuple[list[Record], object]] = []

    async def commit(records: list[Record], offsets: object, *others: object) -> Outcome:
        written.append((records, offsets))
        return Outcome.COMMITTED

    monkeypatch.setattr(cycles._writer._delivery, "commit", commit, raising=False)
    asyncio.run(decided(cycles, Chunk(CLICKS_0, 1, 11, 15, 0, [], 0), Chunk(CLICKS_0, 1, 15, 40, 25, [], 0)))
    [(records, offsets)] = written
    assert offsets == {CLICKS_0: 40}
    assert [(record.key, record.value, record.partition) for record in records] == [
        (POSITION_KEY, b"40 0 0000000000000000 0", 0)
    ]
