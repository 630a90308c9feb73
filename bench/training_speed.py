"""Training speed: an epoch of Eddy's trainer against a plain PyTorch GRU4Rec loop with a full softmax, same clicks.

The rival is bench/plain_gru4rec.py, a straightforward implementation. Both sides have the same hidden size, clicks and
threads. Each runs in its own process, one after the other. Both are evaluated on the newest sessions by full ranking:
unknown items are misses, and of items with equal scores the more popular one ranks first. Only training is timed. The
exit code is 1 if Eddy is not twice as fast, has lower quality, or needs more than 4 GB.

    python -m bench.training_speed [--clicks N] [--epochs N] [--threads 2,1] [--json]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bench.plain_gru4rec import DROPOUT, LANES, RATE, plain_epochs
from bench.report import DATA_DIRECTORY, RESULTS, ROOT, write_report
from export.arrays import I64
from export.dataset.windows import Clicks, Windows, birth_period, encode
from export.log.log import ColumnNames, Log, read_log
from export.measure.ranking import ranking_quality
from export.network.network import Network, Sizes
from export.network.states import outputs
from export.progress import NullProgress
from export.train.holdout import vocabulary_of
from export.train.settings import TrainSettings
from export.train.trainer import Trainer
from stream.demo.shop import build_shop
from stream.demo.simulate import DAY_MS, simulate_clean, write_log

RESULT = RESULTS / "training_speed.json"
DATA = DATA_DIRECTORY / "yoochoose_1_64_train.parquet"
JUDGED = 20_000
"""Maximum held-out clicks, from the newest sessions; a tenth of the clicks of a short log."""

FASTER, SAME, MEMORY_GB = 2.0, 0.005, 4.0
"""The claim: minimum speed ratio; maximum deficit in recall@20 and MRR@20 (sampling error); maximum memory, GB."""


class Task(NamedTuple):
    """Training clicks and held-out clicks of both sides. Sessions are users; item index V is the unknown item."""

    train: Clicks
    later: Clicks
    items: int
    event_types: int
    gaps: int


def read_task(path: Path, clicks: int | None) -> Task:
    """Read the newest `clicks` clicks of a log whose rows are in order, and hold out their newest sessions."""
    log = read_log(path, ColumnNames(item="item", session="session"), in_order=True)
    began = _session_starts(log)
    if clicks is not None:
        log = log.where(began >= _newest(began, clicks))
        began = _session_starts(log)
    held_out = began >= _newest(began, min(JUDGED, len(log) // 10))
    train = log.where(~held_out)
    vocabulary = vocabulary_of(train)
    parts = (encode(part, vocabulary, birth_period(log.time_ms)) for part in (train, log.where(held_out)))
    sizes = len(vocabulary.items), len(vocabulary.event_types), len(vocabulary.gap_edges_ms) + 2
    return Task(*parts, *sizes)


def _session_starts(log: Log) -> I64:
    """(n,) int64, start time of each click's session, ms."""
    first = np.append(True, log.user[1:] != log.user[:-1])
    return log.time_ms[np.flatnonzero(first)[np.cumsum(first) - 1]]


def _newest(began: I64, clicks: int) -> int:
    """The session start time (of began (n,), ms) from which on there are about `clicks` clicks."""
    return int(np.partition(began, max(0, len(began) - clicks))[max(0, len(began) - clicks)])


def simulated_log(directory: Path) -> Path:
    """Write half a million clicks of the simulated shop, for machines without the real log."""
    path = directory / "shop.csv"
    start_ms = 1_700_000_000_000
    stream = simulate_clean(build_shop(), users=5_000, seed=1, start_ms=start_ms)
    write_log(takewhile(lambda click: click.timestamp < start_ms + DAY_MS, stream), path)
    text = path.read_text().split("\n", 1)
    path.write_text(text[0].replace("session_id", "session").replace("item_id", "item") + "\n" + text[1])
    return path


# -- Eddy -------------------------------------------------------------------------------------------------------------


def eddy_epochs(
    task: Task, hidden: int, epochs: int, seed: int
) -> tuple[Callable[[], object], Callable[[], tuple[float, float]]]:
    """Functions of Eddy's trainer, with default settings for this log: train one epoch; evaluate.

    The network is evaluated without the mixture, which is fitted after the training, so both sides are comparable.
    """
    torch.manual_seed(seed)
    settings = TrainSettings.for_log(len(task.train), hidden, epochs, seed)
    network = Network(Sizes(task.items, task.event_types, task.gaps, hidden, settings.cell))
    trainer = Trainer(network, task.train, settings, NullProgress())

    def judge() -> tuple[float, float]:
        trained = trainer.trained()
        rows = np.flatnonzero(task.later.target >= 0)
        out = outputs(trained, Windows(task.later), rows)
        return ranking_quality(task.later.target[rows], task.items, lambda some: trained.logits(out[some]))

    return lambda: trainer.epoch(""), judge


# -- both -------------------------------------------------------------------------------------------------------------


def run_side(side: str, task: Task, hidden: int, epochs: int, seed: int) -> dict[str, Any]:
    """Train in this process; per epoch seconds by the clock and of the processor, recall@20 and MRR@20 after it."""
    if side == "plain":
        epoch, judge = plain_epochs(task.train, task.later, task.items, hidden, seed)
    else:
        epoch, judge = eddy_epochs(task, hidden, epochs, seed)
    rows = []
    for number in range(1, epochs + 1):
        wall, cpu = time.perf_counter(), time.process_time()
        epoch()
        row = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        trained_gb = peak_gb()
        row["recall20"], row["mrr20"] = judge()
        rows.append(row)
        print(f"  epoch {number}: " + ", ".join(f"{name} {value:.4f}" for name, value in row.items()), file=sys.stderr)
    best = max(rows, key=lambda row: row["recall20"] + row["mrr20"])
    return {
        "epoch_seconds": float(np.median([row["seconds"] for row in rows])),
        "epoch_cpu_seconds": float(np.median([row["cpu_seconds"] for row in rows])),
        "recall20": best["recall20"],
        "mrr20": best["mrr20"],
        "best_epoch": 1 + rows.index(best),
        "peak_memory_gb": trained_gb,
        "epochs": rows,
    }


def peak_gb() -> float:
    """Peak memory of this process, GB, including the data and PyTorch."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1e9 if sys.platform == "darwin" else 1e9 / 1024)


def in_own_process(side: str, threads: int, data: Path, given: argparse.Namespace) -> dict[str, Any]:
    print(f"{side}, {threads} threads", file=sys.stderr)
    options = {"side": side, "threads": threads, "data": data, "hidden": given.hidden, "epochs": given.epochs}
    if given.clicks:
        options["clicks"] = given.clicks
    command = [sys.executable, "-m", "bench.training_speed", *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def failures(results: dict[str, Any]) -> list[str]:
    """One line for each part of the claim that is not met."""
    found = []
    for threads, sides in results.items():
        eddy, plain = sides["eddy"], sides["plain"]
        if sides["times_as_fast"] < FASTER:
            found.append(f"{threads}: {sides['times_as_fast']:.2f} times as fast as the plain loop, not {FASTER}")
        found += [
            f"{threads}: {name} {eddy[name]:.4f} is below the plain loop's {plain[name]:.4f}"
            for name in ("recall20", "mrr20")
            if eddy[name] < plain[name] - SAME
        ]
        if eddy["peak_memory_gb"] > MEMORY_GB:
            found.append(f"{threads}: {eddy['peak_memory_gb']:.2f} GB, not at most {MEMORY_GB}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--clicks", type=int, help="use only so many of the newest clicks, for a quick trial")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument(
        "--threads", default="2,1", help="comma-separated thread counts of torch, one run for each [2,1]"
    )
    parser.add_argument("--data", type=Path, help="log with the columns session and item, rows in time order")
    parser.add_argument("--side", choices=["eddy", "plain"], help="run only this side, in this process")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    if given.side:
        torch.set_num_threads(int(given.threads))
        task = read_task(given.data, given.clicks)
        print(json.dumps(run_side(given.side, task, given.hidden, given.epochs, seed=0)))
        return 0

    with tempfile.TemporaryDirectory() as scratch:
        data = given.data or (DATA if DATA.is_file() else simulated_log(Path(scratch)))
        results: dict[str, Any] = {}
        for threads in map(int, given.threads.split(",")):
            sides = {side: in_own_process(side, threads, data, given) for side in ("eddy", "plain")}
            results[f"threads_{threads}"] = {
                "times_as_fast": sides["plain"]["epoch_seconds"] / sides["eddy"]["epoch_seconds"],
                "times_as_fast_cpu": sides["plain"]["epoch_cpu_seconds"] / sides["eddy"]["epoch_cpu_seconds"],
                **sides,
            }
        task = read_task(data, given.clicks)
    conditions = {
        "data": data.name if given.data or DATA.is_file() else "simulated shop",
        "clicks": len(task.train),
        "items": task.items,
        "judged_clicks": int((task.later.target >= 0).sum()),
        "hidden": given.hidden,
        "epochs": given.epochs,
        "eddy": "LSTM, sampled softmax, the settings that `eddy train` takes for this log",
        "plain": f"GRU, full softmax, {LANES} session-parallel lanes, Adam {RATE:g}, dropout {DROPOUT}",
        "order": "one process after another, Eddy first; quality is each side's best epoch",
    }
    wrong = failures(results)
    report = write_report(given.out, "bench.training_speed", conditions, results, wrong)
    print(f"{'':20}{'s/epoch':>9}{'CPU s':>9}{'GB':>6}{'recall@20':>11}{'MRR@20':>9}")
    for threads_name, sides in results.items():
        for side in ("eddy", "plain"):
            row = sides[side]
            print(
                f"{threads_name + ' ' + side:20}{row['epoch_seconds']:>9.1f}{row['epoch_cpu_seconds']:>9.1f}"
                f"{row['peak_memory_gb']:>6.2f}{row['recall20']:>11.4f}{row['mrr20']:>9.4f}"
            )
        print(f"{threads_name}: {sides['times_as_fast']:.1f} times as fast")
    if given.json:
        print(json.dumps(report))
    for line in wrong:
        print(f"FAILED: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
