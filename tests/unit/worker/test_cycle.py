"""A worker that is asked to end ends cleanly, whatever its loop is waiting for."""

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from stream.events import Partition
from stream.kafka.changelog import Position
from stream.kafka.consumer.fetch import Chunk
from stream.kafka.consumer.transport import check_group
from stream.kafka.delivery import Outcome
from stream.model.runtime import load_model
from stream.settings import Topics
from stream.web.health import Doing
from stream.wire.json import JsonCodec
from stream.worker.cycles import cycle
from stream.worker.cycles.cycle import Cycles
from stream.worker.cycles.size import CycleSize
from stream.worker.served import open_engine
from tests.unit.worker.recovered import CLICKS_0, decided, recovered


class Delivery:
    """A producer that takes a while to close."""

    async def close(self) -> None:
        await asyncio.sleep(0)


def test_idle_loop_ends_when_the_worker_closes(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next tick comes while Faust is still stopping its services: it must not find a stopped engine thread."""
    monkeypatch.setattr(cycle, "TICK_S", 0.001)
    stubs: Any = (Delivery(), None)
    limits = dict.fromkeys(msgspec.structs.astuple(Topics()), 1_000_000)
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 20, 1, 0.001)
    ticks: list[float] = []

    async def idle_then_close() -> None:
        cycles = Cycles(engine, JsonCodec(65_536, 1), *stubs, Topics(), limits, CycleSize(1_000, 10.0))
        ticked = asyncio.Event()

        def tick(now_s: float) -> list[Partition]:
            ticks.append(now_s)
            ticked.set()
            return []

        monkeypatch.setattr(cycles._rest, "take", tick)
        running = asyncio.create_task(cycles.run())
        await ticked.wait()
        await cycles.close()
        await asyncio.wait_for(running, 10)

    asyncio.run(idle_then_close())
    assert ticks


def test_engine_that_hangs_is_reported_and_ends_the_worker(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After 20 s a line says where the engine is, and again every 20 s; after 5 minutes the worker ends."""
    monkeypatch.setattr(cycle, "TICK_S", 0.001)
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 20, 1, 0.001)
    stubs: Any = (Delivery(), None)
    watch: Any = SimpleNamespace(answered_s=1_000.0, breaks=0)
    limits = dict.fromkeys(msgspec.structs.astuple(Topics()), 1_000_000)
    entered, go_on = threading.Event(), threading.Event()

    def hangs() -> None:
        entered.set()
        go_on.wait(30)

    async def hang() -> None:
        cycles = Cycles(engine, JsonCodec(65_536, 1), *stubs, Topics(), limits, CycleSize(1_000, 10.0), watch=watch)
        running = asyncio.create_task(cycles.thread.run(hangs))
        await asyncio.to_thread(entered.wait, 30)
        for passed_s, lines in ((0, 0), (19, 0), (21, 1), (30, 1), (42, 2)):
            watch.answered_s = 1_000.0 + passed_s
            cycles.thread.check()
            assert len(caplog.records) == lines, passed_s
            assert cycles.doing() == Doing("joining", 0, passed_s, slow=passed_s > 20, hangs=False)
        assert "busy_s=42 at=" in caplog.text
        watch.answered_s = 1_301.0
        assert cycles.doing().hangs
        with pytest.raises(TimeoutError, match="301 s"):
            cycles.thread.check()
        go_on.set()
        await cycles.close()
        await asyncio.wait_for(running, 10)
        cycles.thread.check()
        assert cycles.doing() == Doing("joining")

    asyncio.run(hang())


def test_the_phase_of_a_worker_follows_the_group(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what /readyz answers by. A worker whose offsets are refused has none until the next rebalance, and is not
    settled: with --drain it would otherwise end as if it had decided everything."""
    cycles = recovered(model_dir, (Position(11, 11), 11))
    outcomes = iter((Outcome.COMMITTED, Outcome.ROLLED_BACK, Outcome.COMMITTED, Outcome.STALE))

    async def commit(*arguments: object) -> Outcome:
        return next(outcomes)

    async def decide() -> None:
        for offset in (11, 12, 13):
            await decided(cycles, Chunk(CLICKS_0, 1, offset, offset + 1, 0, [], 0))

    monkeypatch.setattr(cycles._writer._delivery, "commit", commit, raising=False)
    assert (cycles.doing(), cycles.settled) == (Doing("assigned", 1), True)
    asyncio.run(decide())
    assert (cycles.doing(), cycles.settled) == (Doing("rejoining"), False)
    counts = cycles._meter.snapshot().counts_by("transactions", "outcome")
    assert counts == {"committed": 2, "rolled_back": 1, "stale": 1}
    cycles.release()
    assert (cycles.doing(), cycles.settled) == (Doing("rebalancing"), False)
    cycles.stand_by()
    assert (cycles.doing(), cycles.settled) == (Doing("spare"), True)
    assert cycles._meter.snapshot().count("rebalances") == 2


def test_group_is_not_asked_while_the_worker_stops() -> None:
    """The consumer thread's loop is closed by then; its error would end a worker that was asked to end, with 70."""

    class ClosedThread:
        @property
        def _consumer(self) -> Any:
            raise RuntimeError("Event loop is closed")

    app: Any = SimpleNamespace(should_stop=True, consumer=SimpleNamespace(_thread=ClosedThread()))
    asyncio.run(check_group(app))


def test_a_worker_whose_fetching_has_ended_does_not_stay_alive_without_reading() -> None:
    """aiokafka does not start its fetching again: the error of the fetching is an error of the worker."""

    class Thread:
        def __init__(self, fetching: asyncio.Task[None]) -> None:
            coordinator, fetcher = SimpleNamespace(check_errors=lambda: None), SimpleNamespace(_fetch_task=fetching)
            self._consumer = SimpleNamespace(_coordinator=coordinator, _fetcher=fetcher)

        async def call_thread(self, call: Any) -> None:
            await call()

    async def check() -> None:
        broken = asyncio.Event()

        async def fetch() -> None:
            await broken.wait()
            raise RuntimeError("the handler is closed")

        fetching = asyncio.create_task(fetch())
        app: Any = SimpleNamespace(should_stop=False, consumer=SimpleNamespace(_thread=Thread(fetching)))
        await check_group(app)
        broken.set()
        await asyncio.wait({fetching})
        with pytest.raises(RuntimeError, match="handler is closed"):
            await check_group(app)

    asyncio.run(check())
