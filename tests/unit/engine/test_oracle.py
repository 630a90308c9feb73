"""The engine against a plain loop over the clicks that shares no code with it."""

import json
import random
from pathlib import Path

import msgspec
import pytest

from stream.events import Click, Partition
from stream.model.runtime import load_model
from stream.worker.served import open_engine
from tests.decide import run
from tests.oracle import Oracle

DAY_MS = 86_400_000


@pytest.mark.parametrize("alpha", [0.001, 0.3])
def test_decisions_alerts_and_rows_are_those_of_a_plain_loop(model_dir: Path, alpha: float) -> None:
    """Lists, surprise, p-values, alerts and every byte of the rows are equal, over months in which users are
    forgotten."""
    rng = random.Random(4)
    clicks = [
        Click(
            f"u{int(rng.random() ** 3 * 60)}",
            f"i{rng.randrange(60)}",
            1_700_000_000_000 + n * DAY_MS // 5 + rng.randrange(-DAY_MS, DAY_MS),
            rng.choice(["view", "view", "cart", "purchase", "wish"]),
        )
        for n in range(1_200)
    ]
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 20, 2, alpha)
    oracle = Oracle(model_dir, 20, 2, alpha)
    expected = [
        oracle.decide("clicks", 0, n, click.user_id.encode(), msgspec.json.encode(click))
        for n, click in enumerate(clicks)
    ]
    start = 0
    while start < len(clicks):
        end = start + rng.randrange(1, 90)
        decided = run(engine, clicks[start:end], start)
        want = [one for one in expected[start:end] if one is not None]
        assert [json.loads(msgspec.json.encode(one)) for one in decided.recommendations] == [w.decision for w in want]
        alerts = [json.loads(msgspec.json.encode(one)) for one in decided.anomalies]
        assert alerts == [w.alert for w in want if w.alert is not None]
        start = end
    rows = engine.arena.rows(Partition("clicks", 0))
    for _, key, row, may_be_gone in oracle.rows(engine.arena.model):
        assert rows.pop(key, row if may_be_gone else None) == row
    assert rows == {}
