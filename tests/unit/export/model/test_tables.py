"""The large tensors of the graphs are in tables.bin, each content once."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export.model import tables
from export.model.tables import ALIGNMENT, FILE, SMALLEST, Tables
from export.model.untrained import write_untrained
from stream.errors import ArtifactError
from stream.manifest import GRAPHS, read_manifest
from stream.model.external import external_files
from stream.model.runtime import load_model

ROWS = np.random.default_rng(0).normal(size=(SMALLEST // 16, 8)).astype(np.float32)  # twice the smallest


def written(directory: Path, name: str, file: Tables, **tensors: np.ndarray) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    """Write a graph with these initializers, read it back with onnx, and return what it has."""
    values = [ir.Value(name=key, const_value=ir.tensor(value)) for key, value in tensors.items()]
    graph = ir.Graph([], [], nodes=[], initializers=values, opset_imports={"": 20}, name="g")
    file.move(graph)
    (directory / name).write_bytes(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString())
    model = onnx.load(directory / name)
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}


def test_two_graphs_share_what_is_equal_or_begins_equally(tmp_path: Path) -> None:
    """Both graphs read their own tensors back, and the file has each content once, at the beginning of a page."""
    shared = Tables(tmp_path)
    other, small = ROWS[::-1].copy(), np.arange(5)
    first = {"rows": ROWS, "small": small}
    second = {"same": ROWS, "shorter": ROWS[: len(ROWS) // 2], "other": other}
    for name, tensors in (("first.onnx", first), ("second.onnx", second)):
        read = written(tmp_path, name, shared, **tensors)
        for key, value in tensors.items():
            np.testing.assert_array_equal(read[key], value)
            assert read[key].dtype == value.dtype
        assert external_files(tmp_path / name) == {FILE}
    assert ROWS.nbytes % ALIGNMENT == 0
    assert (tmp_path / FILE).stat().st_size == 2 * ROWS.nbytes


def test_small_tensors_stay_in_the_graph(tmp_path: Path) -> None:
    """A graph without large tensors needs no second file."""
    written(tmp_path, "small.onnx", Tables(tmp_path), small=np.zeros(SMALLEST - 1, np.int8))
    assert os.listdir(tmp_path) == ["small.onnx"]


def test_the_item_rows_of_a_model_are_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """step.onnx has the item rows of score.onnx, and surprise.onnx its neighbours; a changed table is refused."""
    directory = tmp_path / "shop" / "1"
    monkeypatch.setattr(tables, "SMALLEST", 1_024)  # for the model that other tests trace too
    write_untrained(directory, [f"i{n}" for n in range(50)], ["view", "cart", "purchase"], hidden=16)
    places = {}
    for graph in GRAPHS:
        proto = onnx.load(directory / graph, load_external_data=False)
        found = {one.name: {e.key: e.value for e in one.external_data} for one in proto.graph.initializer}
        places[graph] = {name.split(".")[-1]: place["offset"] for name, place in found.items() if place}
    assert places["score.onnx"]["rows"] == places["step.onnx"]["item_rows"]
    assert places["score.onnx"]["near_share"] == places["surprise.onnx"]["near_share"]
    assert FILE in read_manifest(directory).files
    with (directory / FILE).open("r+b") as file:
        file.write(b"\x01")
    with pytest.raises(ArtifactError, match=f"{FILE} is not the file that was written"):
        load_model(directory, "cpu")
