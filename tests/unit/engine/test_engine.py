"""The engine against a slow version: one click at a time, one user in a batch."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.engine.engine import Engine
from stream.events import Click, Partition, click_of
from stream.model.probe import batch_invariant
from stream.model.runtime import Model, load_model
from stream.settings import Rules
from stream.worker.served import open_engine
from tests.decide import process, run, view

ONE = Partition("clicks", 0)
START_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


def engine_of(model: Model, directory: Path, k: int = 5, exclude_recent: int = 1) -> Engine:
    return open_engine(model, directory, k=k, exclude_recent=exclude_recent, alpha=0.05)


def click(user: str, item: str, second: int = 0, event_type: str = "view") -> Click:
    return Click(user, item, START_MS + 1000 * second, event_type)


def stepped(model: Model, clicks: list[tuple[str, int | None]]) -> tuple[list[float], list[np.ndarray]]:
    """One user's views by hand, (item, ms since the last one; None = no earlier click): surprises and last state."""
    state = [np.zeros((1, *tensor.shape), tensor.dtype) for tensor in model.manifest.state]
    surprises = []
    for item, gap_ms in clicks:
        bucket = 0 if gap_ms is None else 1 + sum(edge <= gap_ms for edge in model.manifest.gap_edges_ms)
        surprise, state = view(model, item, bucket, state)
        surprises.append(surprise)
    return surprises, state


CLICKS = st.lists(
    st.builds(
        click,
        user=st.sampled_from(["a", "b", "c", "d"]),
        item=st.sampled_from([f"i{n}" for n in range(8)] + ["never seen"]),
        second=st.integers(0, 10_000),
        event_type=st.sampled_from(["view", "cart", "wish"]),
    ),
    max_size=30,
)


@pytest.mark.parametrize(
    ("k", "exclude_recent", "rules", "forget_after_days"),
    [
        (5, 1, Rules(), 0),
        (1, 0, Rules(), 0.03),
        (5, 0, Rules(popular_if_unknown=True), 0),
        (2, 1, Rules(explore=0.2), 0.03),
    ],
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(clicks=CLICKS, cuts=st.lists(st.integers(0, 30), max_size=4))
def test_batches_equal_single_clicks_bit_for_bit(
    model: Model,
    model_dir: Path,
    clicks: list[Click],
    cuts: list[int],
    k: int,
    exclude_recent: int,
    rules: Rules,
    forget_after_days: float,
) -> None:
    """However the stream is cut into cycles, rows, decisions and alerts are the same."""
    together, single = (
        open_engine(model, model_dir, k, exclude_recent, 0.9, rules, forget_after_days) for _ in range(2)
    )
    edges = sorted({0, len(clicks), *(cut for cut in cuts if cut < len(clicks))})
    batched = [run(together, clicks[a:b], a) for a, b in itertools.pairwise(edges)]
    alone = [run(single, [one], i) for i, one in enumerate(clicks)]
    assert [r for c in batched for r in c.recommendations] == [r for c in alone for r in c.recommendations]
    assert [a for c in batched for a in c.anomalies] == [a for c in alone for a in c.anomalies]
    assert together.arena.rows(ONE) == single.arena.rows(ONE)


@pytest.mark.parametrize("event_ids", [False, True])
def test_a_busy_user_costs_few_calls_and_equals_single_clicks(
    model: Model, model_dir: Path, monkeypatch: pytest.MonkeyPatch, event_ids: bool
) -> None:
    """Hundreds of clicks of one user have the rows and decisions of single clicks, also where two came twice."""
    rng = random.Random(5)
    clicks = [
        Click(
            "bot" if n % 4 else f"u{rng.randrange(40)}",
            f"i{rng.randrange(55)}",
            START_MS + 700 * n,
            rng.choice(["view", "cart", "wish"]),
            event_id=f"e{n - 4 if n in (102, 251) else n}" if event_ids and n % 5 else None,
        )
        for n in range(400)
    ]
    rules = Rules(exclude_events="cart", readmit_events="wish")
    together, single = (open_engine(model, model_dir, 5, 1, 0.9, rules) for _ in range(2))
    alone = [run(single, [one], i) for i, one in enumerate(clicks)]
    calls, step = [], type(model).step
    monkeypatch.setattr(type(model), "step", lambda *arguments: calls.append(1) or step(*arguments))
    batched = run(together, clicks)
    assert len(calls) <= 12
    assert batched.recommendations == [r for c in alone for r in c.recommendations]
    assert batched.anomalies == [a for c in alone for a in c.anomalies]
    assert together.arena.rows(ONE) == single.arena.rows(ONE)


def test_one_click_is_one_step_of_the_model(model: Model, model_dir: Path) -> None:
    """The decision and the row equal the results of the graphs."""
    engine = engine_of(model, model_dir)
    cycle = run(engine, [click("a", "i3"), click("a", "i4", second=90)])
    surprise, state = stepped(model, [("i3", None), ("i4", 90_000)])
    read = [value for value, t in zip(state, model.manifest.state, strict=True) if t.name in model.score_inputs]
    items, _ = model.score(read, 6)
    want = [model.items[i] for i in items[0].tolist() if model.items[i] != "i4"][:5]
    assert cycle.recommendations[1].items == want
    assert [r.surprise for r in cycle.recommendations] == pytest.approx(surprise, abs=1e-5)
    row = engine.arena.gather(engine.arena.find([(ONE, b"a")]).slots)
    assert (row["h"] == state[0]).all()
    assert row["clicks"].tolist() == [2]


def test_the_arena_does_not_change_before_commit(model: Model, model_dir: Path) -> None:
    """After a rolled-back transaction the same clicks give the same cycle again."""
    engine = engine_of(model, model_dir)
    run(engine, [click("a", "i1")])
    before = engine.arena.rows(ONE)
    clicks = [click("a", "i2"), click("b", "i3")]
    first = process(engine, clicks, start=1)
    assert engine.arena.rows(ONE) == before
    again = process(engine, clicks, start=1)
    assert again.cycle.staged.changelog == first.cycle.staged.changelog
    assert again.recommendations == first.recommendations


def test_a_click_already_applied_is_counted_and_changes_nothing(model: Model, model_dir: Path) -> None:
    """After an operator has reset the offsets, no click updates a state twice."""
    engine = engine_of(model, model_dir)
    clicks = [click("a", f"i{n}", n) for n in range(4)]
    run(engine, clicks[:3])
    decided = run(engine, clicks)
    assert decided.cycle.decided.tolist() == [3]
    assert [r.id for r in decided.recommendations] == ["clicks-0-3@tiny/1"]
    assert decided.recommendations[0].item_id == "i3"


def test_an_unknown_item_advances_the_state_and_is_never_recommended(model: Model, model_dir: Path) -> None:
    """A click on a new item updates the state, and lists have known items only."""
    engine = engine_of(model, model_dir, k=50)
    cycle = run(engine, [click("a", "i1"), click("a", "brand new", 5)])
    assert len(cycle.recommendations) == 2
    assert "brand new" not in cycle.recommendations[1].items
    assert sorted(cycle.recommendations[1].items) == sorted(model.items)
    assert np.frombuffer(engine.arena.rows(ONE)[b"a"], engine.arena.dtype)["clicks"][0] == 2


def test_recent_items_are_left_out_and_the_list_stays_full(model: Model, model_dir: Path) -> None:
    """exclude_recent = N leaves out the items of the last N clicks; 0 leaves none out."""
    clicks = [click("a", f"i{n}", n) for n in range(6)]
    whole = run(engine_of(model, model_dir, k=50, exclude_recent=0), clicks).recommendations[-1].items
    assert len(whole) == 50
    without = run(engine_of(model, model_dir, k=10, exclude_recent=3), clicks).recommendations[-1].items
    assert without == [item for item in whole if item not in {"i3", "i4", "i5"}][:10]


def test_users_of_one_name_in_two_partitions_are_two_states(model: Model, model_dir: Path) -> None:
    """A state belongs to its partition, because a rebalance moves partitions."""
    engine = engine_of(model, model_dir)
    for partition in (0, 1):
        run(engine, [click("a", "i1")], partition=partition)
    engine.arena.drop(ONE)
    assert engine.arena.rows(ONE) == {}
    assert list(engine.arena.rows(Partition("clicks", 1))) == [b"a"]


def test_an_alert_has_the_expected_items_and_its_rule(model: Model, model_dir: Path) -> None:
    """Every anomaly is a recommendation's click with its p-value, which is at or below the threshold."""
    engine = engine_of(model, model_dir)
    rng = np.random.default_rng(1)
    clicks = [click(f"u{rng.integers(5)}", f"i{rng.integers(50)}", second) for second in range(400)]
    cycle = run(engine, clicks)
    p_values = {click_of(r.id): r.p_value for r in cycle.recommendations}
    assert cycle.anomalies
    for alert in cycle.anomalies:
        assert alert.p_value == p_values[alert.id] <= alert.threshold == 0.05
        assert alert.score > 1.3
        assert len(alert.expected) == 3
        assert min(alert.statistics.values()) <= 0.01


def test_no_clicks_are_no_decisions(model: Model, model_dir: Path) -> None:
    """A cycle without a valid click gives no decisions."""
    decided = process(engine_of(model, model_dir), [])
    assert (decided.recommendations, decided.anomalies, decided.cycle.staged.changelog) == ([], [], [])


def test_a_late_click_does_not_turn_the_clock_back(model: Model, model_dir: Path) -> None:
    """The gap of a late click is 0, and the next gap is measured from the newest time."""
    engine = engine_of(model, model_dir)
    decided = run(engine, [click("a", "i1", 7200), click("a", "i2", 0), click("a", "i3", 7260)])
    row = np.frombuffer(engine.arena.rows(ONE)[b"a"], engine.arena.dtype)[0]
    assert row["last_ms"] == START_MS + 7_260_000
    surprise, state = stepped(model, [("i1", None), ("i2", 0), ("i3", 60_000)])
    assert [r.surprise for r in decided.recommendations] == pytest.approx(surprise, abs=1e-5)
    assert (row["h"] == state[0]).all()


def test_a_row_does_not_depend_on_its_batch(model: Model) -> None:
    """The worker's check at the start passes on a CPU."""
    assert batch_invariant(model, k=5)
