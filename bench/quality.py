"""How good the recommendations are: `eddy train` with defaults and `eddy evaluate` on public logs, beside baselines.

Each log is written as the loader takes it, a training and a test part; nothing of the test part is seen before it is
judged. Figures come from the ONNX files through the serving engine: full ranking, every position of every test session,
ties to the item with more training clicks. A run replaces the figures of its own data sets only. Exit code 1 if a
target is missed or a baseline is not beaten.

    python -m bench.quality [--datasets bolcom,yoochoose64,diginetica] [--seeds 0,1,2] [--train OPTIONS] [--json]

Data sets: bolcom, yoochoose64, diginetica; globo-dayN (trained on days 1 to N - 1); rees46, rees46-oct, retailrocket,
taobao, taobao-users, trivago, uci and the made-up successors (the newest tenth is the test). With -reset behind its
name each session is a user of its own, in training too. Where users come back, `eddy_carried` is eddy on users who
arrive at the test with the states that their earlier clicks left; `eddy` starts them anew.
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
"""For `eddy evaluate`: rank the whole catalogue, as the sources of the targets do."""
NEWEST = 0.1
"""Share of the clicks of a log without a test of its own after whose beginning a session belongs to the test."""

TARGETS = {"bolcom": (0.680, 0.330), "yoochoose64": (0.712, 0.312), "diginetica": (0.545, 0.190)}
"""recall@20 and MRR@20 to be reached."""

Figures = dict[str, Any]


def _row(recall20: float, mrr20: float) -> Figures:
    return {"recall20": recall20, "mrr20": mrr20}


REFERENCE: dict[str, dict[str, Figures]] = {
    "bolcom": {"gru4rec_official (design)": _row(0.670, 0.314), "vmis_knn published (design)": _row(0.640, 0.328)},
    "yoochoose64": {"gru4rec_official (design)": _row(0.698, 0.306), "sr_gnn published (design)": _row(0.706, 0.309)},
    "diginetica": {"gru4rec_official (design)": _row(0.531, 0.183), "gce_gnn published (design)": _row(0.542, 0.190)},
}
"""What the project's design states for the same files: not measured here."""


class Split(NamedTuple):
    """A log in two parts, in the loader's columns.

    what     for people
    flags    for `eddy train` and `eddy evaluate`
    judged   how many lists must be judged, where the source says so
    cut_ms   where the test begins, for logs whose users come back
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
        stop(f"no {path}: set EDDY_DATA to the directory that holds it")
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)


def bolcom() -> Split:
    def part(word: str) -> pl.DataFrame:
        columns = {"session": "session_id", "item": "item_id", "ts": "timestamp"}
        return read(f"bolcom_sample_{word}.parquet").rename(columns).sort("timestamp", maintain_order=True)

    train = pl.concat([part("train"), part("valid")]).sort("timestamp", maintain_order=True)
    return Split(train, part("test"), "training and validation sessions together, as the reference's final training")


def pairs(name: str) -> Split:
    """Training sessions in order without times, and test sessions rebuilt from the papers' (prefix, target) pairs."""
    train = read(f"{name}_train.parquet").rename({"session": "session_id", "item": "item_id"})
    test = read(f"{name}_test_pairs.parquet")
    sessions = whole_sessions(test["prefix"].to_list(), test["target"].to_list())
    frame = pl.DataFrame({"session_id": range(len(sessions)), "item_id": sessions}).explode("item_id")
    what = "rows in order, no times; every (prefix, target) pair is one judged list"
    return Split(train, frame, what, ("--in-order",), judged=len(test))


def whole_sessions(prefixes: list[list[int]], targets: list[int]) -> list[list[int]]:
    """The sessions that were cut into pairs, longest prefix first: a pair that lies in the one before is no new one."""
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
    """The actions whose reference is a hotel; users are anonymous beyond a session, as there."""
    columns = {
        "session_id": "session_id",
        "reference": "item_id",
        "action_type": "event_type",
        "timestamp": "timestamp",
    }
    actions = read("trivago_100k.parquet").select(list(columns)).rename(columns)
    return newest(actions.filter(pl.col("item_id").str.contains(r"^[0-9]+$")), 1000)


def rees46_oct() -> Split:
    """The first minutes of a month: few clicks of many users."""
    columns = {"user_id": "user_id", "user_session": "session_id", "product_id": "item_id", "category_id": "category"}
    kept = {**columns, "event_type": "event_type", "event_time": "timestamp"}
    events = read("rees46_2019_oct_sample.csv.gz").select(list(kept)).rename(kept)
    return newest(events.with_columns(_ms("timestamp", "%Y-%m-%d %H:%M:%S UTC")))


def taobao_users() -> Split:
    """Few users over nine days; the day of a user is a session."""
    columns = {"user": "user_id", "item": "item_id", "category": "category", "action": "event_type", "ts": "timestamp"}
    clicks = read("taobao_114_users.csv.gz").select(list(columns)).rename(columns)
    visit = pl.col("user_id").cast(pl.String) + "-" + (pl.col("timestamp") // 86_400).cast(pl.String)
    return newest(clicks.with_columns(visit.alias("session_id")), 1000)


def uci() -> Split:
    """Invoices of a wholesaler of gifts, line by line: what is bought together, in no order that means anything."""
    columns = {"CustomerID": "user_id", "InvoiceNo": "session_id", "StockCode": "item_id", "InvoiceDate": "timestamp"}
    lines = read("uci_online_retail.parquet").filter(pl.col("CustomerID").is_not_null() & (pl.col("Quantity") > 0))
    return newest(lines.select(list(columns)).rename(columns).with_columns(_ms("timestamp", "%Y-%m-%d %H:%M:%S")))


def successors() -> Split:
    """Made up: 300 items, each with three successors; every fifth click is by popularity. There is no more to learn."""
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
    """The newest sessions are the test: those begun after the cut. Without sessions, users are taken for them."""
    clicks = clicks.with_columns(pl.col("timestamp").cast(pl.Int64) * unit_ms).sort("timestamp", maintain_order=True)
    session = "session_id" if "session_id" in clicks.columns else "user_id"
    cut = int(clicks["timestamp"].quantile(1 - NEWEST, "nearest") or 0)
    began, at = pl.col("timestamp").min().over(session), pl.col("timestamp")
    train, test = clicks.filter((began < cut) & (at < cut)), clicks.filter(began >= cut)
    kind = "users" if session == "user_id" else "sessions"
    what = f"the {kind} begun in the newest {NEWEST:.0%} of the clicks are the test"
    returning = cut if session == "session_id" and "user_id" in clicks.columns else None
    return Split(train, test, what, cut_ms=returning)


def reset(split: Split) -> Split:
    """The same log with each session a user of its own."""
    alone = pl.col("session_id").alias("user_id")
    return split._replace(
        train=split.train.with_columns(alone),
        test=split.test.with_columns(alone),
        what=f"{split.what}; each session a user of its own",
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
        stop(f"no data set {name!r}; there are {', '.join(LOGS)}, and each with -reset")
    split = LOGS[name]()
    return split if name == dataset else reset(split)


# -- train and evaluate ------------------------------------------------------------------------------------------------


class Ran(NamedTuple):
    """A command that ended well: what it printed, its seconds, and the most memory it held."""

    output: str
    seconds: float
    peak_mb: int


def eddy(*arguments: object) -> Ran:
    """Run an `eddy` command in a process of its own; a failure ends the benchmark."""
    command = [sys.executable, "-m", "stream.ops.cli", *map(str, arguments)]
    began = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)  # of this process alone, where getrusage has the largest of all
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        stop(f"eddy {arguments[0]} ended with {process.returncode}")
    kilobytes = usage.ru_maxrss if sys.platform == "linux" else usage.ru_maxrss // 1024
    return Ran(output, time.monotonic() - began, round(kilobytes / 1024))


def measure(dataset: str, seeds: list[int], options: list[str]) -> tuple[dict[str, Figures], Figures]:
    """The figures of each method, and the conditions they were measured under; baselines do not depend on the seed."""
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
        trained = eddy("train", train_log, "--out", model, "--seed", seed, *split.flags, *options)
        say(f"{dataset}: evaluating")
        evaluated = eddy("evaluate", model, test_log, *WHOLE, "--json", *split.flags)
        runs.append(json.loads(evaluated.output.strip().splitlines()[-1]))
        if split.judged not in (None, runs[-1]["judged"]):
            stop(f"{dataset}: {runs[-1]['judged']} lists judged, but the source has {split.judged}")
        if split.cut_ms is not None:
            both = directory / "both.parquet"
            pl.concat([split.train, split.test]).write_parquet(both)
            with_history = eddy("evaluate", model, both, *WHOLE, "--json", "--judge-from", split.cut_ms)
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
    """The first seed's figures, but the means of the measures over all of them, and each seed's two under `by_seed`."""
    means = {key: sum(run[key] for run in runs) / len(runs) for key, one in runs[0].items() if isinstance(one, float)}
    each = {str(seed): _row(run["recall20"], run["mrr20"]) for seed, run in zip(seeds, runs, strict=True)}
    return {**runs[0], **means, "by_seed": each}


# -- what came of it --------------------------------------------------------------------------------------------------


def failures(results: dict[str, dict[str, Figures]]) -> list[str]:
    """What of the claim does not hold."""
    found = []
    for dataset, methods in results.items():
        for place, measure_name in enumerate(("recall20", "mrr20")):
            ours = methods["eddy"][measure_name]
            target = TARGETS.get(dataset, (0.0, 0.0))[place]
            if ours < target:
                found.append(f"{dataset}: {measure_name} {ours:.4f} is below its target {target:.3f}")
            found += [
                f"{dataset}: {measure_name} {ours:.4f} is not above {name}'s {figures[measure_name]:.4f}"
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
    """What an earlier run left under a key of the result."""
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
    parser.add_argument("--datasets", default=DEFAULT, help=f"which, by comma [{DEFAULT}]")
    parser.add_argument("--seeds", default="0", help="of the training, by comma; eddy's figures are their means [0]")
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
