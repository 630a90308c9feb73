"""How the worker's process starts and ends."""

import asyncio
import signal
from typing import Any, NoReturn

import pytest
from faust.transport.producer import Producer

from stream.kafka.watchdog import EXIT_WORKER
from stream.kafka_config import PLAINTEXT
from stream.settings import Settings
from stream.worker import app as module
from stream.worker.app import _faust_app, run_worker


@pytest.fixture
def app(tmp_path: Any) -> Any:
    """An app as a worker has it, without a connection."""
    return _faust_app(Settings(model="m", broker="localhost:1", data_dir=str(tmp_path)), "1", PLAINTEXT)


def test_the_worker_starts_no_producer_that_it_does_not_use(app: Any) -> None:
    """Faust's producer connects once, without a second try: an outage in that moment ended the worker."""
    services = list(app.boot_strategy.server())
    assert app.consumer in services
    assert not [service for service in services if isinstance(service, Producer)]


def exit_code(app: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a worker's process with this app."""
    monkeypatch.setattr(module, "create_app", lambda settings: app)
    monkeypatch.setattr(module, "Brief", lambda watch: lambda record: True)
    app.transport.watch = None
    return run_worker(Settings(model="m", broker="localhost:1"))


def test_a_worker_that_cannot_start_asks_for_another_start(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has asked it to end, so the exit code is not 0."""

    async def fail() -> NoReturn:
        raise OSError("no address")

    app.on_start = fail
    assert exit_code(app, monkeypatch) == EXIT_WORKER


def test_a_worker_that_was_asked_to_end_and_then_crashes_ends_with_0(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an outage Faust's services crash while they stop. A supervisor must not start this worker again."""

    async def be_asked() -> None:
        signal.raise_signal(signal.SIGTERM)
        await asyncio.Event().wait()  # until the start is cancelled

    async def crash() -> NoReturn:
        error = asyncio.CancelledError()
        await app.crash(error)
        raise error

    app.on_start, app.on_stop = be_asked, crash
    assert exit_code(app, monkeypatch) == 0
    assert app.crashed
