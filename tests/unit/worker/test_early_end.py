"""A batch that ends early, because a state that arrives must be the first of one: the rest is a batch of its own."""

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from stream.kafka.consumer.fetch import Chunk, Fetch
from stream.kafka.delivery import Outcome
from stream.model.runtime import load_model
from stream.wire.json import JsonCodec
from stream.wire.requests import CARRIED_HEADER, FORGET_HEADER
from stream.worker.cycles.batch import Batch
from stream.worker.cycles.cycle import Cycles
from stream.worker.cycles.size import CycleSize
from stream.worker.served import open_engine
from tests.unit.carry.test_carry import logged_in
from tests.unit.worker.recovered import CLICKS_0
from tests.unit.worker.test_overlap import NOW_MS, TOPICS, Kafka, Worker, committed

LOST = 7
"""So many clicks were deleted before the fetch."""


class Shop(Worker):
    """A worker whose shop has anonymous ids, and one fetch: user `u` clicks, is forgotten, and logs in again.

    ends  offsets where its chunks end; none = there is one
    """

    ends: Sequence[int] = ()

    def __init__(self, model_dir: Path, answer: Callable[[int], Awaitable[Outcome]]) -> None:
        self.kafka: Any = Kafka(answer)
        model = load_model(model_dir, "cpu")
        self.engine = open_engine(model, model_dir, 5, 1, 0.001)
        self.observed: list[Batch] = []
        limits = dict.fromkeys(msgspec.structs.astuple(TOPICS), 1_000_000)
        self.cycles = Cycles(
            self.engine,
            JsonCodec(65_536, 1),
            self.kafka,
            self.kafka,
            TOPICS,
            limits,
            CycleSize(100, 10.0),
            lambda: NOW_MS + 3_600_000,
            lambda _, batch: self.observed.append(batch),
            carries=True,
        )
        self.acked = []
        [message] = logged_in(model, model_dir)[1].logs[CLICKS_0]
        value = msgspec.json.encode({"user_id": "u", "item_id": "i1", "timestamp": NOW_MS})
        self.messages: list[tuple[bytes | None, Mapping[str, bytes]]] = [
            (value, {}),
            (None, {FORGET_HEADER: b""}),
            (None, {CARRIED_HEADER: dict(message.headers)[CARRIED_HEADER]}),
            (value, {}),
        ]

    async def decide(self) -> None:
        await self.take_over(1)
        records = [
            SimpleNamespace(offset=offset, key=b"u", value=value, timestamp=NOW_MS, headers=tuple(headers.items()))
            for offset, (value, headers) in enumerate(self.messages)
        ]
        chunks, begin = [], 0
        for end in self.ends or [len(records)]:
            chunks.append(Chunk(CLICKS_0, 1, begin, end, LOST * (begin == 0), records[begin:end], 100))
            begin = end
        fetch = Fetch(chunks, len(records), 100)
        self.cycles.offer(SimpleNamespace(value=fetch, ack=lambda: self.acked.append(len(self.kafka.tried))))
        await self.until(lambda: bool(self.acked))
        await self.close()


@pytest.mark.parametrize(
    ("ends", "parts"),
    [([], [[2], [2]]), ([3, 4], [[2], [1, 1]]), ([2, 4], [[2, 0], [2]]), ([1, 3, 4], [[1, 1], [1, 1]])],
)
def test_the_rest_of_a_fetch_is_decided_in_a_transaction_after_it(
    model_dir: Path, ends: list[int], parts: list[list[int]]
) -> None:
    """The fetch is done when both are written. The user has the state that came, and the clicks after it."""
    shop = Shop(model_dir, committed)
    shop.ends = ends
    asyncio.run(shop.decide())
    assert shop.acked == [2]
    assert shop.kafka.next == 4
    assert [[len(chunk.records) for chunk in batch.chunks] for batch in shop.observed] == parts
    assert [dict(batch.carried)["taken"] for batch in shop.observed] == [0, 1]
    assert [sum(chunk.lost for chunk in batch.chunks) for batch in shop.observed] == [LOST, 0]
    row = shop.engine.arena.gather(shop.engine.arena.find([(CLICKS_0, b"u")]).slots)
    assert row["clicks"].tolist() == [3]


@pytest.mark.parametrize("outcome", [Outcome.STALE, Outcome.ROLLED_BACK])
def test_the_rest_waits_for_what_became_of_the_first_part(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    """Refused: nothing is decided on top of it. Rolled back: it is tried again before the rest is."""

    async def once(number: int) -> Outcome:
        return outcome if number == 0 else Outcome.COMMITTED

    shop, early = Shop(model_dir, once), list[Any]()
    monkeypatch.setattr(shop.engine.committed, "put_early", early.append)
    asyncio.run(shop.decide())
    assert early == []
    refused = outcome is Outcome.STALE
    assert shop.acked == [1 if refused else 3]
    assert shop.kafka.next == (0 if refused else 4)
    assert len(shop.observed) == (0 if refused else 2)


def test_a_fetch_may_be_more_batches_than_python_can_nest(model_dir: Path) -> None:
    """Each state but the first comes for a user who has ended in the batch."""
    shop, times, limit = Shop(model_dir, committed), 200, sys.getrecursionlimit()
    [_, forget, state, _] = shop.messages
    shop.messages = [state, forget] * times
    sys.setrecursionlimit(len(inspect.stack(0)) + times)
    try:
        asyncio.run(shop.decide())
    finally:
        sys.setrecursionlimit(limit)
    assert shop.acked == [times]
    assert sum(batch.carried["taken"] for batch in shop.observed) == times
