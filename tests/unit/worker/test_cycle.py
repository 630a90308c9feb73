"""A worker that is asked to end ends cleanly, whatever its loop is waiting for."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from stream.kafka.transport import check_group
from stream.model.runtime import load_model
from stream.settings import Topics
from stream.wire.json import JsonCodec
from stream.worker import cycle
from stream.worker.cycle import Cycles
from stream.worker.served import open_engine


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
    ticks: list[int] = []

    async def idle_then_close() -> None:
        cycles = Cycles(engine, JsonCodec(65_536, 1), *stubs, Topics(), limits, 1_000)
        ticked = asyncio.Event()

        def tick(now_ms: int) -> None:
            ticks.append(now_ms)
            loop.call_soon_threadsafe(ticked.set)

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(engine, "tick", tick)
        running = asyncio.create_task(cycles.run())
        await ticked.wait()
        await cycles.close()
        await asyncio.wait_for(running, 10)

    asyncio.run(idle_then_close())
    assert ticks


def test_group_is_not_asked_while_the_worker_stops() -> None:
    """The consumer thread's loop is closed by then; its error would end a worker that was asked to end, with 70."""

    class ClosedThread:
        @property
        def _consumer(self) -> Any:
            raise RuntimeError("Event loop is closed")

    app: Any = SimpleNamespace(should_stop=True, consumer=SimpleNamespace(_thread=ClosedThread()))
    asyncio.run(check_group(app))
