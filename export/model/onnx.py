"""ONNX export: a trained network and its vocabulary -> the graphs of a model directory, checked against torch.

The graphs share a file of large tensors (tables.py). Metadata of the nodes is removed, because it contains paths of the
building machine.
"""

import json
from pathlib import Path

import onnx
import onnx_ir as ir
import torch

from export.ahead.network import AheadHead
from export.log.log import Vocabulary
from export.measure.metrics import K
from export.model.directory import name_and_version
from export.model.graph import BATCH_MULTIPLE, CLICK, SCORE_STATE, score_state
from export.model.parity import check_ahead, check_parity, check_shortlist
from export.model.tables import Tables
from export.model.trace import Traces
from export.network.network import Network, Step, Surprise
from export.ranking.exact import Score
from export.ranking.shortlist import ranking_of
from export.writable import check_writable
from stream.manifest import AHEAD, FORMAT, SHORTLIST, Shortlist
from stream.model.ahead import INPUTS, MULTIPLE, OUTPUT

IR_VERSION = 10


def write_graphs(
    directory: Path,
    network: Network,
    vocabulary: Vocabulary,
    traces: Traces,
    shortlist: Shortlist | None = None,
    ahead: AheadHead | None = None,
) -> None:
    """Write step.onnx, surprise.onnx and score.onnx, and check that they compute the same as the network.

    traces     of graphs that were written before; new ones are added
    shortlist  write shortlist.onnx for it too, and compare it with its torch module; None = lists are exact
    ahead      write ahead.onnx for it too, and compare it with its torch module

    Raises ConfigError if the directory already contains a model or cannot be written, ArtifactError if the graphs
    differ from the network.
    """
    check_writable(directory)
    directory.mkdir(parents=True, exist_ok=True)
    network.eval()
    facts = {
        "eddy.format": str(FORMAT),
        "eddy.model": "/".join(name_and_version(directory)),
        "eddy.cell": network.cell.name,
        "eddy.items": str(network.sizes.items),
        "eddy.event_types": json.dumps(list(vocabulary.event_types)),
        "eddy.gap_edges_ms": json.dumps(list(vocabulary.gap_edges_ms)),
    }
    zeros = network.zero_state(2 * BATCH_MULTIPLE)
    click = _example_click()
    tables = Tables(directory)
    example = *score_state(zeros), torch.tensor([min(K, network.sizes.items)])
    names_of_lists = [*SCORE_STATE, "k"], ["items", "log_probs"]
    score = traces.graph(Score(network), example, *names_of_lists)
    # First: its item rows are longer, and begin with those of step.onnx.
    _write(_proto(score, tables), directory / "score.onnx", facts)
    _write(step_graph(network, traces, tables), directory / "step.onnx", facts)
    surprise = traces.graph(
        Surprise(network),
        (*click, *score_state(zeros)),
        [*CLICK, *SCORE_STATE],
        ["surprise", "event_surprise"],
    )
    _write(_proto(surprise, tables), directory / "surprise.onnx", facts)
    check_parity(directory, network)
    if shortlist is not None:
        ranking = ranking_of(network, shortlist.ranked).eval()
        _write(_proto(traces.graph(ranking, example, *names_of_lists), tables), directory / SHORTLIST, facts)
        check_shortlist(directory, network, ranking)
    if ahead is not None:
        clicks = torch.ones(2 * MULTIPLE, ahead.counters), torch.zeros(2 * MULTIPLE, dtype=torch.int64)
        _write(_proto(traces.graph(ahead, clicks, [*INPUTS], [OUTPUT]), tables), directory / AHEAD, facts)
        check_ahead(directory, ahead)


def step_graph(network: Network, traces: Traces, tables: Tables) -> onnx.ModelProto:
    """The graph of step.onnx, with its large tensors in `tables`."""
    names = [part.name for part in network.state]
    one_click = traces.graph(
        Step(network),
        (*_example_click(), *network.zero_state(2 * BATCH_MULTIPLE)),
        [*(f"{name}_now" for name in CLICK), *(f"{name}_before" for name in names)],
        [f"{name}_after" for name in names],
    )
    return _over_time(_proto(one_click, tables), names)


def _example_click() -> tuple[torch.Tensor, ...]:
    """Item, event type and gap of some users, to trace a graph with."""
    return tuple(torch.zeros(2 * BATCH_MULTIPLE, dtype=torch.int64) for _ in CLICK)


def _proto(graph: ir.Model, tables: Tables) -> onnx.ModelProto:
    """The graph with its large tensors in `tables`."""
    tables.move(graph.graph)
    return ir.to_proto(graph)


def _over_time(one_click: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The graph of `Step` -> the graph of step.onnx, which repeats it for T clicks of each user.

    The inputs are the clicks (B, T) and the states before the first ones; the outputs are the states after each click,
    (B, T, ...). torch exports such a loop too, but only by a function that is not public.

    names  the tensors of the state
    """
    step, make = one_click.graph, onnx.helper
    now, before = step.input[: len(CLICK)], step.input[len(CLICK) :]
    body = make.make_graph(
        [*step.node, *(make.make_node("Identity", [f"{name}_after"], [f"{name}_each"]) for name in names)],
        "one click",
        [*before, *now],
        [*step.output, *(_value(one, f"{name}_each", []) for one, name in zip(before, names, strict=True))],
    )
    loop = make.make_node(
        "Scan",
        [*names, *CLICK],
        [*(f"{name}_last" for name in names), *(f"{name}_out" for name in names)],
        body=body,
        num_scan_inputs=len(CLICK),
        scan_input_axes=[1] * len(CLICK),
        scan_output_axes=[1] * len(names),
    )
    graph = make.make_graph(
        [loop],
        "clicks of users",
        [
            *(_value(one, name, ["T"]) for one, name in zip(now, CLICK, strict=True)),
            *(_value(one, name, []) for one, name in zip(before, names, strict=True)),
        ],
        [_value(one, f"{name}_out", ["T"]) for one, name in zip(before, names, strict=True)],
        step.initializer,  # outside the loop, where onnxruntime prepares them once
    )
    return make.make_model(graph, opset_imports=one_click.opset_import, functions=one_click.functions)


def _value(like: onnx.ValueInfoProto, name: str, second: list[str]) -> onnx.ValueInfoProto:
    """An input or output like another one, with the dimensions `second` after the first one."""
    tensor = like.type.tensor_type
    first, *rest = (dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return onnx.helper.make_tensor_value_info(name, tensor.elem_type, [first, *second, *rest])


def _write(model: onnx.ModelProto, path: Path, facts: dict[str, str]) -> None:
    """Write one graph, without paths of the building machine."""
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
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
    graph.ClearField("metadata_props")
    graph.ClearField("value_info")
