"""Compares the networks of `eddy train --network`: quality on public logs, and what each costs.

Quality: only the training part of each log is read (bench/datasets.py), never its test part. All networks start from
the same seeds and settings. Each is evaluated on the held-out slice by recall@20 and MRR@20: the network alone after
its best epoch, and the lists as served, with the mixture. The training speed is of the CPU time of the epochs.

Costs: models with random weights, 192 units and 20,000 items. CPU time of step.onnx per click, batches of 256 users
with full windows, all networks in turn; the network's part of the bytes of a user's row.

    python -m bench.networks [--datasets bolcom,rees46,globo-day3] [--seeds 0] [--networks NAMES] [--epochs N]
        [--hidden H] [--json]

Without --datasets ('') only the costs are measured. A run replaces only the results of its own logs and networks.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime import InferenceSession

from bench.command import say
from bench.cpu import cpu_us, running
from bench.datasets import split_of
from bench.report import RESULTS, Figures, kept, write_report
from export.cells.names import CELLS
from export.fit.mixture import mixed
from export.log.log import GAP_EDGES_MS, read_log
from export.model.graph import open_graph
from export.model.onnx import IR_VERSION, step_graph
from export.model.tables import Tables
from export.model.trace import Traces
from export.model.untrained import untrained_network
from export.network.network import Network, Sizes
from export.progress import NullProgress
from export.train.epochs import held_out_quality
from export.train.holdout import HeldOut, hold_out
from export.train.settings import TrainSettings
from export.train.trainer import Trainer

RESULT = RESULTS / "networks.json"
DATASETS = "bolcom,rees46,globo-day3"
SIZES = Sizes(20_000, 3, len(GAP_EDGES_MS) + 2, 192)
BATCH, REPEATS = 256, 20


# -- costs ------------------------------------------------------------------------------------------------------------


def costs(names: list[str]) -> dict[str, Figures]:
    """CPU microseconds of step.onnx per click, and the network's part of the bytes of a user's row."""
    found: dict[str, Figures] = {}
    runs = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            say(f"networks: costs, {name}")
            network = untrained_network(SIZES._replace(cell=name), np.random.default_rng(0))
            runs[name] = running(_step_of(network, Path(scratch) / name), _clicks_of(network))
            found[name] = {"bytes": sum(np.zeros(part.shape, part.dtype).nbytes for part in network.cell.row)}
        for name, us in cpu_us(runs, BATCH, REPEATS).items():
            found[name]["step_us"] = us
    return found


def _step_of(network: Network, directory: Path) -> InferenceSession:
    """step.onnx of a network, opened as in a worker."""
    directory.mkdir()
    graph = step_graph(network.eval(), Traces(), Tables(directory))
    graph.ir_version = IR_VERSION
    (directory / "step.onnx").write_bytes(graph.SerializeToString())
    return open_graph(directory / "step.onnx")


def _clicks_of(network: Network) -> dict[str, Any]:
    """A click of each of BATCH users in the middle of a session."""
    rng = np.random.default_rng(0)
    highest = {"item": SIZES.items, "event_type": SIZES.event_types, "gap": SIZES.gaps}
    highest |= {"window_types": SIZES.event_types, "window_gaps": SIZES.gaps, "visit_clicks": 3}
    feed: dict[str, Any] = {name: rng.integers(0, highest[name], (BATCH, 1)) for name in ("item", "event_type", "gap")}
    for part in network.state:
        shape = (BATCH, *part.shape)
        if part.dtype == "float32":
            feed[part.name] = np.tanh(rng.normal(size=shape)).astype(np.float32)
        else:
            feed[part.name] = rng.integers(1, highest.get(part.name, SIZES.items), shape).astype(part.dtype)
    return feed


# -- quality ----------------------------------------------------------------------------------------------------------


def measure(held_out: HeldOut, settings: TrainSettings) -> Figures:
    """Held-out recall@20 and MRR@20 of the network alone after its best epoch and of the lists as served; clicks/s."""
    vocabulary = held_out.vocabulary
    torch.manual_seed(settings.seed)
    sizes = len(vocabulary.items), len(vocabulary.event_types), len(GAP_EDGES_MS) + 2
    network = Network(Sizes(*sizes, settings.hidden, settings.cell))
    trainer = Trainer(network, held_out.head, settings, NullProgress(), held_out.popularity, category=held_out.category)
    epochs: list[tuple[float, float, int, Network]] = []
    spent = 0.0
    for number in range(1, settings.epochs + 1):
        began = time.process_time()
        trainer.epoch("")
        spent += time.process_time() - began
        now = trainer.trained()
        epochs.append((*held_out_quality(now, held_out.tail), number, now))
    recall, mrr, best_epoch, best = max(epochs, key=lambda epoch: epoch[0] + epoch[1])
    served = mixed(best, held_out, settings.seed).quality
    return {
        "network_recall20": recall,
        "network_mrr20": mrr,
        "recall20": served["recall20"],
        "mrr20": served["mrr20"],
        "best_epoch": best_epoch,
        "train_clicks_per_cpu_s": len(held_out.head) * settings.epochs / spent,
    }


def over_seeds(runs: dict[str, Figures]) -> Figures:
    """The means over the seeds, and `by_seed`."""
    first = next(iter(runs.values()))
    return {**{key: round(float(np.mean([run[key] for run in runs.values()])), 4) for key in first}, "by_seed": runs}


def split_log(dataset: str) -> HeldOut:
    """The training part of a log, split into what is learned and the held-out slice."""
    split = split_of(dataset)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "train.parquet"
        split.train.write_parquet(path)
        return hold_out(read_log(path, in_order="--in-order" in split.flags))


# -- results ----------------------------------------------------------------------------------------------------------


def table(results: dict[str, dict[str, Figures]]) -> str:
    lines = []
    for title, networks in results.items():
        columns = [name for name in next(iter(networks.values())) if name != "by_seed"]
        lines.append(f"{title:12}" + "".join(f"{column:>24}" for column in columns))
        lines += [
            f"  {name:10}" + "".join(f"{one[column]:>24}" for column in columns) for name, one in networks.items()
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default=DATASETS, help="comma-separated names [%(default)s]")
    parser.add_argument("--seeds", default="0", help="comma-separated seeds of the trainings [%(default)s]")
    parser.add_argument("--networks", default=",".join(CELLS), help="comma-separated names [all]")
    parser.add_argument("--epochs", type=int, help="maximum epochs [as eddy train]")
    parser.add_argument("--hidden", type=int, help="units [as eddy train]")
    parser.add_argument("--json", action="store_true", help="print the report on stdout")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    torch.set_num_threads(1)
    names, seeds = given.networks.split(","), [int(seed) for seed in given.seeds.split(",")]
    results, conditions = kept(given.out, "results"), kept(given.out, "conditions")
    conditions |= {"judged": "the held-out slice of the training part", "threads": 1}
    report: dict[str, Any] = {}
    for dataset in filter(None, given.datasets.split(",")):
        held_out = split_log(dataset)
        for name in names:
            runs = {}
            for seed in seeds:
                say(f"networks: {dataset}, {name}, seed {seed}")
                plain = TrainSettings.for_log(len(held_out.clicks), given.hidden, given.epochs, seed)
                runs[str(seed)] = measure(held_out, replace(plain, cell=name))
            results.setdefault(dataset, {})[name] = over_seeds(runs)
            conditions[dataset] = {"clicks": len(held_out.head), "hidden": plain.hidden, "epochs": plain.epochs}
            report = write_report(given.out, "bench.networks", conditions, results, [])
    if not given.datasets:
        conditions["costs"] = {"items": SIZES.items, "hidden": SIZES.hidden, "batch": BATCH}
        results["costs"] = costs(names)
        report = write_report(given.out, "bench.networks", conditions, results, [])
    print(json.dumps(report) if given.json else table(results))


if __name__ == "__main__":
    main()
