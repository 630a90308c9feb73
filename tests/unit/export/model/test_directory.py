"""The properties of a model directory that the worker relies on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from export.cells.names import CELLS
from export.dataset.cooccurrence import NEIGHBOURS, Counted, Neighbours
from export.log.log import GAP_EDGES_MS, Vocabulary
from export.model.graph import CLICK, ClickGraphs, open_graph
from export.model.onnx import write_graphs
from export.model.parity import check_ahead, check_parity
from export.model.trace import Traces
from export.model.untrained import untrained_head, write_untrained
from export.network.mixture import AGES, Mixture
from export.network.network import Network, Sizes
from export.network.surprise import SurpriseHead, balanced_clusters, cluster_count
from export.writable import check_writable
from stream.ahead.counters import MOST_TYPES, counter_fields
from stream.detect.behaviour import BehaviourDetector
from stream.errors import ArtifactError, ConfigError
from stream.manifest import Ahead, read_manifest
from stream.past.clicks import PAST
from stream.population.judge import Judge
from stream.population.watch import Population
from stream.sessions.track import session_fields
from stream.sessions.unusual import ENDING
from stream.state.row import row_dtype
from stream.triggers.memory import MEMORY
from stream.worker.served import RECENT_ITEMS
from tests.conftest import EVENT_TYPES, ITEMS
from tests.docs.blocks import ROOT


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "shop" / "7"
    write_untrained(path, ITEMS, EVENT_TYPES, hidden=16)
    return path


def small_mixture(seed: int = 0) -> Mixture:
    """Random neighbours and open gates."""
    rng = np.random.default_rng(seed)
    shares = np.pad(rng.dirichlet(np.ones(NEIGHBOURS), (2, len(ITEMS))) * 0.9, [(0, 0), (1, 1), (0, 0)])
    found = rng.integers(0, len(ITEMS), (2, len(ITEMS) + 2, NEIGHBOURS))
    total = np.ones(len(ITEMS) + 2, np.float32)
    tables = [Neighbours(i.astype(np.int32), s.astype(np.float32), total) for i, s in zip(found, shares, strict=True)]
    mixture = Mixture(Counted(*tables, rng.integers(1, 99, len(ITEMS)).astype(float)))
    mixture.gates = torch.randn(mixture.gates.shape) - 2
    return mixture


def small_network(seed: int = 0, cell: str = "lstm") -> Network:
    torch.manual_seed(seed)
    network = Network(Sizes(len(ITEMS), len(EVENT_TYPES), len(GAP_EDGES_MS) + 2, 16, cell))
    rows, bias = network.item_rows[:-1], network.item_bias[:-1]
    clusters = balanced_clusters(rows.detach().numpy(), cluster_count(len(ITEMS)), seed)
    network.surprise = SurpriseHead(clusters, rows, bias, new_items=5)
    network.mixture = small_mixture(seed)
    return network


def test_a_written_directory_is_read_back(directory: Path) -> None:
    """The worker accepts a directory that the conversion wrote; its name comes from the path."""
    manifest = read_manifest(directory)
    assert (manifest.label, manifest.items, manifest.event_types) == ("shop/7", 50, tuple(EVENT_TYPES))
    assert json.loads((directory / "items.json").read_text()) == ITEMS
    assert [part.shape for part in manifest.state] == [(16,), (16,), (AGES,), (AGES,)]
    detector = BehaviourDetector.load(directory, manifest)
    assert detector.behaviour.combined.size == 15_000


@pytest.mark.parametrize(("remembered", "size"), [(8, 1912), (12, 1944), (16, 1976), (24, 2040)])
def test_a_row_is_as_small_as_the_documents_say(directory: Path, remembered: int, size: int) -> None:
    """docs/training.md has the bytes of a row for each number of remembered items."""
    manifest = read_manifest(directory)
    judge = Judge(BehaviourDetector.load(directory, manifest), Population(50, 3), 0.0001)
    network = Network(Sizes(3, 1, 12, 128))
    network.mixture = Mixture(small_mixture().counted, remembered)
    kept = (*judge.row_fields, *session_fields(4, None), PAST, *MEMORY)
    assert row_dtype(network.state, RECENT_ITEMS, kept).itemsize == size
    assert f"{size:,}" in (ROOT / "docs" / "training.md").read_text()
    assert row_dtype(network.state, RECENT_ITEMS, (*kept, *ENDING)).itemsize == size + 24
    ahead = (*judge.row_fields, *session_fields(4, None, True), *counter_fields(4), PAST, *MEMORY)
    assert row_dtype(network.state, RECENT_ITEMS, ahead).itemsize == size + 40


def test_k_is_chosen_at_run_time(directory: Path) -> None:
    """One graph serves any k up to the catalogue; equal scores rank the more popular item first."""
    score = open_graph(directory / "score.onnx")
    for k in (1, 20, 50):
        new = {p.name: np.zeros((4, *p.shape), p.dtype) for p in read_manifest(directory).state if p.name != "c"}
        items, log_probs = score.run(None, {**new, "k": np.array([k])})
        np.testing.assert_array_equal(items, np.tile(np.arange(k), (4, 1)))
        assert log_probs.shape == (4, k)


def test_surprise_is_a_normalised_likelihood() -> None:
    """exp(-surprise) over all known items, plus the unknown's whole share, sums to one."""
    network = small_network()
    out = torch.randn(1, 16).expand(51, 16)
    with torch.no_grad():
        probability = network.surprise(torch.arange(51), out).double()
    total = probability[:50].sum() + 5 * probability[50]
    assert total.item() == pytest.approx(1.0, abs=1e-5)


def test_the_mixture_is_a_distribution_and_the_surprise_is_its_own() -> None:
    """For any recent items, the list's probabilities sum to one, and -log of an item's probability is its surprise."""
    network, rng = small_network(), np.random.default_rng(1)
    last = torch.from_numpy(rng.integers(0, len(ITEMS) + 2, (40, AGES)).astype(np.int32))
    last[:10, 3:] = 0
    visit = torch.from_numpy(rng.integers(0, 4, (40, AGES)).astype(np.int32)).cummin(dim=1).values * (last > 0)
    out = torch.randn(40, 16)
    log_probs = network.log_probs(out, last, visit).detach()
    np.testing.assert_allclose(log_probs.exp().sum(1), 1, atol=1e-5)
    for item in range(0, len(ITEMS), 7):
        clicked = torch.full((40,), item)
        own = torch.softmax(network.logits(out), dim=1)[:, [item]].detach()
        torch.testing.assert_close(network.mixture.surprise(own, clicked, last, visit), -log_probs[:, item])


@pytest.mark.parametrize(("items", "count"), [(1, 1), (2, 2), (7, 3), (90, 22), (1000, 126)])
def test_clusters_are_balanced(items: int, count: int) -> None:
    """Blocks are dense: no cluster is empty, and sizes differ by a few at most."""
    rows = np.random.default_rng(0).normal(size=(items, 4)).astype(np.float32)
    sizes = np.bincount(balanced_clusters(rows, count, seed=0), minlength=count)
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 2


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_a_graph_of_other_weights_fails_the_gate(tmp_path: Path, cell: str) -> None:
    """A graph that disagrees with the network is refused, and no servable directory is left."""
    vocabulary = Vocabulary(ITEMS, tuple(EVENT_TYPES), GAP_EDGES_MS)
    network, other = small_network(0, cell), small_network(0, cell)
    write_graphs(tmp_path / "m" / "1", network, vocabulary, Traces())
    with torch.no_grad():
        next(other.cell.parameters()).add_(1e-3)
    with pytest.raises(ArtifactError, match="differs by"):
        check_parity(tmp_path / "m" / "1", other)
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        read_manifest(tmp_path / "m" / "1")


def test_a_head_of_other_weights_fails_the_gate(ahead_dir: Path) -> None:
    """ahead.onnx is compared with its module, so that another head is no model."""
    check_ahead(ahead_dir, untrained_head(len(EVENT_TYPES), 0))
    with pytest.raises(ArtifactError, match=r"a probability of ahead.onnx differs by"):
        check_ahead(ahead_dir, untrained_head(len(EVENT_TYPES), 1))


def test_a_head_that_is_sure_gives_probabilities(tmp_path: Path) -> None:
    """Many event types and random weights: some hazards are so large that a sigmoid in float32 is 0."""
    names = [f"type-{i}" for i in range(MOST_TYPES)]
    write_untrained(tmp_path / "sure" / "1", ITEMS, names, hidden=16, ahead=Ahead(True, 0, {}, names[1]))


def test_an_impossible_click_has_a_finite_surprise(tmp_path: Path) -> None:
    """Not minus the logarithm of 0, which would make a dead letter of the click."""
    network, directory = small_network(), tmp_path / "m" / "1"
    network.surprise.biases[network.surprise.cluster[3], network.surprise.slot[3]] = -1e4
    write_graphs(directory, network, Vocabulary(ITEMS, tuple(EVENT_TYPES), GAP_EDGES_MS), Traces())
    columns = {name: np.full(4, 3 if name == "item" else 0) for name in CLICK}
    state = {part.name: np.zeros((4, *part.shape), part.dtype) for part in network.state}
    surprise, _, _ = ClickGraphs(directory)(columns, state)
    assert (np.isfinite(surprise) & (surprise > 60)).all()


def test_a_relative_directory_has_the_same_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph and the manifest name the model alike, also where the path is only its version."""
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path / "shop")
    manifest = write_untrained(Path("3"), ITEMS, EVENT_TYPES, hidden=16)
    facts = open_graph(Path("3") / "step.onnx").get_modelmeta().custom_metadata_map
    assert facts["eddy.model"] == manifest.label == "shop/3"


def test_a_version_never_changes(directory: Path) -> None:
    """Writing over an existing model is refused."""
    with pytest.raises(ConfigError, match="already contains a model"):
        write_untrained(directory, ITEMS, EVENT_TYPES)


def test_graphs_have_no_paths_of_the_building_machine(directory: Path) -> None:
    """No path of the machine that exported them is in the files."""
    for name in ("step.onnx", "surprise.onnx", "score.onnx"):
        content = (directory / name).read_bytes()
        assert b"network.py" not in content
        assert b"site-packages" not in content


@pytest.mark.parametrize("slip", ["mine", "mine/1/2"])
def test_a_model_is_not_written_above_or_into_another(model_dir: Path, tmp_path: Path, slip: str) -> None:
    """`--out models/mine` beside models/mine/1 would be a model named models, of the version mine."""
    shutil.copytree(model_dir, tmp_path / "mine" / "1")
    with pytest.raises(ConfigError, match=f"{tmp_path}/mine/1 is a model"):
        check_writable(tmp_path / slip)
    check_writable(tmp_path / "mine" / "2")


def test_the_way_to_make_a_missing_model_is_one_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`eddy train --out mine` is refused, so it is no advice."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match="--out mine/1`"):
        read_manifest(Path("mine"))
