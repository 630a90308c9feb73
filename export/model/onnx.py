"""A trained network and its vocabulary -> a model directory that the worker can serve.

    step.onnx  score.onnx  items.json  calibration.npz  baselines.npz  weights.npz  manifest.json (last)

The rule: torch on a whole sequence = torch step by step = ONNX step by step, or nothing is written that could be served
(a directory without manifest.json is not a model). Nodes are stripped of metadata, which would hold build paths.
"""

import json
import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch

from export.arrays import F32
from export.dataset.cooccurrence import NEIGHBOURS, Counted, Neighbours
from export.log.log import GAP_EDGES_MS, Vocabulary
from export.model.writable import check_place, name_and_version
from export.network import mixture, weights
from export.network.mixture import Mixture
from export.network.network import Network, Score, Sizes, Step
from export.network.surprise import SurpriseHead, balanced_clusters, cluster_count
from stream.detect.pvalue import HISTORIES
from stream.errors import ArtifactError
from stream.manifest import FILES, FORMAT, Manifest, sha256, write_manifest

OPSET = 20
IR_VERSION = 10
BATCH_MULTIPLE = 4
TOLERANCE = 1e-5
"""Largest difference in log-probability (nats) between torch and ONNX; both compute in float32."""

SHORTEST = 0.01
"""Length of a state below which nothing more is allowed."""

SCORE_STATE = ("h", *(part.name for part in mixture.STATE))
"""The parts of the state that score.onnx reads."""

Pools = dict[str, F32]


class Facts(NamedTuple):
    """What people want to know of a model: how it was trained, how good it is."""

    training: dict[str, Any]
    quality: dict[str, Any]


def write_graphs(directory: Path, network: Network, vocabulary: Vocabulary) -> None:
    """step.onnx and score.onnx of the network, checked against it.

    Raises ConfigError if the directory holds a model or cannot be written, ArtifactError if the graphs disagree with
    the network.
    """
    check_place(directory)
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
    _export(
        Step(network),
        (*ids, *network.zero_state(2 * BATCH_MULTIPLE)),
        ["item", "event_type", "gap", *names],
        ["surprise", *(f"{name}_out" for name in names)],
        directory / "step.onnx",
        facts,
    )
    _export(
        Score(network),
        (*_score_state(network.zero_state(2 * BATCH_MULTIPLE)), torch.tensor([min(20, network.sizes.items)])),
        [*SCORE_STATE, "k"],
        ["items", "log_probs", "event_probs"],
        directory / "score.onnx",
        facts,
    )
    check_parity(directory, network)


def _score_state(state: tuple[Any, ...]) -> tuple[Any, ...]:
    """The SCORE_STATE parts of a whole state: the cell's first tensor and the last two."""
    return state[0], *state[-2:]


def _export(
    module: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    path: Path,
    facts: dict[str, str],
) -> None:
    """One graph: float32, weights inside the file, batch size free, nothing of the building machine in it."""
    batch = torch.export.Dim("B", min=1)
    dims = tuple(None if name == "k" else {0: batch} for name in inputs)
    varargs = dims if "k" in inputs else (*dims[:3], dims[3:])
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every package it could have used
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one free axis of a name is enough for torch; the others "will not be used"
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=varargs,
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ArtifactError(f"model {path.parent}: torch wrote no graph for {path.name}")
    model = program.model_proto
    _strip(model.graph)
    model.doc_string = model.graph.doc_string = ""
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    for key, value in sorted(facts.items()):
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _strip(graph: onnx.GraphProto) -> None:
    """Remove metadata and doc strings from every part of the graph, and its inferred inner shapes."""
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")
    graph.ClearField("value_info")


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    """The graph on one CPU thread, as the worker runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def check_parity(directory: Path, network: Network, users: int = 16, clicks: int = 24, seed: int = 0) -> None:
    """The gate: torch sequence = torch steps = ONNX steps, in surprise, state, log-probability and top 20.

    Heads read a state's direction, which is the less sure the shorter the state is: where one is shorter than 1, as a
    network of four units has them, so much more is allowed.

    Raises ArtifactError with the largest difference and where it is.
    """
    rng = np.random.default_rng(seed)
    sizes = network.sizes
    item = rng.integers(0, sizes.items + 1, (users, clicks))
    event_type = rng.integers(0, sizes.event_types + 1, (users, clicks))
    gap = rng.integers(0, sizes.gaps, (users, clicks))
    step, score = open_graph(directory / "step.onnx"), open_graph(directory / "score.onnx")
    k = min(20, sizes.items)
    names = [part.name for part in network.state]
    torch_step = Step(network).eval()
    with torch.no_grad():
        x = network.embed(*(torch.from_numpy(column) for column in (item, event_type, gap)))
        outs, _ = network.cell.sequence(x, network.cell.zero_state(users))
        unsure = max(1.0, 1 / float(outs.norm(dim=2).min().clamp(min=SHORTEST)))
        torch_state = network.zero_state(users)
        onnx_state = [part.numpy() for part in torch_state]
        for t in range(clicks):
            columns = {"item": item[:, t], "event_type": event_type[:, t], "gap": gap[:, t]}
            surprise, *torch_state = torch_step(*(torch.from_numpy(c) for c in columns.values()), *torch_state)
            got, *onnx_state = step.run(None, {**columns, **dict(zip(names, onnx_state, strict=True))})
            _same(directory, "surprise", got, surprise.numpy(), unsure)
            for name, ours, theirs in zip(names, onnx_state, torch_state, strict=True):
                _same(directory, f"state {name}", ours, theirs.numpy())
            _same(directory, "state over the sequence", onnx_state[0], outs[:, t].numpy())
            feed = dict(zip(SCORE_STATE, _score_state(tuple(onnx_state)), strict=True))
            items, log_probs, _ = score.run(None, {**feed, "k": np.array([k])})
            expected = network.log_probs(network.output(outs[:, t]), *torch_state[-2:])
            # Both together mean the same top k, up to items that lie within the tolerance of each other.
            _same(directory, f"top {k} log-probability", log_probs, torch.topk(expected, k).values.numpy(), unsure)
            _same(directory, f"top {k} items", log_probs, expected.gather(1, torch.from_numpy(items)).numpy(), unsure)


def _same(directory: Path, what: str, ours: F32, theirs: F32, unsure: float = 1.0) -> None:
    worst = float(np.abs(ours - theirs).max())
    if not worst <= TOLERANCE * unsure * max(1.0, float(np.abs(theirs).max()) / 4):
        raise ArtifactError(
            f"model {directory}: {what} differs by {worst:.2g} between torch and ONNX (allowed {TOLERANCE:g}); "
            "nothing was written that could be served"
        )


def write_model(
    directory: Path, network: Network, vocabulary: Vocabulary, pools: Pools, extra: tuple[str, ...], facts: Facts
) -> Manifest:
    """The rest beside graphs that are already there: items, calibration, weights, and last the manifest.

    pools  name -> ascending surprises (float32, nats), in the order the manifest will list them
    extra  names of further files in the directory that belong to the model
    """
    (directory / "items.json").write_text(json.dumps(vocabulary.items, ensure_ascii=False, separators=(",", ":")))
    arrays: dict[str, Any] = {f"pool_{i}": pool for i, pool in enumerate(pools.values())}
    np.savez(directory / "calibration.npz", **arrays)
    name, version = name_and_version(directory)
    manifest = Manifest(
        format=FORMAT,
        name=name,
        version=version,
        cell=network.cell.name,
        state=network.state,
        event_types=vocabulary.event_types,
        gap_edges_ms=vocabulary.gap_edges_ms,
        items=len(vocabulary.items),
        batch_multiple=BATCH_MULTIPLE,
        calibration=tuple(pools),
        files={name: sha256(directory / name) for name in (*FILES, *extra)},
        training={**facts.training, weights.FILE: weights.save_weights(directory, network)},
        quality=facts.quality,
    )
    write_manifest(directory, manifest)
    return manifest


def write_untrained(
    directory: Path, items: list[str], event_types: list[str], hidden: int = 16, seed: int = 0, cell: str = "lstm"
) -> Manifest:
    """A complete model directory with random weights and synthetic calibration: for tests and trials of the worker."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vocabulary = Vocabulary(items=list(items), event_types=tuple(event_types), gap_edges_ms=GAP_EDGES_MS)
    network = Network(Sizes(len(items), len(event_types), len(GAP_EDGES_MS) + 2, hidden, cell))
    with torch.no_grad():
        for rows in (network.event_rows, network.gap_rows):
            rows.normal_(std=0.5)
    known = network.item_rows[:-1].detach()
    clusters = balanced_clusters(known.numpy(), cluster_count(len(items)), seed)
    network.surprise = SurpriseHead(clusters, known, network.item_bias[:-1], new_items=10)
    near = rng.integers(0, len(items), (2, len(items) + 2, NEIGHBOURS), np.int32)
    share = rng.dirichlet(np.ones(NEIGHBOURS + 1), (2, len(items) + 2))[..., 1:].astype(np.float32)
    share[:, [0, -1]] = 0.0
    following, around = (
        Neighbours(*table, np.ones(len(items) + 2, np.float32)) for table in zip(near, share, strict=True)
    )
    network.mixture = Mixture(Counted(following, around, np.ones(len(items))))
    network.mixture.gates[0] = -3.0
    write_graphs(directory, network, vocabulary)
    mean = float(np.log(len(items) + 1))
    names = ["all", *(name for kind in event_types for name in (kind, *(f"{kind}/{h}" for h in HISTORIES)))]
    pools = {name: np.sort(rng.normal(mean, 0.5, 20_000)).astype(np.float32) for name in names}
    return write_model(directory, network, vocabulary, pools, (), Facts({"untrained": True, "seed": seed}, {}))
