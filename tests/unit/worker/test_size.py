"""A worker's cycles take at most a part of its session timeout: the group waits for them at each rebalance."""

import asyncio
import logging
from collections import deque
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.events import Partition
from stream.kafka.consumer.fetch import Chunk, Fetch
from stream.kafka.delivery import Outcome
from stream.worker.cycles import size as sizes_of_cycles
from stream.worker.cycles import writing
from stream.worker.cycles.batch import Batch
from stream.worker.cycles.size import LEAST, CycleSize
from tests.unit.worker.recovered import CLICKS_0
from tests.unit.worker.test_overlap import CLICKS, FETCHED, Worker, decide_all, one_at_a_time

SESSION_S = 8.0


def chunk(records: int, number: int = 0, begin: int = 0, gap: int = 1, lost: int = 0) -> Chunk:
    """Records at each `gap`-th offset, the first one not at the begin if `gap` is more than 1."""
    offsets = range(begin + gap - 1, begin + gap * records, gap)
    found = [SimpleNamespace(offset=offset) for offset in offsets]
    return Chunk(Partition("clicks", number), 1, begin, begin + gap * records + 2, lost, found, 0)


def sized(clicks: int, most: int = 5_000) -> CycleSize:
    size = CycleSize(most, SESSION_S)
    size.clicks = clicks
    return size


Chunks = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 3), st.integers(0, 2)), max_size=6)


@given(Chunks, st.integers(1, 12))
def test_cut_chunks_have_all_offsets_once_and_in_their_order(drawn: list[tuple[int, int, int]], clicks: int) -> None:
    """Each cycle begins where the one before ended, also at an offset without a record, and is as large as it may."""
    rest = chunks = [chunk(records, number, 0, gap, lost) for number, (records, gap, lost) in enumerate(drawn)]
    size, cycles = sized(clicks), list[list[Chunk]]()
    while rest:
        cycle, rest = size.cut(rest)
        assert cycle
        cycles.append(cycle)
    counts = [sum(len(one.records) for one in cycle) for cycle in cycles]
    assert all(count == clicks for count in counts[:-1])
    assert all(count <= clicks for count in counts)
    for whole in chunks:
        parts = [one for cycle in cycles for one in cycle if one.partition == whole.partition]
        assert parts[0].begin == whole.begin
        assert parts[-1].end == whole.end
        assert all(before.end == after.begin for before, after in pairwise(parts))
        assert [record for one in parts for record in one.records] == whole.records
        assert all(one.begin <= record.offset < one.end for one in parts for record in one.records)
        assert sum(one.lost for one in parts) == whole.lost


def test_a_cycle_that_takes_long_makes_the_next_ones_smaller(caplog: pytest.LogCaptureFixture) -> None:
    """Down to what fits into a quarter of the session timeout, or the least. The log says it when they do."""
    caplog.set_level(logging.INFO)
    size = sized(4_000)
    size.took([chunk(3_000), chunk(1_000, 1)], 16.0)
    assert size.clicks == 500  # 4,000 clicks in 16 s are 500 in 2 s
    size.took([chunk(500)], 1.9)
    assert size.clicks == 500
    for _ in range(2):
        size.took([chunk(2)], 40.0)
        assert size.clicks == LEAST
    assert len(caplog.records) == 2


def test_full_cycles_that_take_little_make_the_next_ones_larger() -> None:
    """From the least on: a worker that starts again because a cycle took too long must not begin with such a one. Not
    those with few clicks, which say nothing about many; and never beyond the setting. Fetches seldom fill a cycle
    exactly, so half of it is enough."""
    size = CycleSize(5_000, SESSION_S)
    sizes = [size.clicks]
    few, many = ((49, 0.1), (100, 1.1), (100, 0.9), (150, 0.7)), ((400, 0.1), (700, 0.7), (1_600, 0.4), (3_200, 0.4))
    for clicks, s in few + many:
        size.took([chunk(clicks)], s)
        sizes.append(size.clicks)
    assert sizes == [LEAST, 100, 100, 200, 400, 800, 1_600, 3_200, 5_000]


@pytest.mark.parametrize("most", [1, 30])
def test_a_setting_below_the_least_is_kept(most: int) -> None:
    size = CycleSize(most, SESSION_S)
    assert size.clicks == most
    size.took([chunk(most)], 1_000.0)
    assert size.clicks == most


def test_a_kafka_that_takes_few_bytes_a_second_gets_smaller_transactions() -> None:
    """It rolls back what takes longer than the session timeout: the same batch was rolled back ten times, the worker
    ended, and after its start came again to cycles of this size. Here each click takes 10 ms, and a transaction 0.5 s.
    """
    size, sizes = sized(5_000), list[int]()
    for _ in range(8):
        clicks = size.clicks
        size.took([chunk(clicks)], 0.0, 0.5 + clicks / 100)
        sizes.append(size.clicks)
    assert sizes[0] < 500  # a start with the size that it had before Kafka became slow
    assert max(0.5 + clicks / 100 for clicks in sizes) < SESSION_S / 2
    size = CycleSize(5_000, SESSION_S)
    for _ in range(8):
        size.took([chunk(size.clicks)], 0.0, 0.5 + size.clicks / 100)
    assert 100 < size.clicks <= 400


@pytest.mark.parametrize("few_s", [0.0, 1.9])
def test_a_kafka_that_answers_late_gets_no_smaller_transactions(few_s: float) -> None:
    """Each transaction takes as long, also one of few clicks: then a cycle should have many."""
    size = CycleSize(5_000, SESSION_S)
    for _ in range(8):
        size.took([chunk(size.clicks)], 0.1, few_s)
    assert size.clicks == 5_000


def test_a_transaction_of_few_clicks_that_spans_an_outage_says_little() -> None:
    """Else a Kafka that is slow after its outage could get transactions of any size."""
    size = sized(4_000)
    size.took([chunk(LEAST)], 0.0, 300.0)
    size.took([chunk(4_000)], 0.0, 8.0)
    assert size.clicks < 4_000


def test_a_cycle_without_clicks_says_nothing() -> None:
    """One that ends the sessions of partitions at rest may take long."""
    size = sized(4_000)
    size.took([], 100.0)
    assert size.clicks == 4_000


def test_fetches_are_taken_up_to_the_size_and_one_at_least() -> None:
    size = sized(10)
    pending = deque(SimpleNamespace(value=Fetch([], records, 1)) for records in (12, 6, 4, 1))
    taken = [[event.value.records for event in size.take(pending)] for _ in range(4)]
    assert taken == [[12], [6, 4], [1], []]


def test_a_fetch_that_is_larger_than_a_cycle_is_decided_in_several(model_dir: Path) -> None:
    """With the same records, in the same order; Faust does not wait for it any more after the last one."""
    want = one_at_a_time(model_dir)
    acked: list[int] = []

    async def answer(number: int) -> Outcome:
        acked.append(len(worker.acked))
        return Outcome.COMMITTED

    worker = Worker(model_dir, answer, 3)
    asyncio.run(decide_all(worker))
    assert len(worker.kafka.tried) == 2 * CLICKS // FETCHED  # 3 clicks and 1
    assert acked == [number // 2 for number in range(2 * CLICKS // FETCHED)]
    decided = [
        [(r.topic, r.key, r.value) for r in one.kafka.written if r.topic == "recommendations"] for one in (worker, want)
    ]
    assert decided[0] == decided[1]
    assert worker.rows() == want.rows()
    assert worker.cycles.positions() == {CLICKS_0: CLICKS}


def test_a_fetch_of_which_a_cycle_was_refused_is_given_up(model_dir: Path) -> None:
    """What is left of it belongs to the next owner: no cycle begins with it, and nobody waits for it."""

    async def answer(number: int) -> Outcome:
        return Outcome.STALE

    worker = Worker(model_dir, answer, 3)

    async def decide() -> None:
        await worker.take_over(1)
        worker.offer(0)
        await worker.until(lambda: worker.acked == [0])
        await worker.close()

    asyncio.run(decide())
    assert len(worker.kafka.tried) == 1


def test_work_that_takes_long_makes_cycles_smaller(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three stages count: 2.1 s are too long for a session timeout of 8 s, and not for one of 10 s."""
    encode = writing.encode_all

    def slow(*arguments: Any) -> Batch:
        return replace(encode(*arguments), seconds={"decode": 0.5, "engine": 1.0, "encode": 0.6, "produce": 0.1})

    monkeypatch.setattr(writing, "encode_all", slow)
    for session_s, clicks in ((SESSION_S + 2, 1_000), (SESSION_S, LEAST)):
        worker = Worker(model_dir, most=5_000)
        worker.cycles._size = CycleSize(5_000, session_s)
        worker.cycles._size.clicks = 1_000
        asyncio.run(decide_all(worker))
        assert len(worker.kafka.tried) == 1
        assert worker.cycles._size.clicks == clicks


def test_a_transaction_that_takes_longer_than_that_of_few_clicks_makes_cycles_smaller(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the producer measures counts, from its first to its last step: 2.5 s for 24 clicks are 19 in 2 s."""
    encode = writing.encode_all

    def at_once(*arguments: Any) -> Batch:
        return replace(encode(*arguments), seconds={})

    monkeypatch.setattr(writing, "encode_all", at_once)
    monkeypatch.setattr(sizes_of_cycles, "LEAST", 10)
    for few_s, clicks in ((1.0, 1_000), (0.0, 19)):
        worker = Worker(model_dir, most=5_000)
        worker.kafka.seconds = {"produce": 0.9, "commit": 1.6}
        worker.cycles._size = size = CycleSize(5_000, SESSION_S)
        size.clicks, size._few_s = 1_000, few_s
        asyncio.run(decide_all(worker))
        assert size.clicks == clicks


def test_a_commit_that_takes_long_makes_no_cycle_smaller(model_dir: Path) -> None:
    """It would take as long with fewer clicks."""

    async def slow(number: int) -> Outcome:
        clock.answered_s += 10 * SESSION_S
        return Outcome.COMMITTED

    worker = Worker(model_dir, slow, 5_000)
    worker.cycles._size.clicks = 1_000
    worker.cycles._watch = clock = SimpleNamespace(answered_s=1_000.0, breaks=0)  # type: ignore[assignment]
    asyncio.run(decide_all(worker))
    assert worker.cycles._size.clicks == 1_000
