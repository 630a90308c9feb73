"""Measures the gain from `eddy train --catalogue`: recall and MRR for next clicks on items without training clicks.

The catalogue has all items of the log with a category, also those of the test part: the catalogue of a shop has new
items before anyone clicks them. Both models are trained with default settings on the same clicks. The target of each
list is the next click of the same user in the test part (bench/datasets.py), in full ranking. Without a catalogue an
item without training clicks is in no list. `not clicked before` excludes targets that the user has clicked before in
the test part, because a list can repeat them.

    python -m bench.cold_items [--datasets rees46-oct] [--seed 0] [--train OPTIONS] [--json]
"""

import argparse
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from bench.command import run_eddy, say, stop
from bench.datasets import split_of
from bench.report import RESULTS, Figures, kept, write_report
from export.arrays import I64, Flags
from export.dataset.windows import Windows, birth_period, encode
from export.log.log import Log, Vocabulary, read_log
from export.measure.metrics import Ranks, changes
from export.measure.ranking import list_ranks, recall_and_mrr
from export.network.states import memories, outputs
from export.network.weights import load_network
from stream.manifest import read_manifest

RESULT = RESULTS / "cold_items.json"
DEFAULT = "rees46-oct"
WITHOUT, WITH = "without a catalogue", "with a catalogue"


def write_catalogue(clicks: pl.DataFrame, path: Path) -> None:
    """Write item_id and category of each item with a category; the category is that of its last click."""
    if "category" not in clicks.columns:
        stop("this data set has no categories")
    named = clicks.filter(pl.col("category").is_not_null()).select("item_id", "category")
    named.unique("item_id", keep="last", maintain_order=True).write_csv(path)


def ranks_of(model: Path, test: Log, rows: I64) -> Ranks:
    """(m,) rank of the item after each click at rows (m,) in the model's list; users start from a zero state."""
    network, manifest = load_network(model), read_manifest(model)
    items = json.loads((model / "items.json").read_bytes())
    clicks = encode(test, Vocabulary(items, manifest.event_types, manifest.gap_edges_ms), birth_period(test.time_ms))
    remembered = memories(clicks, rows, network.mixture.remembered)
    return list_ranks(network, outputs(network, Windows(clicks), rows), remembered, clicks.target[rows])


def clicked_before(test: Log) -> Flags:
    """(n,) bool, True where the user has clicked the item before in the test part."""
    pairs = test.user.astype(np.int64) * len(test.items) + test.item
    _, first = np.unique(pairs, return_index=True)
    again = np.ones(len(test), np.bool_)
    again[first] = False
    return again


def figures(ranks: dict[str, Ranks], chosen: Flags, user: I64) -> Figures:
    """recall@20 and MRR@20 of the lists where chosen (m,) is True, and the paired difference with its interval."""
    some = {name: rank[chosen] for name, rank in ranks.items()}
    found: Figures = {"judged": int(chosen.sum())}
    for name, rank in some.items():
        recall, mrr = recall_and_mrr(rank)
        found[name] = {"recall20": round(recall, 4), "mrr20": round(mrr, 4)}
    if found["judged"]:
        found["change"] = changes(some, user[chosen])[WITH]
    return found


def measure(dataset: str, seed: int, options: list[str]) -> Figures:
    split = split_of(dataset)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        for name, part in (("train", split.train), ("test", split.test)):
            part.write_parquet(directory / f"{name}.parquet")
        write_catalogue(pl.concat([split.train, split.test]), directory / "items.csv")
        test = read_log(directory / "test.parquet")
        rows = np.flatnonzero(test.user[1:] == test.user[:-1])
        ranks: dict[str, Ranks] = {}
        for name, more in ((WITHOUT, []), (WITH, ["--catalogue", directory / "items.csv"])):
            say(f"{dataset}: training {name}")
            model = directory / name.partition(" ")[0] / "1"
            run_eddy(
                "train", directory / "train.parquet", "--out", model, "--seed", seed, *more, *split.flags, *options
            )
            ranks[name] = ranks_of(model, test, rows)
        trained = {str(item) for item in split.train["item_id"].unique()}
    cold = np.array([item not in trained for item in test.items])[test.item[rows + 1]]
    new = ~clicked_before(test)[rows + 1]
    user = test.user[rows].astype(np.int64)
    return {
        "items without training clicks": figures(ranks, cold, user),
        "items without training clicks, not clicked before": figures(ranks, cold & new, user),
        "items with training clicks": figures(ranks, ~cold, user),
        "all": figures(ranks, np.ones(len(rows), np.bool_), user),
    }


def table(dataset: str, found: dict[str, Figures]) -> str:
    lines = [f"{dataset:52}{'lists':>7}{'without':>18}{'with':>18}"]
    for name, one in found.items():
        pairs = "".join(f"{one[way]['recall20']:>9.4f} /{one[way]['mrr20']:.4f}" for way in (WITHOUT, WITH))
        lines.append(f"  {name:50}{one['judged']:>7}{pairs}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default=DEFAULT, help="comma-separated names [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trainings [%(default)s]")
    parser.add_argument("--train", default="", help='more options for `eddy train`, such as "--epochs 1"')
    parser.add_argument("--json", action="store_true", help="print the report on stdout")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results, report = kept(given.out, "results"), dict[str, Any]()
    for dataset in given.datasets.split(","):
        results[dataset] = measure(dataset, given.seed, shlex.split(given.train))
        conditions = {"judged": "the next click of the same user in the test part", "seed": given.seed}
        report = write_report(given.out, "bench.cold_items", conditions, results, [])
        if not given.json:
            print(table(dataset, results[dataset]), flush=True)
    if given.json:
        print(json.dumps(report))


if __name__ == "__main__":
    main()
