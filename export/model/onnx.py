"""ONNX export: a trained network and its vocabulary -> step.onnx and score.onnx, checked against torch (parity.py).

The graphs share a file of large tensors (tables.py). Metadata of the nodes is removed, because it contains paths of the
building machine.
"""

import json
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

from export.log.log import Vocabulary
from export.measure.metrics import K
from export.model.directory import name_and_version
from export.model.graph import BATCH_MULTIPLE, SCORE_STATE, score_state
from export.model.parity import check_parity
from export.model.tables import Tables
from export.model.trace import Traces
from export.model.writable import check_writable
from export.network.network import Network, Score, Step
from stream.manifest import FORMAT

IR_VERSION = 10


def write_graphs(directory: Path, network: Network, vocabulary: Vocabulary, traces: Traces) -> None:
    """Write step.onnx and score.onnx, and check that they compute the same as the network.

    traces  of graphs that were written before; new ones are added

    Raises ConfigError if the directory already contains a model or cannot be written, ArtifactError if the graphs
    differ from the network.
    """
    check_writable(directory)
    directory.mkdir(parents=True, exist_ok=True)
    network.eval()
    state = network.state
    facts = {
        "eddy.format": str(FORMAT),
        "eddy.model": "/".join(name_and_version(directory)),
        "eddy.cell": network.cell.name,
        "eddy.items": str(network.sizes.items),
        "eddy.event_types": json.dumps(list(vocabulary.event_types)),
        "eddy.gap_edges_ms": json.dumps(list(vocabulary.gap_edges_ms)),
    }
    ids = tuple(torch.zeros(2 * BATCH_MULTIPLE, dtype=torch.int64) for _ in range(3))
    names = [part.name for part in state]
    tables = Tables(directory)
    score = traces.graph(
        Score(network),
        (*score_state(network.zero_state(2 * BATCH_MULTIPLE)), torch.tensor([min(K, network.sizes.items)])),
        [*SCORE_STATE, "k"],
        ["items", "log_probs", "event_probs"],
    )
    _write(score, directory / "score.onnx", facts, tables)  # first: its item rows begin with those of step.onnx
    step = traces.graph(
        Step(network),
        (*ids, *network.zero_state(2 * BATCH_MULTIPLE)),
        ["item", "event_type", "gap", *names],
        ["surprise", *(f"{name}_out" for name in names)],
    )
    _write(step, directory / "step.onnx", facts, tables)
    check_parity(directory, network)


def _write(graph: ir.Model, path: Path, facts: dict[str, str], tables: Tables) -> None:
    """Write one graph: float32, large tensors in `tables`, no paths of the building machine."""
    tables.move(graph.graph)
    model = ir.to_proto(graph)
    _strip(model.graph)
    model.doc_string = model.graph.doc_string = ""
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    for key, value in sorted(facts.items()):
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(path)  # of the file, so that it finds the tables


def _strip(graph: onnx.GraphProto) -> None:
    """Remove metadata and doc strings from all parts of the graph, and the inferred shapes of inner values."""
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")
    graph.ClearField("value_info")
