"""Ablation of the inputs: trainings without event type, category or gap, on public logs.

Only the training part of each log is read (bench/datasets.py), never its test part. Each variant removes one input, and
is evaluated on the held-out slice by recall@20 and MRR@20 of the lists as served, the figures that `eddy train` prints.
The report has means and, per seed, the difference to all inputs. A variant is skipped if the log lacks the input. The
value of earlier sessions is measured in bench/quality.py (`eddy_carried`).

    python -m bench.inputs [--datasets retailrocket,taobao,trivago,rees46] [--seeds 0,1,2] [--json]
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.command import say
from bench.datasets import split_of
from bench.report import RESULTS, Figures, write_report
from export.dataset.cooccurrence import NEW_SESSION
from export.dataset.windows import Clicks
from export.fit.mixture import mixed
from export.log.log import GAP_EDGES_MS, Log, read_log
from export.network.network import Network, Sizes
from export.progress import NullProgress
from export.train.epochs import fit_held_out
from export.train.holdout import HeldOut, hold_out
from export.train.settings import TrainSettings

RESULT = RESULTS / "inputs.json"
DEFAULT = "retailrocket,taobao,trivago,rees46"


# -- variants ---------------------------------------------------------------------------------------------------------


def everything(log: Log) -> HeldOut:
    return hold_out(log)


def no_event_type(log: Log) -> HeldOut:
    return hold_out(replace(log, event_type=np.zeros_like(log.event_type), event_types=["view"]))


def no_category(log: Log) -> HeldOut:
    return hold_out(replace(log, category=None))


def no_gap(log: Log) -> HeldOut:
    """Two gap values remain: one within sessions and one between sessions."""

    def without(clicks: Clicks) -> Clicks:
        alike = np.where(clicks.gap >= NEW_SESSION, NEW_SESSION, np.minimum(clicks.gap, 1)).astype(clicks.gap.dtype)
        return replace(clicks, gap=alike)

    held_out = hold_out(log)
    return held_out._replace(clicks=without(held_out.clicks), head=without(held_out.head), seen=without(held_out.seen))


def variants(log: Log) -> dict[str, Callable[[Log], HeldOut]]:
    """The variants that apply to the log, by name; the others are compared with the first one."""
    found: dict[str, Callable[[Log], HeldOut]] = {"all inputs": everything, "no gap": no_gap}
    if len(log.event_types) > 1:
        found["no event type"] = no_event_type
    if log.category is not None:
        found["no category"] = no_category
    return found


# -- train and judge --------------------------------------------------------------------------------------------------


def untrained(held_out: HeldOut, settings: TrainSettings) -> Network:
    vocabulary = held_out.vocabulary
    torch.manual_seed(settings.seed)
    sizes = Sizes(len(vocabulary.items), len(vocabulary.event_types), len(GAP_EDGES_MS) + 2, settings.hidden)
    return Network(sizes)


def trained(held_out: HeldOut, settings: TrainSettings) -> Network:
    """The network without the mixture, after its best epoch on the held-out slice; trained on the clicks before it."""
    return fit_held_out(untrained(held_out, settings), held_out, settings, NullProgress()).network


def quality(held_out: HeldOut, seed: int) -> dict[str, float]:
    """recall@20 and MRR@20 on the held-out slice, for a training with default settings."""
    settings = TrainSettings.for_log(len(held_out.clicks), None, None, seed)
    return mixed(trained(held_out, settings), held_out, seed).quality


def measure(dataset: str, seeds: list[int]) -> dict[str, Figures]:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "train.parquet"
        split_of(dataset).train.write_parquet(path)
        log = read_log(path)
        found: dict[str, Figures] = {}
        for name, withhold in variants(log).items():
            held_out = withhold(log)
            runs = []
            for seed in seeds:
                say(f"{dataset}: {name}, seed {seed}")
                runs.append(quality(held_out, seed))
            means = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
            found[name] = {**means, "by_seed": {str(seed): run for seed, run in zip(seeds, runs, strict=True)}}
    return found


def table(results: dict[str, dict[str, Figures]]) -> str:
    rows = []
    for dataset, found in results.items():
        rows.append(f"{dataset:24}{'recall@20':>10}{'MRR@20':>10}{'differences to all inputs, by seed':>40}")
        whole = found["all inputs"]["by_seed"]
        for name, one in found.items():
            apart = [
                f"{run['recall20'] - whole[seed]['recall20']:+.4f}/{run['mrr20'] - whole[seed]['mrr20']:+.4f}"
                for seed, run in one["by_seed"].items()
            ]
            rows.append(f"  {name:22}{one['recall20']:>10.4f}{one['mrr20']:>10.4f}   {'  '.join(apart)}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--datasets", default=DEFAULT, help=f"comma-separated names [{DEFAULT}]")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated seeds of the trainings [0,1,2]")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    results: dict[str, Any] = {}
    if given.out.is_file():
        results = json.loads(given.out.read_text())["results"]
    report: dict[str, Any] = {}
    for dataset in given.datasets.split(","):
        results[dataset] = measure(dataset, seeds)
        conditions = {"judged": "every other click of the held-out tenth of the training part"}
        report = write_report(given.out, "bench.inputs", conditions, results, [])
        print(table({dataset: results[dataset]}), flush=True)
    if given.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
