"""A click on which the engine raises an error is set aside alone, and a model that fails on everything is an error."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stream.engine import isolate
from stream.engine.engine import Engine
from stream.engine.requests import Request
from stream.errors import ArtifactError
from stream.events import Click, Partition
from stream.model.probe import batch_invariant
from stream.model.runtime import load_model
from stream.population.quiet import Quiet
from stream.worker.served import open_engine, recommendations
from tests.changed_model import save_graph
from tests.decide import NOW_MS, origins

START_MS = 1_700_000_000_000


def poison(model_dir: Path, directory: Path, first: int) -> Path:
    """A copy of the model whose surprise.onnx raises an error on an item with an index of `first` or more."""
    shutil.copytree(model_dir, directory)
    model = onnx.load(directory / "surprise.onnx")
    graph = model.graph
    for node in graph.node:
        for i, name in enumerate(node.output):
            if name == "surprise":
                node.output[i] = "clean"
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.zeros(first, np.float32), "poison.table"),
            numpy_helper.from_array(np.array(50, np.int64), "poison.unknown"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Equal", ["item", "poison.unknown"], ["poison.is_unknown"]),
            helper.make_node("Cast", ["poison.is_unknown"], ["poison.as_integer"], to=TensorProto.INT64),
            helper.make_node("Mul", ["poison.as_integer", "poison.unknown"], ["poison.off"]),
            helper.make_node("Sub", ["item", "poison.off"], ["poison.index"]),  # the unknown item is index 0
            helper.make_node("Gather", ["poison.table", "poison.index"], ["poison.zero"]),
            helper.make_node("Add", ["clean", "poison.zero"], ["surprise"]),
        ]
    )
    save_graph(directory, "surprise.onnx", model)
    return directory


def engine_of(directory: Path) -> Engine:
    return open_engine(load_model(directory, "cpu"), directory, 5, 1, 0.05)


@pytest.fixture
def good_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe draws random items; on these models it would draw a poisoned one, too."""
    monkeypatch.setattr("stream.engine.isolate.batch_invariant", lambda model, k: True)


def isolated(engine: Engine, clicks: list[Click], start: int = 0) -> tuple[list[int], list[object]]:
    """The positions that are set aside, and the decisions on the others; the rows are committed."""
    read = origins(len(clicks), start)
    cycle, broken = isolate.process(engine, engine.encoder.columns(clicks, read), NOW_MS)
    engine.commit(cycle)
    return sorted(broken), list(recommendations(engine, clicks, read, cycle))


def click(user: int, item: int) -> Click:
    return Click(f"u{user}", f"i{item}", START_MS)


@pytest.mark.usefixtures("good_probe")
def test_only_the_guilty_clicks_are_set_aside(model_dir: Path, tmp_path: Path) -> None:
    """The others are decided as if the guilty ones had not come, also those of the same user."""
    rng = np.random.default_rng(0)
    clicks = [click(int(rng.integers(30)), int(rng.integers(48))) for _ in range(200)]
    for at in (0, 57, 58, 199):
        clicks[at] = click(int(rng.integers(30)), 49)
    broken, decided = isolated(engine_of(poison(model_dir, tmp_path / "bad" / "1", 49)), clicks)
    assert broken == [0, 57, 58, 199]
    engine, want = engine_of(model_dir), []
    for offset, one in enumerate(clicks):
        if offset not in broken:
            want += isolated(engine, [one], offset)[1]
    assert [(d.id, d.items, d.surprise) for d in decided] == [(w.id, w.items, w.surprise) for w in want]


@pytest.mark.usefixtures("good_probe")
def test_a_request_for_quiet_counts_where_all_clicks_of_its_user_are_set_aside(model_dir: Path, tmp_path: Path) -> None:
    """It changes the row that is there, and makes none for a user who has none, or was forgotten before it."""
    engine = engine_of(poison(model_dir, tmp_path / "bad" / "1", 49))
    clicks_0 = Partition("clicks", 0)
    isolated(engine, [click(0, 1), click(2, 1)])
    quiet = Quiet(2_000_000_000, 0)
    requests = [Request(0, (clicks_0, b"u2"))]
    requests += [Request(1, (clicks_0, user), quiet) for user in (b"u0", b"u1", b"u2")]
    clicks = [click(3, 1), click(0, 49), click(1, 49), click(2, 49)]
    columns = engine.encoder.columns(clicks, origins(len(clicks), 2), requests)
    cycle, broken = isolate.process(engine, columns, NOW_MS)
    assert sorted(broken) == [1, 2, 3]
    changed = {key: row for _, key, row in cycle.staged.changelog}
    assert changed.keys() == {b"u3", b"u0", b"u2"}
    assert changed[b"u2"] is None
    engine.commit(cycle)
    assert engine.arena.gather(engine.arena.find([(clicks_0, b"u0")]).slots)["quiet_until_s"].tolist() == [
        quiet.until_s
    ]


@pytest.mark.usefixtures("good_probe")
def test_the_work_for_a_user_with_many_guilty_clicks_is_bounded(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bot that repeats one poisoned item costs a bounded number of runs, and other users nothing."""
    engine = engine_of(poison(model_dir, tmp_path / "bad" / "1", 49))
    runs: list[int] = []
    process = Engine.process

    def counted(self: Engine, *arguments: object) -> object:
        runs.append(1)
        return process(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Engine, "process", counted)
    clicks = [click(0, 49 if n % 3 else 1) for n in range(300)] + [click(user, 2) for user in range(1, 500)]
    broken, decided = isolated(engine, clicks)
    assert set(range(1, 300, 3)) <= set(broken) <= set(range(300))
    assert len(decided) == len(clicks) - len(broken)
    assert len(runs) < 120


def test_a_model_that_fails_on_a_probe_too_ends_the_worker(model_dir: Path, tmp_path: Path) -> None:
    """It raises an error with one line and makes no dead letters."""
    engine = engine_of(poison(model_dir, tmp_path / "bad" / "1", 1))
    with pytest.raises(ArtifactError, match="fails on most clicks, also on good ones"):
        isolated(engine, [click(0, 30)])


def test_a_model_that_fails_on_every_run_does_not_start(model_dir: Path, tmp_path: Path) -> None:
    """The worker's check at the start has one line for it, and not a bug in Eddy."""
    engine = engine_of(poison(model_dir, tmp_path / "bad" / "1", 1))
    with pytest.raises(ArtifactError, match=r"onnxruntime fails on a run .*train it again"):
        batch_invariant(engine.model, 5)


@pytest.mark.usefixtures("good_probe")
def test_a_model_that_fails_on_most_clicks_of_a_batch_ends_the_worker(model_dir: Path, tmp_path: Path) -> None:
    """Also if the probe passes: a topic of dead letters would be no help."""
    engine = engine_of(poison(model_dir, tmp_path / "bad" / "1", 10))
    with pytest.raises(ArtifactError, match="fails on most clicks"):
        isolated(engine, [click(n, n % 40) for n in range(100)])


@pytest.mark.usefixtures("good_probe")
def test_an_error_of_no_single_click_is_raised(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the clicks fail only together, such as for lack of memory on a GPU, none of them is to blame."""
    engine = engine_of(model_dir)
    step = type(engine.model).step

    def no_room(self: object, item: np.ndarray, *arguments: object) -> object:
        if item.size > 30:
            raise RuntimeError("Failed to allocate memory")
        return step(self, item, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(engine.model), "step", no_room)
    with pytest.raises(RuntimeError, match="Failed to allocate"):
        isolated(engine, [click(n, 1) for n in range(40)])
    assert engine.arena.rows(Partition("clicks", 0)) == {}
