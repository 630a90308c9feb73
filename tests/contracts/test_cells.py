"""What training, the graphs and the worker rely on in every cell of `eddy train --network`.

A cell has two forms, `sequence` for training and `step` for serving, and a third one in step.onnx: all three must be
the same function, and no form may depend on how the clicks are cut into windows or who else is in the batch.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.cells.cell import Cell
from export.cells.names import CELLS
from export.cells.window import WINDOW, WindowCell
from export.log.log import GAP_EDGES_MS, Vocabulary
from export.model import trace
from export.model.graph import BATCH_MULTIPLE, SCORE_STATE, ClickGraphs, open_graph, score_state
from export.model.onnx import write_graphs
from export.model.untrained import write_untrained
from export.network.mixture import AGES
from export.network.network import Network, Step, Surprise
from export.network.weights import load_network
from stream.manifest import Manifest, read_manifest
from stream.model.runtime import load_model
from tests.conftest import EVENT_TYPES, ITEMS
from tests.graphs import KeptTraces

HIDDEN, USERS, CLICKS = 16, 5, 12
REMEMBERED = dict.fromkeys(CELLS, AGES) | {"lstm": 24}
"""Of the LSTM more items than have sources by age, as in test_parity.py: tests with equal sizes share a trace."""
HIGHEST = {"window_types": len(EVENT_TYPES) + 1, "window_gaps": len(GAP_EDGES_MS) + 2}
"""Tensors of indices that have fewer values than AGES."""
EACH_CELL = pytest.mark.parametrize("name", sorted(CELLS))


@pytest.fixture(scope="module", params=sorted(CELLS))
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory of each cell, its weights random."""
    path = tmp_path_factory.mktemp("models") / str(request.param) / "1"
    write_untrained(path, ITEMS, EVENT_TYPES, hidden=HIDDEN, cell=request.param, remembered=REMEMBERED[request.param])
    return path


def cell_of(name: str, seed: int = 0) -> Cell:
    torch.manual_seed(seed)
    return CELLS[name](HIDDEN).eval()


def drawn_state(cell: Cell, users: int) -> tuple[torch.Tensor, ...]:
    """States as in the middle of a sequence: within (-1, 1)."""
    return tuple(torch.tanh(torch.randn(users, *part.shape)) for part in cell.state)


def states(manifest: Manifest, users: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Random states of users who are in the middle of a session."""
    drawn: dict[str, NDArray[Any]] = {}
    for part in manifest.state:
        if part.dtype == "float32":
            drawn[part.name] = rng.normal(size=(users, *part.shape)).astype(np.float32)
        else:
            drawn[part.name] = rng.integers(0, HIGHEST.get(part.name, AGES), (users, *part.shape)).astype(part.dtype)
    return drawn


def columns(network: Network, rng: np.random.Generator, *shape: int) -> dict[str, NDArray[np.int64]]:
    """Random clicks, unknown items and event types among them."""
    sizes = network.sizes
    highest = {"item": sizes.items + 1, "event_type": sizes.event_types + 1, "gap": sizes.gaps}
    return {name: rng.integers(0, end, shape) for name, end in highest.items()}


def same(ours: tuple[torch.Tensor, ...], theirs: tuple[torch.Tensor, ...]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in sorted(CELLS) if issubclass(CELLS[name], WindowCell)])
@torch.no_grad()
def test_a_window_forgets_older_clicks_and_counts_the_first_of_its_own(name: str) -> None:
    """h is that of the last R clicks, whatever was before, and their order and the oldest of them matter."""
    cell = cell_of(name)
    for weight in cell.parameters():  # before a training, attention has no order of its positions
        weight.add_(torch.randn_like(weight) * 0.1)
    x, others = torch.randn(USERS, WINDOW, HIDDEN), torch.randn(USERS, 3, HIDDEN)

    def last(x: torch.Tensor) -> torch.Tensor:
        return cell.sequence(x, cell.zero_state(USERS))[0][:, -1]

    same((last(torch.cat([others, x], dim=1)),), (last(x),))
    swapped = x[:, [1, 0, *range(2, WINDOW)]]
    for changed in (torch.cat([others[:, :1], x[:, 1:]], dim=1), swapped):
        assert (last(changed) - last(x)).abs().max() > 1e-4


@pytest.mark.parametrize("directory", ["ffn"], indirect=True)  # what a row keeps is the same for all windows
def test_a_row_keeps_the_last_clicks_of_a_window(directory: Path) -> None:
    """Oldest first: item + 1, event type and gap of the last R - 1 clicks, and zeros where there was none."""
    network, step = load_network(directory), open_graph(directory / "step.onnx")
    clicks = columns(network, np.random.default_rng(6), BATCH_MULTIPLE, WINDOW + 4)
    names = [part.name for part in network.state]
    zeros = {name: part.numpy() for name, part in zip(names, network.zero_state(BATCH_MULTIPLE), strict=True)}
    after = dict(zip(names, step.run(None, {**clicks, **zeros}), strict=True))
    kept = {"window_items": clicks["item"] + 1, "window_types": clicks["event_type"], "window_gaps": clicks["gap"]}
    for name, values in kept.items():
        np.testing.assert_array_equal(after[name][:, -1], values[:, 1 - WINDOW :])
        np.testing.assert_array_equal(after[name][:, 2, -3:], values[:, :3])
        assert not after[name][:, 2, :-3].any()


@EACH_CELL
def test_a_cell_has_its_own_name_and_declares_its_state(name: str) -> None:
    """Every part of the state has a name of its own, and a new user's is zeros of that shape and dtype."""
    cell = cell_of(name)
    assert cell.name == name
    parts = cell.state
    assert parts[0].name == "h"
    assert len({part.name for part in parts}) == len(parts)
    zeros = cell.zero_state(3)
    assert [tuple(one.shape) for one in zeros] == [(3, *part.shape) for part in parts]
    assert all(part.dtype == "float32" and one.dtype == torch.float32 for part, one in zip(parts, zeros, strict=True))
    assert not any(one.any() for one in zeros)
    assert cell.output(zeros) is zeros[0]


@EACH_CELL
@pytest.mark.parametrize("new", [True, False], ids=["new users", "known users"])
@torch.no_grad()
def test_steps_are_the_sequence(name: str, new: bool) -> None:
    """One click at a time gives the outputs and the last state of the whole sequence."""
    cell = cell_of(name)
    x = torch.randn(USERS, CLICKS, HIDDEN)
    state = cell.zero_state(USERS) if new else drawn_state(cell, USERS)
    outs, last = cell.sequence(x, state)
    for t in range(CLICKS):
        state = cell.step(x[:, t], state)
        same((cell.output(state),), (outs[:, t],))
    same(state, last)


@EACH_CELL
@pytest.mark.parametrize("length", [1, 5, CLICKS - 1])
@torch.no_grad()
def test_windows_are_the_sequence(name: str, length: int) -> None:
    """A sequence that is cut into windows gives the same outputs if the state is passed on."""
    cell = cell_of(name)
    x = torch.randn(USERS, CLICKS, HIDDEN)
    whole, last = cell.sequence(x, cell.zero_state(USERS))
    state, outs = cell.zero_state(USERS), []
    for start in range(0, CLICKS, length):
        out, state = cell.sequence(x[:, start : start + length], state)
        outs.append(out)
    same((torch.cat(outs, dim=1), *state), (whole, *last))


@EACH_CELL
@torch.no_grad()
def test_users_do_not_see_each_other(name: str) -> None:
    """A user's sequence and step are the same with other users in the batch and alone."""
    cell = cell_of(name)
    x, state = torch.randn(USERS, CLICKS, HIDDEN), drawn_state(cell, USERS)
    outs, last = cell.sequence(x, state)
    stepped = cell.step(x[:, 0], state)
    for user in range(USERS):
        row = slice(user, user + 1)
        own = tuple(part[row] for part in state)
        out, end = cell.sequence(x[row], own)
        same((out, *end), (outs[row], *(part[row] for part in last)))
        same(cell.step(x[row, 0], own), tuple(part[row] for part in stepped))


@EACH_CELL
def test_every_weight_learns_from_the_sequence_and_acts_on_the_step(name: str) -> None:
    """Every parameter is used by both forms: it has a gradient by `sequence` and one by `step`, and they are equal."""
    cell = cell_of(name)
    x, state = torch.randn(USERS, 3, HIDDEN), drawn_state(cell, USERS)
    by_sequence = torch.autograd.grad(cell.sequence(x, state)[0][:, -1].square().sum(), list(cell.parameters()))
    for t in range(3):
        state = cell.step(x[:, t], state)
    by_steps = torch.autograd.grad(cell.output(state).square().sum(), list(cell.parameters()))
    for ours, theirs in zip(by_sequence, by_steps, strict=True):
        assert ours.any()
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@EACH_CELL
@torch.no_grad()
def test_a_state_stays_bounded(name: str) -> None:
    """After thousands of clicks of a bot with the largest inputs, the state is still finite."""
    cell = cell_of(name)
    state = cell.zero_state(2)
    x = torch.tensor([[1e3] * HIDDEN, [-1e3] * HIDDEN])
    for _ in range(5_000):
        state = cell.step(x, state)
    assert all(torch.isfinite(part).all() for part in state)
    assert (cell.output(state).abs() <= 1).all()


def test_the_worker_takes_the_state_that_the_manifest_lists(directory: Path) -> None:
    """Every cell's graphs load without changes: the state is what cell and mixture declare, and lists come from its
    `h`."""
    manifest, model, cell = read_manifest(directory), load_model(directory, "cpu"), cell_of(directory.parent.name)
    assert manifest.cell == cell.name
    assert manifest.state[: len(cell.row)] == cell.row
    assert [part.name for part in manifest.state[len(cell.row) :]] == ["last_items", "visit_clicks"]
    assert model.score_inputs == model.surprise_inputs == ("h", "last_items", "visit_clicks")


@torch.no_grad()
def test_graph_steps_are_the_sequence(directory: Path) -> None:
    """The graphs, click after click, give the outputs of torch's whole sequence and the surprises of torch's module."""
    network, graphs = load_network(directory), ClickGraphs(directory)
    rng, users = np.random.default_rng(1), 4 * BATCH_MULTIPLE
    clicks = columns(network, rng, users, CLICKS)
    x = network.embed(*(torch.from_numpy(column) for column in clicks.values()))
    outs, _ = network.cell.sequence(x, network.cell.zero_state(users))
    names = [part.name for part in read_manifest(directory).state]
    torch_state = network.zero_state(users)
    onnx_state = [part.numpy() for part in torch_state]
    for t in range(CLICKS):
        now = {name: column[:, t] for name, column in clicks.items()}
        ids = {name: torch.from_numpy(column) for name, column in now.items()}
        *surprises, onnx_state = graphs(now, dict(zip(names, onnx_state, strict=True)))
        expected = Surprise(network)(*ids.values(), *score_state(torch_state))
        torch_state = Step(network)(*ids.values(), *torch_state)
        np.testing.assert_allclose(onnx_state[0], outs[:, t].numpy(), atol=1e-5)
        for ours, theirs in zip(surprises, expected, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)
        for ours, theirs in zip(onnx_state, torch_state, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_rows_are_bit_equal_whatever_batch_they_are_in(directory: Path) -> None:
    """A user's state and surprise do not depend on who else is in the wave: recovery and replay rely on it."""
    graphs, score = ClickGraphs(directory), open_graph(directory / "score.onnx")
    rng = np.random.default_rng(3)
    clicks, state = columns(load_network(directory), rng, 64), states(read_manifest(directory), 64, rng)

    def results(rows: NDArray[np.intp]) -> list[NDArray[Any]]:
        *own, after = graphs(*({name: column[rows] for name, column in part.items()} for part in (clicks, state)))
        return [*own, *after]

    whole, order = results(np.arange(64)), rng.permutation(64)
    for size in (4, 8, 20):
        for start in range(0, 64, size):
            rows = order[start : start + size]
            for a, b in zip(results(rows), whole, strict=True):
                np.testing.assert_array_equal(a, b[rows])
    k = np.array([7])
    read = {name: state[name] for name in SCORE_STATE}
    ranked = score.run(None, {**read, "k": k})
    for start in range(0, 64, 4):
        some = {name: value[start : start + 4] for name, value in read.items()}
        for a, b in zip(score.run(None, {**some, "k": k}), ranked, strict=True):
            np.testing.assert_array_equal(a, b[start : start + 4])


def test_many_clicks_in_one_call_are_bit_equal_to_one_call_for_each(directory: Path) -> None:
    """step.onnx on a sequence gives the states of single steps, whoever else is in the call and however long it is."""
    step, names = open_graph(directory / "step.onnx"), [part.name for part in read_manifest(directory).state]
    rng, users = np.random.default_rng(5), 12
    clicks, new = columns(load_network(directory), rng, users, 40), states(read_manifest(directory), users, rng)
    together, state = step.run(None, {**clicks, **new}), new
    for click in range(40):
        alone = step.run(None, {**{name: column[:, [click]] for name, column in clicks.items()}, **state})
        for ours, theirs in zip(alone, together, strict=True):
            np.testing.assert_array_equal(ours[:, 0], theirs[:, click])
        state = {name: value[:, 0] for name, value in zip(names, alone, strict=True)}
    some = slice(4, 8)
    feed = {name: column[some, :9] for name, column in clicks.items()} | {n: value[some] for n, value in new.items()}
    for ours, theirs in zip(step.run(None, feed), together, strict=True):
        np.testing.assert_array_equal(ours, theirs[some, :9])


@pytest.mark.parametrize("directory", ["lstm"], indirect=True)  # one cell: the trace is shared in the same way for all
def test_a_shared_trace_equals_a_new_trace(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network in a trace of other weights computes what it does in a trace of its own, bit by bit.

    A network that was read from a file has the structure of the one that was written, so it needs no trace of its own.
    """
    kept = trace.trace
    assert isinstance(kept, KeptTraces)
    new_trace = kept.trace
    network, rng = load_network(directory), np.random.default_rng(4)
    with torch.no_grad():
        for weight in network.cell.parameters():
            weight.mul_(1.1)
    vocabulary = Vocabulary(ITEMS, tuple(EVENT_TYPES), GAP_EDGES_MS)
    monkeypatch.setattr(kept, "trace", None)  # a call fails
    write_graphs(tmp_path / "shared" / "1", network, vocabulary, trace.Traces())
    monkeypatch.setattr(trace, "trace", new_trace)
    write_graphs(tmp_path / "own" / "1", network, vocabulary, trace.Traces())
    state = states(read_manifest(directory), 32, rng)
    remembered = {name: state[name] for name in SCORE_STATE}
    clicks = columns(network, rng, 32, 3)
    feeds = {
        "step.onnx": {**clicks, **state},
        "surprise.onnx": {**{name: column[:, 0] for name, column in clicks.items()}, **remembered},
        "score.onnx": {**remembered, "k": np.array([20])},
    }
    for file, feed in feeds.items():
        ours, theirs = (open_graph(tmp_path / way / "1" / file).run(None, feed) for way in ("shared", "own"))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a, b)
