"""Evaluates Eddy on a news site day by day: each day's clicks are first the test and then the training, with baselines.

The first model is trained with the default settings on the days before the first test day. On every test day:

1. The model is evaluated on the day's clicks. `eddy`: users start from a zero state. `eddy_carried`: users have the
   states after their clicks of the last two days.
2. The model is trained further on the clicks of that day alone, with `eddy train --from-model`.

So no model and no baseline has learned a click of a day that it is tested on. The result is written after every day.
--resume continues with the models in .cache. Exit code 1 if Eddy is not better than VS-KNN and Markov in recall and MRR
on every day.

    python -m bench.days [--days 3..12] [--train OPTIONS] [--resume] [--json]
"""

import argparse
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import polars as pl

from bench import quality
from bench.command import Ran, run_eddy, say, stop
from bench.datasets import DAY_MS, Split, globo
from bench.quality import METHODS
from bench.report import RESULTS, ROOT, Figures, kept, write_report
from export.log.times import parse_time
from stream.manifest import read_manifest

RESULT = RESULTS / "days.json"
SCRATCH = ROOT / ".cache" / "days"
FIRST, LAST = 3, 12
RIVALS = ("vsknn", "markov")
"""The baselines that Eddy must beat."""

CARRIED_DAYS = 2
"""For `eddy_carried` the users' states are built from this many days before the test day. Most readers of news return
earlier than that or never."""

SHOWN = ("eddy", "eddy_carried", "markov", "vsknn", "popularity")


class Models:
    """A series of models. The version of each is the last day that it has learned.

    first    the first test day
    options  of `eddy train`
    resumed  keep the models of an earlier run
    """

    def __init__(self, parent: Path, first: int, options: list[str], resumed: bool) -> None:
        self._directory = parent / f"from-day{first}{'_'.join(options).replace('/', '_')}"
        self._first, self._options = first, options
        if not resumed:
            shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True, exist_ok=True)

    def before(self, day: int, split: Split) -> tuple[Path, Figures]:
        """Return the model that has learned all days before this one, and the cost of its training.

        split  of the day
        """
        model, facts = self._learned(day - 1), self._directory / f"{day - 1}.json"
        if not (model / "manifest.json").is_file():
            log, from_model = self._directory / "train.parquet", []
            clicks = split.train
            if day > self._first:
                clicks = globo(day - 1).test
                from_model = ["--from-model", self._learned(day - 2)]
            clicks.write_parquet(log)
            say(f"day {day}: training on {len(clicks):,} clicks")
            ran = run_eddy("train", log, "--out", model, "--resume", *from_model, *self._options)
            cost = {"clicks_learned": len(clicks), "train_seconds": round(ran.seconds, 1), "train_peak_mb": ran.peak_mb}
            facts.write_text(json.dumps(cost))
        until = read_manifest(model).training["until"]
        if split.cut_ms is None or parse_time(until) >= split.cut_ms:
            stop(f"{model} was trained until {until}: it has learned clicks of day {day}, on which it would be judged")
        cost = json.loads(facts.read_text()) if facts.is_file() else {}
        return model, cost

    def log(self, clicks: pl.DataFrame) -> Path:
        """Write these clicks to a file and return its path. The next call replaces the file."""
        path = self._directory / "judged.parquet"
        clicks.write_parquet(path)
        return path

    def _learned(self, day: int) -> Path:
        return self._directory / "globo" / str(day)


def judge(model: Path, models: Models, split: Split) -> tuple[dict[str, Figures], Figures]:
    """The metrics of each method on a day's clicks, and the conditions of the measurement."""
    assert split.cut_ms is not None
    fresh = run_eddy("evaluate", model, models.log(split.test), *quality.WHOLE, "--json")
    recent = split.train.filter(pl.col("timestamp") >= split.cut_ms - CARRIED_DAYS * DAY_MS)
    both = models.log(pl.concat([recent, split.test]))
    carried = figures_of(run_eddy("evaluate", model, both, *quality.WHOLE, "--json", "--judge-from", split.cut_ms))
    found = figures_of(fresh)
    conditions = {key: found[key] for key in ("clicks", "judged", "lead", "vsknn_setting", "calibration")}
    conditions["evaluate_seconds"] = round(fresh.seconds, 1)
    return {**{name: found[name] for name in METHODS}, "eddy_carried": carried["eddy"]}, conditions


def figures_of(ran: Ran) -> Figures:
    """The JSON object on the last line that `eddy evaluate --json` printed."""
    figures: Figures = json.loads(ran.output.strip().splitlines()[-1])
    return figures


def failures(results: dict[str, dict[str, Figures]]) -> list[str]:
    """One line for each metric in which Eddy is not better than a baseline of RIVALS."""
    return quality.failures({day: {name: one[name] for name in ("eddy", *RIVALS)} for day, one in results.items()})


def line(day: str, methods: dict[str, Figures]) -> str:
    """One row of the printed table: recall@20 / MRR@20 of each method."""
    return f"{day:14}" + "".join(
        f"{one['recall20']:>10.4f} /{one['mrr20']:.4f}" for one in map(methods.get, SHOWN) if one
    )


def days_of(text: str) -> range:
    """Parse a range of days: "3..12" -> the days 3 to 12. Raises ArgumentTypeError."""
    first, dots, last = text.partition("..")
    if not (dots and first.isdigit() and last.isdigit() and 2 <= int(first) <= int(last) <= LAST):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST..LAST, with 2 <= FIRST <= LAST <= {LAST}")
    return range(int(first), int(last) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--days", type=days_of, default=f"{FIRST}..{LAST}", help=f"the test days [{FIRST}..{LAST}]")
    parser.add_argument("--train", default="", help='more options for every `eddy train`, such as "--epochs 1"')
    parser.add_argument(
        "--resume", action="store_true", help="continue with the models and results of an interrupted run"
    )
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    options = shlex.split(given.train)
    models = Models(SCRATCH, given.days.start, options, given.resume)
    measured, under = (kept(given.out, key) if given.resume else {} for key in ("results", "conditions"))
    results: dict[str, dict[str, Figures]] = {}
    conditions: dict[str, Figures] = {}
    report: dict[str, Any] = {}
    print(f"{'':14}" + "".join(f"{name:>18}" for name in SHOWN))
    for day in given.days:
        name, split = f"globo-day{day}", globo(day)
        model, cost = models.before(day, split)
        identity = read_manifest(model).identity
        if under.get(name, {}).get("model_identity") == identity:
            results[name], conditions[name] = measured[name], under[name]
        else:
            say(f"day {day}: evaluating")
            results[name], found = judge(model, models, split)
            conditions[name] = {"model_identity": identity, "options": options, **cost, **found}
        report = write_report(given.out, "bench.days", conditions, results, failures(results))
        print(line(name, results[name]), flush=True)
    for wrong in failures(results):
        print(f"FAILED: {wrong}")
    if given.json:
        print(json.dumps(report))
    return 1 if failures(results) else 0


if __name__ == "__main__":
    sys.exit(main())
