"""Measures recall and MRR on public logs: `eddy train` with default settings and `eddy evaluate`, with baselines.

Each log is split into a training part and a test part. The test part is not used before the evaluation. The metrics
come from the ONNX files and the serving engine: full ranking, every position of every test session, ties to the item
with more training clicks. A run replaces only the results of its own data sets. Exit code 1 if Eddy misses a target or
does not beat a baseline.

    python -m bench.quality [--datasets bolcom,yoochoose64,diginetica] [--seeds 0,1,2] [--train OPTIONS] [--json]

Data sets with their own test part: bolcom, yoochoose64, diginetica, and globo-dayN, which is trained on the days 1 to
N - 1. Data sets whose newest tenth is the test part: rees46, rees46-oct, retailrocket, taobao, taobao-users, trivago,
uci, and the synthetic successors. With the suffix -reset every session is a separate user, in the training too. If
users return, `eddy_carried` is Eddy with the users' states after their earlier clicks. In `eddy` all users start from a
zero state.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import polars as pl

from bench.report import DATA_DIRECTORY, RESULTS, ROOT, write_report

RESULT = RESULTS / "quality.json"
SCRATCH = ROOT / ".cache" / "quality"
DEFAULT = "bolcom,yoochoose64,diginetica"
METHODS = ("eddy", "popularity", "session_popularity", "markov", "cooccurrence", "vsknn")
GLOBO_START_MS, DAY_MS = 1_506_826_800_000, 86_400_000
WHOLE = ("--exclude-recent", 0)
"""Options of `eddy evaluate`: rank the whole catalogue, as the sources of the targets do."""
NEWEST = 0.1
"""In a log without its own test part, the sessions that begin in this newest share of the clicks are the test."""

TARGETS = {"bolcom": (0.680, 0.330), "yoochoose64": (0.712, 0.312), "diginetica": (0.545, 0.190)}
"""Target values of recall@20 and MRR@20."""

Figures = dict[str, Any]


def _row(recall20: float, mrr20: float) -> Figures:
    return {"recall20": recall20, "mrr20": mrr20}


REFERENCE: dict[str, dict[str, Figures]] = {
    "bolcom": {"gru4rec_official (design)": _row(0.670, 0.314), "vmis_knn published (design)": _row(0.640, 0.328)},
    "yoochoose64": {"gru4rec_official (design)": _row(0.698, 0.306), "sr_gnn published (design)": _row(0.706, 0.309)},
    "diginetica": {"gru4rec_official (design)": _row(0.531, 0.183), "gce_gnn published (design)": _row(0.542, 0.190)},
}
"""Values from the project's design for the same files. They are not measured here."""


class Split(NamedTuple):
    """The training part and the test part of a log, with the column names of the log reader.

    what    description of the split
    flags   options for `eddy train` and `eddy evaluate`
    judged  number of lists that must be judged, if the source gives it
    cut_ms  first time of the test, for logs whose users return
    """

    train: pl.DataFrame
    test: pl.DataFrame
    what: str
    flags: tuple[str, ...] = ()
    judged: int | None = None
    cut_ms: int | None = None


# -- the logs ---------------------------------------------------------------------------------------------------------


def read(name: str) -> pl.DataFrame:
    path = DATA_DIRECTORY / name
    if not path.is_file():
        stop(f"{path} does not exist: set EDDY_DATA to the directory of this file")
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)


def bolcom() -> Split:
    def part(word: str) -> pl.DataFrame:
        columns = {"session": "session_id", "item": "item_id", "ts": "timestamp"}
        return read(f"bolcom_sample_{word}.parquet").rename(columns).sort("timestamp", maintain_order=True)

    train = pl.concat([part("train"), part("valid")]).sort("timestamp", maintain_order=True)
    return Split(train, part("test"), "training and validation sessions together, as the reference's final training")


def pairs(name: str) -> Split:
    """Training sessions in order, no times; test sessions rebuilt from the (prefix, target) pairs of the papers."""
    train = read(f"{name}_train.parquet").rename({"session": "session_id", "item": "item_id"})
    test = read(f"{name}_test_pairs.parquet")
    sessions = whole_sessions(test["prefix"].to_list(), test["target"].to_list())
    frame = pl.DataFrame({"session_id": range(len(sessions)), "item_id": sessions}).explode("item_id")
    what = "rows in order, no times; every (prefix, target) pair is one judged list"
    return Split(train, frame, what, ("--in-order",), judged=len(test))


def whole_sessions(prefixes: list[list[int]], targets: list[int]) -> list[list[int]]:
    """The sessions from which the pairs were made. A pair that is a prefix of the pair before it is no new session.

    prefixes, targets  of the pairs; those of one session are adjacent, longest prefix first
    """
    sessions: list[list[int]] = []
    longer: list[int] = []
    for prefix, target in zip(prefixes, targets, strict=True):
        whole = [*prefix, target]
        if whole != longer:
            sessions.append(whole)
        longer = prefix
    return sessions


def globo(day: int) -> Split:
    columns = {"user_id": "user_id", "session_id": "session_id", "article_id": "item_id", "timestamp": "timestamp"}
    clicks = read("globo_clicks.parquet").select(list(columns)).rename(columns)
    begins = GLOBO_START_MS + (day - 1) * DAY_MS
    at = pl.col("timestamp")
    train, test = clicks.filter(at < begins), clicks.filter((at >= begins) & (at < begins + DAY_MS))
    return Split(train, test, f"trained on days 1 to {day - 1}, tested on day {day}", cut_ms=begins)


def rees46() -> Split:
    columns = {"u": "user_id", "session": "session_id", "pid": "item_id", "csid": "category", "etime": "timestamp"}
    return newest(read("rees46_sessions.parquet").select(list(columns)).rename(columns), 1000)


def retailrocket() -> Split:
    columns = {"visitorid": "user_id", "itemid": "item_id", "event": "event_type", "timestamp": "timestamp"}
    return newest(read("retailrocket_5000_visitors.csv.gz").select(list(columns)).rename(columns))


def taobao() -> Split:
    columns = {"user": "user_id", "item": "item_id", "category": "category", "action": "event_type", "ts": "timestamp"}
    return newest(read("taobao_2_hours.csv.gz").select(list(columns)).rename(columns), 1000)


def trivago() -> Split:
    """The actions whose reference is a hotel. Every session is a separate user, as in the source."""
    columns = {
        "session_id": "session_id",
        "reference": "item_id",
        "action_type": "event_type",
        "timestamp": "timestamp",
    }
    actions = read("trivago_100k.parquet").select(list(columns)).rename(columns)
    return newest(actions.filter(pl.col("item_id").str.contains(r"^[0-9]+$")), 1000)


def rees46_oct() -> Split:
    """The first minutes of a month: many users with few clicks each."""
    columns = {"user_id": "user_id", "user_session": "session_id", "product_id": "item_id", "category_id": "category"}
    kept = {**columns, "event_type": "event_type", "event_time": "timestamp"}
    events = read("rees46_2019_oct_sample.csv.gz").select(list(kept)).rename(kept)
    return newest(events.with_columns(_ms("timestamp", "%Y-%m-%d %H:%M:%S UTC")))


def taobao_users() -> Split:
    """Few users over nine days. All clicks of a user on one day are a session."""
    columns = {"user": "user_id", "item": "item_id", "category": "category", "action": "event_type", "ts": "timestamp"}
    clicks = read("taobao_114_users.csv.gz").select(list(columns)).rename(columns)
    session = pl.col("user_id").cast(pl.String) + "-" + (pl.col("timestamp") // 86_400).cast(pl.String)
    return newest(clicks.with_columns(session.alias("session_id")), 1000)


def uci() -> Split:
    """The invoices of a wholesaler of gifts. An invoice is a session; the order of its lines has no meaning."""
    columns = {"CustomerID": "user_id", "InvoiceNo": "session_id", "StockCode": "item_id", "InvoiceDate": "timestamp"}
    lines = read("uci_online_retail.parquet").filter(pl.col("CustomerID").is_not_null() & (pl.col("Quantity") > 0))
    return newest(lines.select(list(columns)).rename(columns).with_columns(_ms("timestamp", "%Y-%m-%d %H:%M:%S")))


def successors() -> Split:
    """A synthetic log: 300 items with three successors each. A fifth of the clicks follow popularity instead."""
    rng = np.random.default_rng(0)
    following, popular = rng.integers(0, 300, (300, 3)), 1 / np.arange(1, 301)
    popular /= popular.sum()
    rows: list[tuple[int, int, int, int]] = []
    for session in range(1_800):
        item, at = int(rng.choice(300, p=popular)), GLOBO_START_MS + int(rng.integers(14 * DAY_MS))
        for _ in range(1 + int(rng.geometric(0.2))):
            rows.append((session % 600, session, item, at))
            at += int(rng.integers(3_000, 120_000))
            item = int(following[item, rng.integers(3)] if rng.random() < 0.8 else rng.choice(300, p=popular))
    return newest(pl.DataFrame(rows, schema=["user_id", "session_id", "item_id", "timestamp"], orient="row"))


def _ms(column: str, pattern: str) -> pl.Expr:
    return pl.col(column).str.to_datetime(pattern).dt.epoch("ms")


def newest(clicks: pl.DataFrame, unit_ms: int = 1) -> Split:
    """Split a log: the sessions that begin after the cut are the test. Without sessions the users are split.

    unit_ms  milliseconds per unit of the timestamp column
    """
    clicks = clicks.with_columns(pl.col("timestamp").cast(pl.Int64) * unit_ms).sort("timestamp", maintain_order=True)
    session = "session_id" if "session_id" in clicks.columns else "user_id"
    cut = int(clicks["timestamp"].quantile(1 - NEWEST, "nearest") or 0)
    began, at = pl.col("timestamp").min().over(session), pl.col("timestamp")
    train, test = clicks.filter((began < cut) & (at < cut)), clicks.filter(began >= cut)
    kind = "users" if session == "user_id" else "sessions"
    what = f"the {kind} that begin in the newest {NEWEST:.0%} of the clicks are the test"
    returning = cut if session == "session_id" and "user_id" in clicks.columns else None
    return Split(train, test, what, cut_ms=returning)


def reset(split: Split) -> Split:
    """The same log, where every session is a separate user."""
    alone = pl.col("session_id").alias("user_id")
    return split._replace(
        train=split.train.with_columns(alone),
        test=split.test.with_columns(alone),
        what=f"{split.what}; every session is a separate user",
        cut_ms=None,
    )


LOGS: dict[str, Callable[[], Split]] = {
    "bolcom": bolcom,
    "yoochoose64": lambda: pairs("yoochoose_1_64"),
    "diginetica": lambda: pairs("diginetica"),
    "rees46": rees46,
    "rees46-oct": rees46_oct,
    "retailrocket": retailrocket,
    "successors": successors,
    "taobao": taobao,
    "taobao-users": taobao_users,
    "trivago": trivago,
    "uci": uci,
    **{f"globo-day{day}": lambda day=day: globo(day) for day in range(3, 13)},
}


def split_of(dataset: str) -> Split:
    name = dataset.removesuffix("-reset")
    if name not in LOGS:
        stop(f"unknown data set {name!r}; known are {', '.join(LOGS)}, each also with -reset")
    split = LOGS[name]()
    return split if name == dataset else reset(split)


# -- train and evaluate ------------------------------------------------------------------------------------------------


class Ran(NamedTuple):
    """A command that has succeeded: its output on stdout, its duration, and its peak memory."""

    output: str
    seconds: float
    peak_mb: int


def run_eddy(*arguments: object) -> Ran:
    """Run an `eddy` command as a process and wait for its end. If it fails, the benchmark ends with exit code 2."""
    command = [sys.executable, "-m", "stream.ops.cli", *map(str, arguments)]
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)  # of this process only; getrusage has the maximum of all
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        stop(f"eddy {arguments[0]} ended with exit code {process.returncode}")
    kilobytes = usage.ru_maxrss if sys.platform == "linux" else usage.ru_maxrss // 1024
    return Ran(output, time.monotonic() - began, round(kilobytes / 1024))


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


def kept(path: Path, key: str) -> dict[str, Any]:
    """The value of a key in the result file of an earlier run; {} without a file."""
    if not path.is_file():
        return {}
    earlier: dict[str, Any] = json.loads(path.read_text()).get(key, {})
    return earlier


def say(line: str) -> None:
    print(line, file=sys.stderr)


def stop(line: str) -> NoReturn:
    say(f"quality: {line}")
    sys.exit(2)


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
