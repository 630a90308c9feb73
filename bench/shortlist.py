"""Compares ranking the whole catalogue with ranking a shortlist of clusters: loss of quality, and CPU time.

CPU time is measured on three kinds of graphs, with one thread, interleaved:

- full: logits of all V items and TopK, the network's part of score.onnx;
- shortlist: logits of the centroids of 4 sqrt(V) clusters of equal size, then, per user, of the rows of the best ones;
- served: the complete score.onnx with mixture and softmax, up to 100k items.

The rows are random unit vectors, because the cost depends on V and H only. The loss of quality is measured on trained
networks, because random rows have no clusters: the networks and clicks of bench.heads.

    python -m bench.shortlist [--datasets bolcom,rees46,yoochoose64,diginetica] [--items 20000,100000,1000000]
        [--hidden 64,192] [--json]

An empty --datasets or --items skips that half; earlier figures of what is not measured stay in the report.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from bench.cases import EPOCHS, Case, case_of, two_levels
from bench.cpu import cpu_us, memory, running
from bench.report import RESULTS, Figures, kept, write_report
from export.arrays import F32
from export.dataset.windows import Windows, drawn
from export.fit.heads import surprise_examples
from export.measure.metrics import K
from export.measure.ranking import row_batches
from export.model.graph import open_graph
from export.model.onnx import IR_VERSION
from export.model.trace import OPSET
from export.model.untrained import write_untrained
from export.network.mixture import AGES
from export.network.network import SHARPNESS
from export.network.states import outputs
from export.network.surprise import balanced_clusters, cluster_count

RESULT = RESULTS / "shortlist.json"
BEST = (8, 16, 32, 64, 128)
"""Counts of clusters on the shortlist, for the loss of quality."""

TIMED_BEST = 32
BATCHES = (1, 32, 256)
SERVED_UP_TO = 100_000
"""Maximum items of a complete model: writing a larger one needs too much memory for this benchmark."""

JUDGED = 4_000
LOGITS = 6_400_000
"""Approximate logits per timed run. A batch has at most five times as many, which is 128 MB."""


# -- loss of quality --------------------------------------------------------------------------------------------------


def losses(case: Case) -> Figures:
    """Share of the true top K that is found, and recall@K, by scoring of the clusters and count of clusters.

    fitted     clusters scored by the surprise head's layer over clusters, without the temperature
    centroids  clusters scored by their mean row and the log of their summed popularity
    """
    network, items = case.network, case.network.sizes.items
    rows, bias = network.item_rows[:-1].detach(), network.item_bias[:-1].detach()
    clusters = torch.from_numpy(balanced_clusters(rows.numpy(), cluster_count(items), seed=0))
    count = int(clusters.max()) + 1
    examples = surprise_examples(network, case.learned, case.weight, seed=0)
    fitted = two_levels(case, examples, clusters.numpy(), seed=0).top
    fitted.weight.data *= network.mixture.temperature
    size = torch.bincount(clusters, minlength=count).unsqueeze(1)
    centroids = torch.zeros(count, rows.shape[1]).index_add_(0, clusters, rows) / size
    popularity = torch.zeros(count).index_add_(0, clusters, bias.exp()).log()
    ways = {"fitted": lambda o: fitted(o)[:, :count], "centroids": lambda o: o @ centroids.t() + popularity}
    return {"clusters": count, "items": items, **found_by(case, clusters, ways)}


@torch.no_grad()
def found_by(case: Case, clusters: Tensor, ways: dict[str, Callable[[Tensor], Tensor]]) -> Figures:
    """The figures of `losses`.

    clusters  (V,) int64
    ways      name -> function from outputs (B, H) to scores of the clusters (B, C)
    """
    network, items = case.network, case.network.sizes.items
    count = int(clusters.max()) + 1
    wanted = np.flatnonzero(case.later & (case.judged.target >= 0) & (case.judged.target < items))
    chosen = drawn(wanted, JUDGED)
    out = outputs(network, Windows(case.judged), chosen)
    target = torch.from_numpy(case.judged.target[chosen]).long().unsqueeze(1)
    found: Figures = {"full": {"recall20": 0.0}}
    for part in row_batches(len(chosen), items):
        logits = network.logits(out[part])
        top = logits.topk(K).indices
        found["full"]["recall20"] += float((top == target[part]).sum()) / len(chosen)
        for name, rank in ways.items():
            order = rank(out[part]).argsort(dim=1, descending=True)
            rank_of = torch.empty_like(order).scatter_(1, order, torch.arange(count).expand_as(order))[:, clusters]
            for best in BEST:
                short = logits.masked_fill(rank_of >= best, -torch.inf).topk(K).indices
                same = (short.unsqueeze(2) == top.unsqueeze(1)).any(2).float().mean(1).sum()
                one = found.setdefault(f"{name}, best {best}", {"of_top20": 0.0, "recall20": 0.0})
                one["of_top20"] += float(same) / len(chosen)
                one["recall20"] += float((short == target[part]).sum()) / len(chosen)
    return found


# -- CPU time ---------------------------------------------------------------------------------------------------------


def graph(nodes: list[onnx.NodeProto], constants: dict[str, npt.NDArray[Any]], hidden: int, path: Path) -> None:
    """Write a graph that computes the top K items (B, K) from out (B, H)."""
    made = helper.make_graph(
        nodes,
        "ranking",
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["B", hidden])],
        [helper.make_tensor_value_info("items", TensorProto.INT64, ["B", K])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    path.write_bytes(model.SerializeToString())


def write_full(rows: F32, path: Path) -> None:
    """Write the graph of the full ranking. rows (V, H)."""
    constants = {"columns": np.ascontiguousarray(rows.T), "k": np.array([K])}
    nodes = [
        helper.make_node("MatMul", ["out", "columns"], ["logits"]),
        helper.make_node("TopK", ["logits", "k"], ["values", "items"]),
    ]
    graph(nodes, constants, rows.shape[1], path)


def write_shortlist(rows: F32, best: int, path: Path) -> None:
    """Write the graph of the shortlist. rows (V, H); best: count of clusters on the shortlist.

    A cluster is a range of consecutive rows, because the cost does not depend on the choice of items. The rows are
    gathered for one user at a time: gathering them for a whole batch would need gigabytes of memory.
    """
    items, hidden = rows.shape
    count = cluster_count(items)
    size = -(-items // count)
    blocks = np.zeros((count * size, hidden), np.float32)
    blocks[:items] = rows
    blocks = blocks.reshape(count, size, hidden)
    centroids = np.ascontiguousarray(blocks.mean(axis=1).T)
    ids = np.arange(count * size, dtype=np.int64).reshape(count, size)
    body = helper.make_graph(
        [
            helper.make_node("Gather", ["blocks", "clusters"], ["theirs"], axis=0),
            helper.make_node("Reshape", ["theirs", "flat"], ["rows"]),
            helper.make_node("Unsqueeze", ["one", "axis"], ["column"]),
            helper.make_node("MatMul", ["rows", "column"], ["product"]),
            helper.make_node("Squeeze", ["product", "axis"], ["logits"]),
            helper.make_node("TopK", ["logits", "k"], ["values", "position"]),
            helper.make_node("Gather", ["ids", "clusters"], ["named"], axis=0),
            helper.make_node("Reshape", ["named", "line"], ["names"]),
            helper.make_node("Gather", ["names", "position"], ["chosen"], axis=0),
        ],
        "user",
        [
            helper.make_tensor_value_info("one", TensorProto.FLOAT, [hidden]),
            helper.make_tensor_value_info("clusters", TensorProto.INT64, [best]),
        ],
        [helper.make_tensor_value_info("chosen", TensorProto.INT64, [K])],
    )
    constants = {
        "blocks": blocks,
        "centroids": centroids,
        "ids": ids,
        "k": np.array([K]),
        "best": np.array([best]),
        "flat": np.array([-1, hidden]),
        "line": np.array([-1]),
        "axis": np.array([1]),
    }
    nodes = [
        helper.make_node("MatMul", ["out", "centroids"], ["scores"]),
        helper.make_node("TopK", ["scores", "best"], ["their_scores", "best_clusters"]),
        helper.make_node("Scan", ["out", "best_clusters"], ["items"], body=body, num_scan_inputs=2),
    ]
    graph(nodes, constants, hidden, path)


def costs(items: int, hidden: int, scratch: Path) -> Figures:
    """CPU microseconds per list, by batch size and kind of graph."""
    rng = np.random.default_rng(0)
    rows = unit_rows(rng, items, hidden)
    write_full(rows, scratch / "full.onnx")
    write_shortlist(rows, TIMED_BEST, scratch / "shortlist.onnx")
    del rows
    ways = {name: open_graph(scratch / f"{name}.onnx") for name in ("full", "shortlist")}
    served = None
    if items <= SERVED_UP_TO:
        write_untrained(scratch / "served" / f"{items}-{hidden}", [str(i) for i in range(items)], ["view"], hidden)
        served = open_graph(scratch / "served" / f"{items}-{hidden}" / "score.onnx")
    found: Figures = {}
    for batch in (batch for batch in BATCHES if batch * items <= 5 * LOGITS):
        out = unit_rows(rng, batch, hidden) * np.float32(SHARPNESS)
        runs = {name: running(way, {"out": out}) for name, way in ways.items()}
        if served is not None:
            runs["served"] = running(served, {"h": out, **memory(batch, items, AGES, rng), "k": np.array([K])})
        found[f"batch {batch}"] = cpu_us(runs, batch, max(1, LOGITS // items // batch))
    return found


def unit_rows(rng: np.random.Generator, count: int, hidden: int) -> F32:
    rows = rng.standard_normal((count, hidden), np.float32)
    rows /= np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    return rows


# -- all of it --------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--items", default="20000,100000,1000000", help="comma-separated catalogue sizes to time [%(default)s]"
    )
    parser.add_argument("--hidden", default="64,192", help="comma-separated units of state to time [%(default)s]")
    parser.add_argument(
        "--datasets", default=",".join(EPOCHS), help="comma-separated names of trained networks [%(default)s]"
    )
    parser.add_argument("--json", action="store_true", help="print the report on stdout")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results, report = kept(RESULT, "results"), {}
    conditions = {"k": K, "threads": 1, "best_timed": TIMED_BEST, "lists_judged": JUDGED, "served_up_to": SERVED_UP_TO}
    for dataset in filter(None, given.datasets.split(",")):
        results[f"kept of {dataset}"] = losses(case_of(dataset, 0, reuse=True))
        report = write_report(RESULT, "bench.shortlist", conditions, results, [])
        if not given.json:
            print(dataset, json.dumps(results[f"kept of {dataset}"], indent=1), flush=True)
    for items in map(int, filter(None, given.items.split(","))):
        for hidden in map(int, given.hidden.split(",")):
            with tempfile.TemporaryDirectory() as scratch:
                results[f"{items} items, {hidden} units"] = costs(items, hidden, Path(scratch))
            report = write_report(RESULT, "bench.shortlist", conditions, results, [])
            if not given.json:
                print(items, hidden, results[f"{items} items, {hidden} units"], flush=True)
    if given.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
