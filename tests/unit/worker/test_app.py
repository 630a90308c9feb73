"""How the worker's process starts and ends."""

import asyncio
import logging
import os
import platform
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
from faust.transport.producer import Producer

from stream.kafka.watchdog import EXIT_WORKER
from stream.kafka_config import PLAINTEXT
from stream.log_lines import JsonLines
from stream.settings import Settings
from stream.web.health import Health
from stream.worker import app as module
from stream.worker.app import REBALANCE_S, _faust_app, run_worker
from stream.worker.hooks import WithoutWeb

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def app(tmp_path: Any) -> Any:
    """An app as a worker has it, without a connection."""
    return _faust_app(Settings(model="m", broker="localhost:1", data_dir=str(tmp_path)), "1", PLAINTEXT, Health())


def test_the_worker_starts_no_producer_that_it_does_not_use(app: Any) -> None:
    """Faust's producer connects once, without a second try: an outage in that moment ended the worker."""
    services = list(app.boot_strategy.server())
    assert app.consumer in services
    assert not [service for service in services if isinstance(service, Producer)]


@pytest.mark.parametrize(("session_s", "rebalance_s"), [(10.0, REBALANCE_S), (300.0, 300.0)])
def test_the_group_waits_for_a_cycle_longer_than_for_a_heartbeat(
    session_s: float, rebalance_s: float, tmp_path: Path
) -> None:
    """Else a worker whose cycle takes as long as its session would be removed at each rebalance."""
    settings = Settings(model="m", broker="localhost:1", data_dir=str(tmp_path), session_timeout_s=session_s)
    conf = _faust_app(settings, "1", PLAINTEXT, Health()).conf
    assert (conf.broker_session_timeout, conf.broker_rebalance_timeout) == (session_s, rebalance_s)


def test_the_end_waits_for_the_cancelled_tasks_and_no_longer(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faust lets them a second, also if there are none: each stop and each restart of a worker took it longer."""
    worker, waited, ended, sleep = WithoutWeb(app, loop=asyncio.new_event_loop()), [], [], asyncio.sleep

    async def told(seconds: float) -> None:
        waited.append(seconds)

    async def in_order() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            for _ in range(5):
                await sleep(0)
            ended.append(True)

    async def end() -> None:
        task = asyncio.ensure_future(in_order())
        await sleep(0)
        task.cancel()
        await worker._sentinel_task()

    monkeypatch.setattr(asyncio, "sleep", told)
    asyncio.run(end())
    assert ended == [True]
    assert waited == []


@pytest.mark.parametrize(("log_format", "kind"), [("json", JsonLines), ("text", type(None))])
def test_faust_logs_json_too_if_it_is_asked_to(app: Any, log_format: str, kind: type) -> None:
    """`faust -A` sets up the log by itself, and then calls this hook of its worker."""
    app.eddy_log_format = log_format
    root = logging.Logger("root of faust")
    root.addHandler(logging.StreamHandler())
    worker = WithoutWeb(app, loop=asyncio.new_event_loop())
    worker.spinner = None
    worker.on_setup_root_logger(root, logging.WARNING)
    logging.captureWarnings(False)
    assert [type(handler.formatter) for handler in root.handlers] == [kind]


ARENAS = """import ctypes, threading
from stream.process import limit_arenas
limit_arenas()
libc, together = ctypes.CDLL(None), threading.Barrier(9)
libc.malloc.restype = ctypes.c_void_p
def allocate():
    together.wait()
    libc.malloc(ctypes.c_size_t(1000))
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
together.wait(); together.wait()
libc.malloc_stats()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
@pytest.mark.parametrize(("own", "most"), [({}, 2), ({"MALLOC_ARENA_MAX": "4"}, 4)], ids=["by default", "as set"])
def test_memory_is_not_spread_over_an_arena_of_each_thread(own: dict[str, str], most: int) -> None:
    """A worker's threads share two arenas, or as many as the user has set."""
    environ = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | own
    done = subprocess.run([sys.executable, "-c", ARENAS], env=environ, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Arena ") == most


async def fail(app: Any) -> NoReturn:
    raise OSError("no address")


async def be_asked(app: Any) -> None:
    signal.raise_signal(signal.SIGTERM)
    await asyncio.Event().wait()  # until the start is cancelled


async def crash(app: Any) -> NoReturn:
    error = asyncio.CancelledError()
    await app.crash(error)
    raise error


def run(start: str, stop: str) -> int:
    """Run a worker whose app does these things when it starts and stops, and return its exit code."""
    app: Any = _faust_app(Settings(model="m", broker="localhost:1"), "1", PLAINTEXT, Health())
    app.on_start = partial(globals()[start], app)
    if stop:
        app.on_stop = partial(globals()[stop], app)
    app.transport.watch = None
    module.create_app = lambda settings: app
    module.Brief = lambda watch: lambda record: True  # type: ignore[assignment,misc]
    return run_worker(Settings(model="m", broker="localhost:1"))


def exit_code(start: str, stop: str = "") -> int:
    """The exit code of `run` in a process of its own: a worker changes signals, logging and the event loop's policy."""
    command = [sys.executable, __file__, start, stop]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True).returncode


def test_a_worker_that_cannot_start_asks_for_another_start() -> None:
    """Nobody has asked it to end, so the exit code is not 0."""
    assert exit_code("fail") == EXIT_WORKER


def test_a_worker_that_was_asked_to_end_and_then_crashes_ends_with_0() -> None:
    """In an outage Faust's services crash while they stop. A supervisor must not start this worker again."""
    assert exit_code("be_asked", "crash") == 0


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
