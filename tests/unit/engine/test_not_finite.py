"""A result that is NaN or infinite is never written to a state: it would spoil all later results of the user."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from stream.engine.engine import Engine
from stream.events import Click, Partition
from stream.model.runtime import load_model
from stream.triggers.parse import parse_triggers
from stream.worker.served import open_engine
from tests.changed_model import save_graph
from tests.decide import process, run

ONE = Partition("clicks", 0)
START_MS = 1_700_000_000_000


def spoil(model_dir: Path, directory: Path, what: str) -> Path:
    """A copy of the model in which a click on i7 gives a state, or a surprise, that is NaN."""
    shutil.copytree(model_dir, directory)
    file = "step.onnx" if what == "state" else "surprise.onnx"
    graph = onnx.load(directory / file)
    tables = {tensor.name: tensor for tensor in graph.graph.initializer}
    values = {name: numpy_helper.to_array(tensor).copy() for name, tensor in tables.items()}
    if what == "state":
        name, at = "network.item_rows", 7
    else:  # the items of one cluster share the softmax: i2, i3 and i4 are in others
        cluster, slot = values["network.surprise.cluster"], values["network.surprise.slot"]
        name, at = "network.surprise.biases", (cluster[7], slot[7])
        assert cluster[7] not in cluster[2:5]
    values[name][at] = np.nan
    tables[name].CopyFrom(numpy_helper.from_array(values[name], name))
    save_graph(directory, file, graph)
    return directory


@pytest.fixture(params=["state", "surprise"])
def spoiled(request: pytest.FixtureRequest, ahead_dir: Path, tmp_path: Path) -> Path:
    return spoil(ahead_dir, tmp_path / "spoiled" / "1", request.param)


def engine_of(directory: Path) -> Engine:
    return open_engine(load_model(directory, "cpu"), directory, 5, 1, 0.05)


def click(user: str, item: str, second: int) -> Click:
    return Click(user, item, START_MS + 1000 * second)


CLICKS = [
    click("a", "i4", 0),
    click("b", "i7", 1),
    click("b", "i3", 2),
    click("a", "i7", 3),
    click("c", "i7", 4),
    click("a", "i2", 5),
]


def test_such_a_click_has_no_decision_and_leaves_the_state_as_it_was(spoiled: Path) -> None:
    """Only its offset and its time are stored, so it is not tried again; the user continues with the earlier state."""
    engine = engine_of(spoiled)
    decided = run(engine, CLICKS)
    assert decided.cycle.failed.tolist() == [1, 3, 4]
    assert [r.id for r in decided.recommendations] == [f"clicks-0-{n}@tiny/2" for n in (0, 2, 5)]
    rows = {key: np.frombuffer(row, engine.arena.dtype)[0] for key, row in engine.arena.rows(ONE).items()}
    assert {key: int(row["clicks"]) for key, row in rows.items()} == {b"a": 2, b"b": 1, b"c": 0}
    assert rows[b"c"]["source_offset"] == 4
    assert rows[b"c"]["last_ms"] == START_MS + 4000
    assert process(engine, CLICKS).recommendations == []


def test_no_other_click_is_touched_by_it(spoiled: Path) -> None:
    """All other clicks have the same decisions and states as without it, in one batch and one by one."""
    clicks = [Click(one.user_id, one.item_id, START_MS) for one in CLICKS]
    good = [i for i, one in enumerate(clicks) if one.item_id != "i7"]
    alone = engine_of(spoiled)
    want = [run(alone, [clicks[i]], i).recommendations[0] for i in good]
    for edges in ([0, 6], range(7)):
        engine = engine_of(spoiled)
        got = [r for a, b in itertools.pairwise(edges) for r in run(engine, clicks[a:b], a).recommendations]
        assert got == want
        for key, row in alone.arena.rows(ONE).items():
            mine = np.frombuffer(engine.arena.rows(ONE)[key], engine.arena.dtype)[0]
            theirs = np.frombuffer(row, engine.arena.dtype)[0]
            kept = [name for name in engine.arena.dtype.names if name != "source_offset"]
            assert all((mine[name] == theirs[name]).all() for name in kept)


def test_a_user_who_is_forgotten_and_begins_again_with_such_a_click_has_nothing(spoiled: Path) -> None:
    """In one batch and in two: what was counted and remembered before is gone, and the failed click does not count."""
    rules = parse_triggers('[[trigger]]\nname="each"\nkind="after"\nevents=["view"]\ncooldown="90d"\n', "test")
    clicks, rows = [click("a", "i1", 0), click("a", "i7", 40 * 86_400)], []
    for size in (1, 2):
        engine = open_engine(load_model(spoiled, "cpu"), spoiled, 5, 1, 0.05, triggers=rules)
        for start in range(0, 2, size):
            run(engine, clicks[start : start + size], start)
        rows.append(engine.arena.rows(ONE)[b"a"])
    assert rows[0] == rows[1]
    row = np.frombuffer(rows[0], engine.arena.dtype)[0]
    assert not row["ahead_types"].any()
    assert not row["session_forecast"].any()
    assert not row["past"].any()
    assert not row["trigger_times_s"].any()
