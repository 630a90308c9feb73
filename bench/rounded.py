"""Compares shortlist.onnx of a catalogue that it ranks completely with score.onnx: the lists, and their CPU time.

Lists: a model of each log is trained with default settings; both graphs get the states after each click of its test
part. A list is the same if it has the same items in the same order; shared are items that are in both lists. recall@20
and MRR@20 are of the next clicks, also of those on items that the model does not know, which no list can have.

Time: random states and random models of 128 units, batches of 64 users, as a worker has them, on one thread; the two
graphs are run in turn. Processors with VNNI multiply bytes several times faster than others (`processor` in the file).

    python -m bench.rounded [--datasets bolcom,rees46] [--items 5000,10000,20000,50000] [--json]

About 15 minutes, most of it training. Exit code 1 if a graph loses .2 % of the recall of the other or more.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.command import run_eddy, say
from bench.cpu import cpu_us, memory, running
from bench.datasets import split_of
from bench.graph_parity import by_sequences
from bench.report import RESULTS, Figures, conclude, write_report
from export.arrays import I64
from export.dataset.windows import Clicks, birth_period, encode
from export.log.log import Vocabulary, read_log
from export.measure.metrics import K
from export.model.graph import SCORE_STATE, open_graph
from export.model.untrained import write_untrained
from export.network.weights import load_network
from stream.manifest import SHORTLIST
from stream.model.runtime import load_model

RESULT = RESULTS / "rounded.json"
GRAPHS = {"exact": "score.onnx", "rounded": SHORTLIST}
USERS, HIDDEN = 64, 128
CLICKS = 4_000
"""About so many clicks are made for one measured time."""

MOST_LOST = 0.002


def lists(dataset: str, scratch: Path) -> Figures:
    """Train on a log, and compare the lists of both graphs after each click of its test part."""
    split = split_of(dataset)
    for name, part in (("train", split.train), ("test", split.test)):
        part.write_parquet(scratch / f"{dataset}-{name}.parquet")
    directory = scratch / dataset / "1"
    say(f"training on {dataset}")
    run_eddy("train", scratch / f"{dataset}-train.parquet", *split.flags, "--out", directory)
    model, log = load_model(directory, "cpu"), read_log(scratch / f"{dataset}-test.parquet")
    clicks = encode(
        log,
        Vocabulary(model.items, model.manifest.event_types, model.manifest.gap_edges_ms),
        birth_period(log.time_ms),
    )
    after, _ = by_sequences(load_network(directory), clicks)
    state = {name: part.numpy() for name, part in zip(SCORE_STATE, after, strict=True)}
    found = {name: _listed(directory / graph, state) for name, graph in GRAPHS.items()}
    (items, log_probs), (rounded, rounded_log_probs) = found["exact"], found["rounded"]
    same = rounded == items
    shared = [len({*a} & {*b}) for a, b in zip(items.tolist(), rounded.tolist(), strict=True)]
    return {
        "items": len(model.items),
        "clicks": len(clicks),
        **{name: _quality(one, clicks) for name, (one, _) in found.items()},
        "same_lists": round(float(same.all(axis=1).mean()), 5),
        "shared_items": round(float(np.mean(shared)) / K, 6),
        "log_prob_difference_mean": float(f"{np.abs(rounded_log_probs - log_probs)[same].mean():.2g}"),
        "log_prob_difference_largest": float(f"{np.abs(rounded_log_probs - log_probs)[same].max():.2g}"),
    }


def _listed(path: Path, state: dict[str, NDArray[Any]]) -> tuple[I64, NDArray[Any]]:
    """The lists of a graph and their log-probabilities, each (n, K), after the states (n, ...)."""
    graph, count = open_graph(path), len(next(iter(state.values())))
    parts = [
        graph.run(None, {**{k: v[at : at + USERS] for k, v in state.items()}, "k": np.array([K])})
        for at in range(0, count, USERS)
    ]
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _quality(items: I64, clicks: Clicks) -> Figures:
    judged = clicks.target >= 0
    hits = items[judged] == clicks.target[judged][:, None]
    return {
        "recall20": round(float(hits.any(axis=1).mean()), 5),
        "mrr20": round(float((hits / np.arange(1, K + 1)).sum(axis=1).mean()), 5),
    }


def times(items: int, scratch: Path) -> Figures:
    """CPU microseconds of a list by each graph, at random states."""
    directory, rng = scratch / str(items) / "1", np.random.default_rng(0)
    say(f"timing lists of {items:,} items")
    write_untrained(directory, [f"i{n}" for n in range(items)], ["view"], HIDDEN, ranked=items)
    feed = {"h": rng.standard_normal((USERS, HIDDEN), np.float32), "k": np.array([K])}
    remembered = open_graph(directory / "score.onnx").get_inputs()[1].shape[1]
    feed |= memory(USERS, items, remembered, rng)
    runs = {name: running(open_graph(directory / graph), feed) for name, graph in GRAPHS.items()}
    took = cpu_us(runs, USERS, max(1, CLICKS // USERS))
    return {**took, "ratio": round(took["rounded"] / took["exact"], 3)}


def vnni() -> bool:
    """Whether this processor multiplies bytes in one instruction. False where the system does not say."""
    known = Path("/proc/cpuinfo")
    return known.is_file() and any(f"{kind}_vnni" in known.read_text() for kind in ("avx512", "avx"))


def main() -> int:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default="bolcom,rees46", help="public logs of bench.datasets, with commas")
    parser.add_argument("--items", default="5000,10000,20000,50000", help="sizes of the timed catalogues")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        timed = {items: times(int(items), scratch) for items in options.items.split(",")}
        found = {dataset: lists(dataset, scratch) for dataset in options.datasets.split(",") if dataset}
    failures = [
        f"{dataset}: recall@20 {one['rounded']['recall20']} instead of {one['exact']['recall20']}"
        for dataset, one in found.items()
        if one["rounded"]["recall20"] < (1 - MOST_LOST) * one["exact"]["recall20"]
    ]
    conditions = {"hidden": HIDDEN, "users of a call": USERS, "k": K, "processor has VNNI": vnni()}
    report = write_report(options.out, "bench.rounded", conditions, {"lists": found, "us": timed}, failures)
    for items, one in timed.items():
        print(f"{items:>8} items: {one['exact']} us exact, {one['rounded']} us rounded")
    for dataset, one in found.items():
        print(f"{dataset}: {one['same_lists']:.2%} the same lists, {one['shared_items']:.4%} shared items")
    return conclude(report, options.json)


if __name__ == "__main__":
    sys.exit(main())
