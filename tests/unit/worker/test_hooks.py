"""What Faust's hooks do to a worker that ends."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from stream.answers.desk import Desk
from stream.events import Partition
from stream.kafka_config import PLAINTEXT
from stream.meter import Meter
from stream.settings import Settings
from stream.web.display import Display
from stream.web.health import Health
from stream.worker import hooks

Hook = Callable[..., Awaitable[None]]


@pytest.mark.parametrize(("closed", "ended"), [(True, []), (False, ["cannot schedule new futures after shutdown"])])
def test_a_rebalance_while_a_worker_ends_ends_it_not_sooner(
    monkeypatch: pytest.MonkeyPatch, closed: bool, ended: list[str]
) -> None:
    """Recovery finds the engine's thread closed. The worker still has to leave its groups; the next owner reads the
    partitions. In a worker that does not end, the same error ends the process."""
    found: list[str] = []
    monkeypatch.setattr(hooks, "membership", lambda app: (3, "member"))
    monkeypatch.setattr(hooks, "assigned", lambda app: [Partition("clicks", 0)])
    monkeypatch.setattr(hooks, "end_app", lambda app, exc: found.append(str(exc)))

    async def recover(*_: Any) -> None:
        raise RuntimeError("cannot schedule new futures after shutdown")

    rebalanced: list[Hook] = []
    ignored = SimpleNamespace(connect=lambda hook: hook)
    app: Any = SimpleNamespace(
        topic=lambda name: name,
        agent=lambda *_, **__: lambda function: function,
        task=lambda function: function,
        conf=SimpleNamespace(consumer_group_instance_id="eddy-0"),
        on_partitions_revoked=ignored,
        on_before_shutdown=ignored,
        on_rebalance_complete=SimpleNamespace(connect=rebalanced.append),
    )
    cycles: Any = SimpleNamespace(closed=closed, recover=recover)
    hooks.connect(app, cycles, Settings(model="m", broker="localhost:1"), "0", PLAINTEXT, 4)
    asyncio.run(asyncio.wait_for(rebalanced[0](app), 10))  # type: ignore[arg-type]
    assert found == ended


@pytest.mark.parametrize(
    ("host", "answers", "warned"),
    [
        ("0.0.0.0", True, True),
        ("::", True, True),
        ("10.1.2.3", True, True),
        ("shop-worker-1", True, True),
        ("127.0.0.1", True, False),
        ("::1", True, False),
        ("localhost", True, False),
        ("0.0.0.0", False, False),  # metrics and health name no user
    ],
)
def test_a_worker_that_answers_on_a_network_warns_of_its_readers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, host: str, answers: bool, warned: bool
) -> None:
    """The port asks for no password. One line names the address, what can be read and where the documents have more."""
    monkeypatch.setattr(hooks, "listen", lambda *_: None)
    monkeypatch.setattr(hooks, "Server", lambda *_: None)
    display = Display(Meter(), Health(), answers, False)
    settings = Settings(model="m", broker="b:1", http_host=host, http_port=9464, http_answers=answers)
    hooks.serve_http(settings, display, Desk())
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == warned
    if warned:
        assert "can read what is known of users" in lines[0]
        assert f"http_host={host} http_port=9464; " in lines[0]
        assert "docs/security.md" in lines[0]
