"""Measures recall and MRR on public logs: `eddy train` with default settings and `eddy evaluate`, with baselines.

Each log is split into a training part and a test part. The test part is not used before the evaluation. The metrics
come from the ONNX files and the serving engine: full ranking, every position of every test session, ties to the item
with more training clicks. A run replaces only the results of its own data sets. Exit code 1 if Eddy misses a target or
does not beat a baseline.

    python -m bench.quality [--datasets bolcom,returns,yoochoose64,diginetica] [--seeds 0] [--train OPTIONS] [--json]

The data sets are in bench/datasets.py. If users return, `eddy_carried` is Eddy with the users' states after their
earlier clicks. In `eddy` all users start from a zero state.
"""

import argparse
import json
import shlex
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from bench.command import run_eddy, say, stop
from bench.datasets import split_of
from bench.report import RESULTS, ROOT, Figures, kept, write_report

RESULT = RESULTS / "quality.json"
SCRATCH = ROOT / ".cache" / "quality"
DEFAULT = "bolcom,returns,yoochoose64,diginetica"
METHODS = ("eddy", "popularity", "session_popularity", "markov", "cooccurrence", "vsknn")
WHOLE = ("--exclude-recent", 0)
"""Options of `eddy evaluate`: rank the whole catalogue, as the sources of the targets do."""

TARGETS = {"bolcom": (0.680, 0.330), "yoochoose64": (0.712, 0.312), "diginetica": (0.545, 0.190)}
"""Target values of recall@20 and MRR@20."""


def _row(recall20: float, mrr20: float) -> Figures:
    return {"recall20": recall20, "mrr20": mrr20}


REFERENCE: dict[str, dict[str, Figures]] = {
    "bolcom": {"gru4rec_official (design)": _row(0.670, 0.314), "vmis_knn published (design)": _row(0.640, 0.328)},
    "yoochoose64": {"gru4rec_official (design)": _row(0.698, 0.306), "sr_gnn published (design)": _row(0.706, 0.309)},
    "diginetica": {"gru4rec_official (design)": _row(0.531, 0.183), "gce_gnn published (design)": _row(0.542, 0.190)},
}
"""Values from the project's design for the same files. They are not measured here."""


# -- train and evaluate ------------------------------------------------------------------------------------------------


def measure(dataset: str, seeds: list[int], options: list[str]) -> tuple[dict[str, Figures], Figures]:
    """The metrics of each method and the conditions of the measurement. The baselines do not depend on the seed."""
    split = split_of(dataset)
    directory = SCRATCH / dataset
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    train_log, test_log = directory / "train.parquet", directory / "test.parquet"
    split.train.write_parquet(train_log)
    split.test.write_parquet(test_log)
    runs: list[Figures] = []
    carried: list[Figures] = []
    conditions: Figures = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "log": split.what}
    conditions |= {"clicks_trained_on": len(split.train), "seeds": seeds, "options": options}
    costs: dict[str, list[float]] = {key: [] for key in ("train_seconds", "train_peak_mb", "evaluate_seconds")}
    for seed in seeds:
        model = directory / f"seed-{seed}" / "1"
        say(f"{dataset}: training with seed {seed}")
        trained = run_eddy("train", train_log, "--out", model, "--seed", seed, *split.flags, *options)
        say(f"{dataset}: evaluating")
        evaluated = run_eddy("evaluate", model, test_log, *WHOLE, "--json", *split.flags)
        runs.append(json.loads(evaluated.output.strip().splitlines()[-1]))
        if split.judged not in (None, runs[-1]["judged"]):
            stop(f"{dataset}: {runs[-1]['judged']} lists were judged, but the source has {split.judged}")
        if split.cut_ms is not None:
            both = directory / "both.parquet"
            pl.concat([split.train, split.test]).write_parquet(both)
            with_history = run_eddy("evaluate", model, both, *WHOLE, "--json", "--judge-from", split.cut_ms)
            carried.append(json.loads(with_history.output.strip().splitlines()[-1]))
        costs["train_seconds"].append(round(trained.seconds, 1))
        costs["train_peak_mb"].append(trained.peak_mb)
        costs["evaluate_seconds"].append(round(evaluated.seconds, 1))
    figures = {name: runs[0][name] for name in METHODS}
    figures["eddy"] = over_seeds([run["eddy"] for run in runs], seeds)
    if carried:
        figures["eddy_carried"] = over_seeds([run["eddy"] for run in carried], seeds)
    first = {key: runs[0][key] for key in ("clicks", "judged", "lead", "vsknn_setting", "calibration")}
    return {**figures, **REFERENCE.get(dataset, {})}, {**conditions, **first, **costs}


def over_seeds(runs: list[Figures], seeds: list[int]) -> Figures:
    """The results of the first seed, with every metric replaced by its mean over the seeds.

    `by_seed` has recall20 and mrr20 of each seed.
    """
    means = {key: sum(run[key] for run in runs) / len(runs) for key, one in runs[0].items() if isinstance(one, float)}
    each = {str(seed): _row(run["recall20"], run["mrr20"]) for seed, run in zip(seeds, runs, strict=True)}
    return {**runs[0], **means, "by_seed": each}


# -- results ----------------------------------------------------------------------------------------------------------


def failures(results: dict[str, dict[str, Figures]]) -> list[str]:
    """One line for each target that is missed and each baseline that is not beaten."""
    found = []
    for dataset, methods in results.items():
        targets = TARGETS.get(dataset, (0.0, 0.0))
        for measure_name, target in zip(("recall20", "mrr20"), targets, strict=True):
            ours = methods["eddy"][measure_name]
            if ours < target:
                found.append(f"{dataset}: {measure_name} {ours:.4f} is below its target {target:.3f}")
            found += [
                f"{dataset}: {measure_name} {ours:.4f} is not above {name} with {figures[measure_name]:.4f}"
                for name, figures in methods.items()
                if not name.startswith("eddy") and ours <= figures[measure_name]
            ]
    return found


def table(results: dict[str, dict[str, Figures]]) -> str:
    rows = []
    for dataset, methods in results.items():
        rows.append(f"{dataset:32}{'recall@20':>10}{'MRR@20':>10}")
        rows += [f"  {name:30}{one['recall20']:>10.4f}{one['mrr20']:>10.4f}" for name, one in methods.items()]
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--datasets", default=DEFAULT, help=f"data sets, separated by commas [{DEFAULT}]")
    parser.add_argument(
        "--seeds", default="0", help="seeds of the training, separated by commas; the results are means [0]"
    )
    parser.add_argument("--train", default="", help='more options for `eddy train`, such as "--epochs 1"')
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    results, conditions = kept(given.out, "results"), kept(given.out, "conditions")
    seeds = [int(seed) for seed in given.seeds.split(",")]
    report: dict[str, Any] = {}
    done: dict[str, dict[str, Figures]] = {}
    for dataset in given.datasets.split(","):
        done[dataset], conditions[dataset] = measure(dataset, seeds, shlex.split(given.train))
        results[dataset] = done[dataset]
        report = write_report(given.out, "bench.quality", conditions, results, failures(results))
        print(table({dataset: done[dataset]}), flush=True)
    wrong = failures(done)
    for line in wrong:
        print(f"FAILED: {line}")
    if given.json:
        print(json.dumps(report))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
