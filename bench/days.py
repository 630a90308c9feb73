"""A news site day by day: each day's clicks are judged first and learned then, beside baselines that know as much.

The first model is trained on the days before the first one judged, with defaults. Each further day it is judged on the
day's clicks (`eddy`: users anew; `eddy_carried`: users with the states that their clicks of the last two days left) and
then trained on with those alone, `eddy train --from-model`. The rule: no model has learned a click of a day that it
is judged on, nor have the baselines, which are the model's own. The result is written after every day, and --resume
goes on with the models in .cache. Exit code 1 if Eddy is not above VS-KNN and Markov in both measures on a day.

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
from bench.quality import DAY_MS, METHODS, Figures, Ran, Split, globo, kept, say, stop
from bench.report import RESULTS, ROOT, write_report
from export.log.times import parse_time
from stream.manifest import read_manifest

RESULT = RESULTS / "days.json"
SCRATCH = ROOT / ".cache" / "days"
FIRST, LAST = 3, 12
RIVALS = ("vsknn", "markov")
"""What Eddy must be above."""

CARRIED_DAYS = 2
"""Users' states are built from so many days before the one judged: most news readers come back sooner or not at all."""

SHOWN = ("eddy", "eddy_carried", "markov", "vsknn", "popularity")


class Models:
    """The models of one chain, each called by the last day it has learned; resumed: those made before stay."""

    def __init__(self, place: Path, first: int, options: list[str], resumed: bool) -> None:
        self._place = place / f"from-day{first}{'_'.join(options).replace('/', '_')}"
        self._first, self._options = first, options
        if not resumed:
            shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir(parents=True, exist_ok=True)

    def before(self, day: int, split: Split) -> tuple[Path, Figures]:
        """The model that has learned all days before this one, and what it cost; the split is the day's."""
        model, facts = self._learned(day - 1), self._place / f"{day - 1}.json"
        if not (model / "manifest.json").is_file():
            log, from_model = self._place / "train.parquet", []
            clicks = split.train
            if day > self._first:
                clicks = globo(day - 1).test
                from_model = ["--from-model", self._learned(day - 2)]
            clicks.write_parquet(log)
            say(f"day {day}: training on {len(clicks):,} clicks")
            ran = quality.eddy("train", log, "--out", model, "--resume", *from_model, *self._options)
            cost = {"clicks_learned": len(clicks), "train_seconds": round(ran.seconds, 1), "train_peak_mb": ran.peak_mb}
            facts.write_text(json.dumps(cost))
        until = read_manifest(model).training["until"]
        if split.cut_ms is None or parse_time(until) >= split.cut_ms:
            stop(f"{model} was trained until {until}: it knows clicks of day {day}, which it is to be judged on")
        cost = json.loads(facts.read_text()) if facts.is_file() else {}
        return model, cost

    def log(self, clicks: pl.DataFrame) -> Path:
        """A file of these clicks; the next call takes its place."""
        path = self._place / "judged.parquet"
        clicks.write_parquet(path)
        return path

    def _learned(self, day: int) -> Path:
        return self._place / "globo" / str(day)


def judge(model: Path, models: Models, split: Split) -> tuple[dict[str, Figures], Figures]:
    """The figures of each method on a day's clicks, and the conditions they were measured under."""
    assert split.cut_ms is not None
    fresh = quality.eddy("evaluate", model, models.log(split.test), *quality.WHOLE, "--json")
    recent = split.train.filter(pl.col("timestamp") >= split.cut_ms - CARRIED_DAYS * DAY_MS)
    both = models.log(pl.concat([recent, split.test]))
    carried = figures_of(quality.eddy("evaluate", model, both, *quality.WHOLE, "--json", "--judge-from", split.cut_ms))
    found = figures_of(fresh)
    conditions = {key: found[key] for key in ("clicks", "judged", "lead", "vsknn_setting", "calibration")}
    conditions["evaluate_seconds"] = round(fresh.seconds, 1)
    return {**{name: found[name] for name in METHODS}, "eddy_carried": carried["eddy"]}, conditions


def figures_of(ran: Ran) -> Figures:
    """What `eddy evaluate --json` printed last."""
    figures: Figures = json.loads(ran.output.strip().splitlines()[-1])
    return figures


def failures(results: dict[str, dict[str, Figures]]) -> list[str]:
    """Where Eddy is not above its rivals, a line each."""
    return quality.failures({day: {name: one[name] for name in ("eddy", *RIVALS)} for day, one in results.items()})


def line(day: str, methods: dict[str, Figures]) -> str:
    """A row of the table: recall@20 / MRR@20 of each method."""
    return f"{day:14}" + "".join(
        f"{one['recall20']:>10.4f} /{one['mrr20']:.4f}" for one in map(methods.get, SHOWN) if one
    )


def days_of(text: str) -> range:
    """3..12 -> the days 3 to 12. Raises ArgumentTypeError."""
    first, dots, last = text.partition("..")
    if not (dots and first.isdigit() and last.isdigit() and 2 <= int(first) <= int(last) <= LAST):
        raise argparse.ArgumentTypeError(f"{text!r} is not FIRST..LAST, with 2 <= FIRST <= LAST <= {LAST}")
    return range(int(first), int(last) + 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--days", type=days_of, default=f"{FIRST}..{LAST}", help=f"which are judged [{FIRST}..{LAST}]")
    parser.add_argument("--train", default="", help='more options for every `eddy train`, such as "--epochs 1"')
    parser.add_argument("--resume", action="store_true", help="go on with the models and figures of a run cut short")
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
