"""Torch on whole sequences = torch steps = ONNX steps = the engine, on every click of a log."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.graph_parity import differences
from export.cells.names import CELLS
from export.log.log import Log, Vocabulary, read_log
from export.model.parity import TOLERANCE
from export.model.untrained import write_untrained
from export.network.weights import FILE, load_network
from export.pipeline import train_model
from export.train.holdout import vocabulary_of
from export.train.settings import TrainSettings
from stream.demo.shop import build_shop
from stream.demo.simulate import simulate, write_log
from stream.errors import ArtifactError
from stream.manifest import read_manifest, sha256
from tests.conftest import EVENT_TYPES, ITEMS
from tests.unit.export.train.test_trainer import Silent

pytestmark = pytest.mark.usefixtures("hurried")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    """1,500 clicks of the simulated shop: users interleaved, sessions, three event types, bots, items clicked again."""
    path = tmp_path_factory.mktemp("log") / "clicks.csv"
    write_log(islice(simulate(build_shop(), users=60, seed=3, start_ms=1_700_000_000_000), 1_500), path)
    read = read_log(path)
    again = np.random.default_rng(0).random(len(read)) < 0.1
    return replace(read, item=np.where(again, np.roll(read.item, 1), read.item))


def vocabulary(log: Log) -> Vocabulary:
    """50 items and all event types of the log but the rarest, with one that it has not: the others come as unknown."""
    items, event_types, gap_edges_ms = vocabulary_of(log)
    return Vocabulary([item for i, item in enumerate(items) if i % 7][:50], (*event_types[:-1], "return"), gap_edges_ms)


@pytest.mark.parametrize("cell", sorted(CELLS))
def test_four_ways_agree_on_every_click(tmp_path: Path, log: Log, cell: str) -> None:
    """With random weights, unknown items and event types, every way gives the same surprise and the same list."""
    known = vocabulary(log)
    write_untrained(tmp_path / "m" / "1", known.items, list(known.event_types), hidden=16, cell=cell)
    found = differences(load_network(tmp_path / "m" / "1"), log, known, tmp_path / "m" / "1")
    assert all(difference.within(TOLERANCE) for way, difference in found.items()), found


def test_four_ways_agree_on_a_trained_model(tmp_path: Path, log: Log) -> None:
    """The same after a training, whose logits are larger than random ones."""
    log = replace(log, item=log.item % len(ITEMS), items=log.items[: len(ITEMS)])
    settings = TrainSettings(hidden=16, epochs=4, tokens=128, negatives=128, rate=1e-2)
    train_model(tmp_path / "m" / "1", log, settings, Silent())
    known = vocabulary_of(log)
    found = differences(load_network(tmp_path / "m" / "1"), log, known, tmp_path / "m" / "1")
    assert all(difference.within(TOLERANCE) for way, difference in found.items()), found


def test_a_network_with_different_weights_fails_the_check(tmp_path: Path, log: Log) -> None:
    """If one bias of the cell differs by a thousandth, neither graphs nor engine agree with the network."""
    known = vocabulary(log)
    write_untrained(tmp_path / "m" / "1", known.items, list(known.event_types), hidden=16)
    network = load_network(tmp_path / "m" / "1")
    with torch.no_grad():
        network.cell.get_parameter("lstm.bias_hh_l0")[0] += 1e-3
    found = differences(network, log, known, tmp_path / "m" / "1")
    assert [way for way, difference in found.items() if difference.within(TOLERANCE)] == ["torch steps"]


def test_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    """The weights that are read equal those that were saved, and the worker does not need this file."""
    directory = tmp_path / "m" / "1"
    write_untrained(directory, ITEMS, EVENT_TYPES, hidden=16, cell="gru")
    network = load_network(directory)
    with np.load(directory / FILE) as saved:
        for name, value in network.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), saved[name])
    (directory / FILE).unlink()
    assert read_manifest(directory).cell == "gru"
    with pytest.raises(ArtifactError, match=r"no weights\.npz; copy the file too"):
        load_network(directory)


def test_weights_of_an_earlier_format_are_refused(tmp_path: Path) -> None:
    """A training cannot start from a model that knew no counts: one line says what to do."""
    directory = tmp_path / "m" / "1"
    write_untrained(directory, ITEMS, EVENT_TYPES, hidden=16)
    with np.load(directory / FILE) as file:
        weights = dict(file)
    np.savez(directory / FILE, **{**weights, "mixture.gates": weights["mixture.gates"][:, :-2]})
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["training"][FILE] = sha256(directory / FILE)
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="does not match the network of this Eddy version; train the model again"):
        load_network(directory)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    """A weights file that does not belong to the graphs is an error of one line."""
    for seed in (0, 1):
        write_untrained(tmp_path / "m" / str(seed), ITEMS, EVENT_TYPES, hidden=16, seed=seed)
    (tmp_path / "m" / "0" / FILE).write_bytes((tmp_path / "m" / "1" / FILE).read_bytes())
    with pytest.raises(ArtifactError, match="not the file that was written with the model"):
        load_network(tmp_path / "m" / "0")
