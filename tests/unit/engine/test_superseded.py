"""`lists` = last: only the last decided click of each user in a batch has a list. All else is as with every list."""

import itertools
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from stream.engine import isolate
from stream.engine.engine import Engine
from stream.engine.requests import Request
from stream.events import Click, Origin, Partition, Recommendation
from stream.model.runtime import Model, load_model
from stream.settings import Rules
from stream.wire.json import encode
from stream.worker.served import open_engine
from tests.changed_model import save_graph
from tests.decide import NOW_MS, origins, run

START_MS = 1_700_000_000_000


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("shop") / "items.jsonl"
    path.write_text("\n".join(json.dumps({"item_id": f"i{n}", "category": "ab"[n % 2]}) for n in range(0, 50, 3)))
    return str(path)


def click(user: str, item: str = "i1", second: int = 0, event_type: str = "view", event_id: str | None = None) -> Click:
    return Click(user, item, START_MS + 1000 * second, event_type, event_id=event_id)


def engine_of(model: Model, directory: Path, lists: str = "last", rules: Rules | None = None) -> Engine:
    return open_engine(model, directory, 5, 1, 0.9, rules or Rules(), forget_after_days=0.03, lists=lists)


def but_the_list(decision: Recommendation) -> dict[str, Any]:
    names = ("items", "log_probs", "propensities", "explored", "superseded_by")
    return {name: value for name, value in msgspec.to_builtins(decision).items() if name not in names}


def last_of_each_user(decided: Sequence[Recommendation]) -> dict[str, str]:
    """User -> id of the last decision."""
    return {one.user_id: one.id for one in decided}


CLICKS = st.lists(
    st.builds(
        click,
        user=st.sampled_from(["a", "b", "c"]),
        item=st.sampled_from([f"i{n}" for n in range(8)] + ["never seen"]),
        second=st.integers(0, 10_000),
        event_type=st.sampled_from(["view", "cart"]),
        event_id=st.sampled_from([None, None, "x", "y"]),
    ),
    max_size=30,
)


@pytest.mark.parametrize(
    "rules",
    [
        Rules(),
        Rules(popular_if_unknown=True, exclude_events="cart"),
        Rules(explore=0.3, explore_seed=7),
        Rules(catalogue="the catalogue", same_category=True, max_per_category=2),
    ],
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(clicks=CLICKS, cuts=st.lists(st.integers(0, 30), max_size=3))
def test_the_last_decided_click_of_each_user_has_its_list_and_all_else_is_equal(
    model: Model, model_dir: Path, catalogue: str, rules: Rules, clicks: list[Click], cuts: list[int]
) -> None:
    """Whatever the batches: the lists that are there, the surprise, p-values, alerts and rows do not change."""
    if rules.catalogue:
        rules = msgspec.structs.replace(rules, catalogue=catalogue)
    every, last = (engine_of(model, model_dir, lists, rules) for lists in ("every", "last"))
    edges = sorted({0, len(clicks), *(cut for cut in cuts if cut < len(clicks))})
    for a, b in itertools.pairwise(edges):
        want, got = run(every, clicks[a:b], a), run(last, clicks[a:b], a)
        newest = last_of_each_user(want.recommendations)
        for full, one in zip(want.recommendations, got.recommendations, strict=True):
            assert but_the_list(one) == but_the_list(full)
            if newest[one.user_id] == one.id:
                assert one == full
            else:
                assert (one.items, one.log_probs, one.superseded_by) == ([], [], newest[one.user_id])
        assert got.anomalies == want.anomalies
        assert got.cycle.staged.changelog == want.cycle.staged.changelog


def test_only_a_superseded_decision_names_another(model: Model, model_dir: Path) -> None:
    """On the topic, a decision with a list has the same bytes as before, and one without says where the list is."""
    first, second = run(engine_of(model, model_dir), [click("a", "i1"), click("a", "i2")]).recommendations
    found = json.loads(encode(first))
    assert (found["items"], found["log_probs"], found["superseded_by"]) == ([], [], "clicks-0-1@tiny/1")
    assert b"superseded_by" not in encode(second)
    assert len(second.items) == 5


def test_a_superseded_decision_under_exploration_has_no_slots(model: Model, model_dir: Path) -> None:
    """Its propensities are those of no slot, so a reader that multiplies or adds them up needs no special case."""
    first, second = run(engine_of(model, model_dir, rules=Rules(explore=0.3)), [click("a"), click("a")]).recommendations
    assert (first.propensities, first.explored) == ([], [])
    assert second.propensities is not None
    assert len(second.propensities) == len(second.items)


def test_only_the_listed_clicks_are_scored(model: Model, model_dir: Path) -> None:
    """score.onnx, most of the cost of a click, gets one row for each user and not one for each click."""
    rows: list[int] = []

    def score(state: list[Any], k: int) -> Any:
        rows.append(len(state[0]))
        return model.score(state, k)

    counted = replace(model)
    object.__setattr__(counted, "score", score)
    engine = open_engine(counted, model_dir, 5, 1, 1e-9, lists="last")
    run(engine, [click(f"u{n % 4}", f"i{n}", n) for n in range(20)])
    assert sum(rows) == 4


def test_clicks_on_both_sides_of_a_request_to_forget_have_a_list_each(model: Model, model_dir: Path) -> None:
    """After the request it is another user: nothing of the earlier clicks is in the later list."""
    engine = engine_of(model, model_dir)
    clicks, read = [click("a", f"i{n}") for n in range(4)], origins(4)
    requests = [Request(2, (Partition("clicks", 0), b"a"))]
    cycle = engine.process(engine.encoder.columns(clicks, read, requests), NOW_MS)
    assert cycle.decisions.superseded_by.tolist() == [1, -1, 3, -1]


def test_a_click_without_a_decision_supersedes_none(model_dir: Path, tmp_path: Path) -> None:
    """One whose result is NaN (on i7) and a repeated one: the list is that of the click before them."""
    directory = tmp_path / "spoiled" / "1"
    shutil.copytree(model_dir, directory)
    graph = onnx.load(directory / "step.onnx")
    table = next(one for one in graph.graph.initializer if one.name == "network.item_rows")
    values = numpy_helper.to_array(table).copy()
    values[7] = np.nan
    table.CopyFrom(numpy_helper.from_array(values, table.name))
    save_graph(directory, "step.onnx", graph)
    engine = engine_of(load_model(directory, "cpu"), directory)
    clicks = [click("a", "i1", event_id="x"), click("a", "i2"), click("a", "i7"), click("a", "i1", event_id="x")]
    decided = run(engine, clicks)
    assert (decided.cycle.failed.tolist(), decided.cycle.repeated.tolist()) == ([2], [3])
    first, second = decided.recommendations
    assert first.superseded_by == second.id == f"clicks-0-1@{engine.model.manifest.label}"
    assert len(second.items) == 5


def test_a_click_that_is_set_aside_supersedes_none(
    model: Model, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the engine fails on the user's last click, the batch without it is the cycle."""
    step = model.step

    def fails(item: Any, *others: Any) -> Any:
        if (item == 9).any():
            raise RuntimeError("broken")
        return step(item, *others)

    broken = replace(model)
    object.__setattr__(broken, "step", fails)
    monkeypatch.setattr("stream.engine.isolate.batch_invariant", lambda model, k: True)
    engine = engine_of(broken, model_dir)
    clicks = [click("a", "i1"), click("b", "i1"), click("a", "i2"), click("a", "i9")]
    read: list[Origin] = origins(4)
    cycle, aside = isolate.process(engine, engine.encoder.columns(clicks, read), NOW_MS)
    assert (list(aside), cycle.decided.tolist()) == ([3], [0, 1, 2])
    assert cycle.decisions.superseded_by.tolist() == [2, -1, -1]
