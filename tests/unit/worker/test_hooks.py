"""What Faust's hooks do to a worker that ends."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from stream.events import Partition
from stream.kafka_config import PLAINTEXT
from stream.settings import Settings
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
