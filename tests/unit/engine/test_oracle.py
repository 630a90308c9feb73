"""The engine against a plain loop over the clicks that shares no code with it."""

import json
import random
from itertools import accumulate
from pathlib import Path

import msgspec
import pytest

from stream.events import Click, Partition
from stream.model.runtime import load_model
from stream.worker.served import open_engine
from tests.decide import run
from tests.oracle import Oracle

DAY_MS = 86_400_000


@pytest.mark.parametrize(("alpha", "model"), [(0.001, "model_dir"), (0.3, "model_dir"), (0.001, "ahead_dir")])
def test_decisions_alerts_and_rows_are_those_of_a_plain_loop(
    request: pytest.FixtureRequest, alpha: float, model: str
) -> None:
    """Lists, surprise, p-values, predictions, alerts and every byte of the rows are equal, over months in which users
    are forgotten."""
    rng = random.Random(4)
    clicks = [
        Click(
            f"u{int(rng.random() ** 3 * 60)}",
            f"i{rng.randrange(60)}",
            1_700_000_000_000 + n * DAY_MS // 5 + rng.randrange(-DAY_MS, DAY_MS),
            rng.choice(["view", "view", "cart", "purchase", "wish"]),
            price=[None, 19.9, 0.0, 5, 1e300][n % 5] if n % 400 > 100 else None,
            category=[None, "shoes", "hats", "gloves"][n % 4] if n % 300 > 50 else None,
        )
        for n in range(1_200)
    ]
    assert _system_alerts(request.getfixturevalue(model), clicks, alpha, rng, 90) == []


@pytest.mark.parametrize("largest", [90, 100_000])
def test_alerts_on_a_partition_are_those_of_a_plain_loop(model_dir: Path, largest: int) -> None:
    """So are those on single users, which say what they are part of, and what the changelog has of the partition; in
    small batches, and in one or two large ones."""
    rng = random.Random(5)
    found = _system_alerts(model_dir, faulty_shop(rng), 0.05, rng, largest)
    for sign in ("unknown event types", "unknown items", "new form of ids", "twins"):
        assert [phase for phase, one, _ in found if one == sign] == ["opened", "closed"]
    assert any(sign.startswith("alerts: ") for _, sign, _ in found)
    assert any(alerts for _, _, alerts in found)


def test_an_item_in_demand_is_that_of_a_plain_loop(model_dir: Path) -> None:
    """A sale has one alert, and the next one, which is as large, another. The windows between have none."""
    rng = random.Random(7)
    clicks: list[Click] = []
    for n in range(6_000):
        time_ms = 1_700_000_000_000 + n * 4_000 + rng.randrange(3_000)
        sale = 2_000 < n <= 2_300 or 5_000 < n <= 5_300
        item = "i7" if sale and n % 2 else f"i{rng.randrange(70)}"  # the model does not know i60 to i69
        clicks.append(Click(f"u{rng.randrange(900)}", item, time_ms, "view"))
    found = [one for one in _system_alerts(model_dir, clicks, 0.001, rng, 700) if one[1] == "one item in demand"]
    assert [phase for phase, *_ in found] == ["opened", "closed", "opened", "closed"][: len(found)]
    assert len(found) == 4


def test_a_drift_is_that_of_a_plain_loop(model_dir: Path) -> None:
    """The p-values are corrected, and there is an alert on the drift, where more sessions are unusual than in the
    calibration."""
    rng = random.Random(6)
    clicks: list[Click] = []
    for n in range(700):
        time_ms = 1_700_000_000_000 + n * 10_000
        gaps_ms = [20_000 + rng.randrange(2_000) for _ in range(4)] if n % 5 == 0 else [rng.randrange(90_000)]
        times_ms = accumulate(gaps_ms, initial=time_ms)
        clicks += [Click(f"u{n % 400}", f"i{rng.randrange(60)}", at_ms, "view") for at_ms in times_ms]
    clicks += [Click(f"u{n}", "i1", 1_700_007_100_000 + n * 100, "veiw") for n in range(60)]
    signs = [sign for phase, sign, _ in _system_alerts(model_dir, clicks, 0.01, rng, 100_000) if phase == "opened"]
    assert signs.index("drift") < signs.index("unknown event types")


def faulty_shop(rng: random.Random) -> list[Click]:
    """Four hours of 60 users, with a time of each: lost event types, wrong items, ids of another form, clicks sent
    again, bots."""
    clicks: list[Click] = []
    for n in range(2_300):
        time_ms = 1_700_000_000_000 + n * 6_500 + rng.randrange(-20_000, 20_000)
        user, item, event_type = (
            f"u{n % 60}",
            f"i{int(rng.random() ** 2 * 60)}",
            rng.choice(["view", "cart"]),
        )
        affected = int(user[1:]) % 3 > 0
        if affected and 350 < n <= 450:
            event_type = "veiw"
        if affected and 850 < n <= 1_000:
            item = f"{item}old"
        if affected and 1_150 < n <= 1_250:
            item = ["undefined!", f"shop.i{item}", "12"][n % 3]
        clicks.append(Click(user, item, time_ms, event_type))
        if affected and 1_400 < n <= 1_500:
            clicks.append(Click(user, item, time_ms + 90, event_type))
        if affected and 1_900 < n <= 2_000:
            clicks += [Click(user, item, time_ms + 4_000 * k, "purchase") for k in range(1, 10)]
    return clicks


def _system_alerts(
    model_dir: Path, clicks: list[Click], alpha: float, rng: random.Random, largest: int
) -> list[tuple[str, str, int]]:
    """Compare the engine and the plain loop. Batches have less than `largest` clicks. Returns phase, sign and parts of
    the alerts on the partition."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 20, 2, alpha)
    oracle = Oracle(model_dir, 20, 2, alpha)
    expected = [
        oracle.decide("clicks", 0, n, click.user_id.encode(), msgspec.json.encode(click))
        for n, click in enumerate(clicks)
    ]
    start, found = 0, list[tuple[str, str, int]]()
    while start < len(clicks):
        end = start + rng.randrange(1, largest)
        decided = run(engine, clicks[start:end], start)
        want = [one for one in expected[start:end] if one is not None]
        assert [json.loads(msgspec.json.encode(one)) for one in decided.recommendations] == [w.decision for w in want]
        alerts = [json.loads(msgspec.json.encode(one)) for one in decided.anomalies]
        assert alerts == [w.alert for w in want if w.alert is not None]
        system = [json.loads(msgspec.json.encode(one)) for one in decided.system]
        assert [{k: v for k, v in one.items() if k != "p_value"} for one in system] == [
            e for w in want for e in w.system
        ]
        found += [(one.phase, one.sign, one.alerts or 0) for one in decided.system]
        start = end
    rows = engine.arena.rows(Partition("clicks", 0))
    for _, key, row, may_be_gone in oracle.rows(engine.arena.model):
        assert rows.pop(key, row if may_be_gone else None) == row
    assert rows == {}
    assert engine.arena.kept[Partition("clicks", 0)] == oracle.mark(0, 0, []).split(b" ", 4)[4]
    return found
