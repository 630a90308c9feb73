"""Training speed: an epoch of Eddy's trainer against a plain PyTorch GRU4Rec loop with a full softmax, same clicks.

The rival is a straightforward implementation: session-parallel minibatches (Hidasi et al. 2016: a lane whose session
ends continues with the next session, with a reset state), nn.GRU, cross-entropy over all items, dense Adam. Both sides
have the same hidden size, clicks and threads. Each runs in its own process, one after the other. Both are evaluated on
the newest sessions by full ranking: unknown items are misses, and of items with equal scores the more popular one ranks
first. Only training is timed. The exit code is 1 if Eddy is not twice as fast, has lower quality, or needs more than
4 GB.

    python -m bench.training_speed [--clicks N] [--epochs N] [--threads 2,1] [--json]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench.report import DATA_DIRECTORY, RESULTS, ROOT, write_report
from export.arrays import I64, Flags
from export.dataset.windows import Clicks, Windows, birth_period, encode
from export.log.log import ColumnNames, Log, read_log
from export.measure.metrics import K
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

LANES, RATE, DROPOUT = 128, 3e-3, 0.2
"""The rival's settings: the best of six, compared on 40,000 clicks as below (64 to 256 lanes, rates 1e-3 to 3e-3)."""

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


# -- the rival --------------------------------------------------------------------------------------------------------


class PlainGru4Rec(nn.Module):
    """Item embedding, dropout, GRU, dropout, one logit for each item."""

    def __init__(self, items: int, hidden: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(items + 1, hidden)  # the last row is the unknown item; only held-out clicks contain it
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.drop = nn.Dropout(DROPOUT)
        self.logits = nn.Linear(hidden, items)

    def forward(self, item: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """item (B, T) int64, state (1, B, H) -> inputs of the last layer (B, T, H), new state (1, B, H)."""
        out, state = self.gru(self.drop(self.rows(item)), state)
        return self.drop(out), state


class LaneStep(NamedTuple):
    """One minibatch of B lanes: item (B,), next item (B,), and (B,) bool, True where a session begins."""

    item: I64
    target: I64
    begins: Flags


def session_parallel(item: I64, starts: I64, lanes: int) -> Iterator[LaneStep]:
    """The minibatches of one epoch, from sessions of at least two clicks in parallel lanes.

    The epoch ends when a lane needs a further session and none is left.

    item    (n,) int64, items of all sessions, concatenated
    starts  (s + 1,) int64, start of each session in item, and the end of the last one
    """
    sessions = np.flatnonzero(np.diff(starts) > 1)
    lanes = min(lanes, len(sessions))
    at, end = starts[sessions[:lanes]].copy(), starts[sessions[:lanes] + 1]
    begins = np.ones(lanes, np.bool_)
    following = lanes
    while True:
        yield LaneStep(item[at], item[at + 1], begins)
        at = at + 1
        begins = at + 1 >= end
        wanted = int(begins.sum())
        if following + wanted > len(sessions):
            return
        taken = sessions[following : following + wanted]
        at[begins], end[begins] = starts[taken], starts[taken + 1]
        following += wanted


def plain_epochs(task: Task, hidden: int, seed: int) -> tuple[Callable[[], object], Callable[[], tuple[float, float]]]:
    """Functions of the rival: train one epoch; evaluate (recall@20, MRR@20)."""
    torch.manual_seed(seed)
    network = PlainGru4Rec(task.items, hidden)
    adam = torch.optim.Adam(network.parameters(), RATE)
    item, starts = in_session_order(task.train)

    def epoch() -> None:
        network.train()
        state = torch.zeros(1, LANES, hidden)
        for step in session_parallel(item, starts, LANES):
            state = state[:, : len(step.item)] * torch.from_numpy(~step.begins).view(1, -1, 1)
            out, state = network(torch.from_numpy(step.item).unsqueeze(1), state.detach())
            loss = nn.functional.cross_entropy(network.logits(out.squeeze(1)), torch.from_numpy(step.target))
            adam.zero_grad()
            loss.backward()
            adam.step()

    return epoch, lambda: plain_quality(network, task.later)


def in_session_order(clicks: Clicks) -> tuple[I64, I64]:
    """Items (n,) with the sessions ordered by start time, and the start of each session in them (s + 1,)."""
    first = np.flatnonzero(np.append(True, clicks.user[1:] != clicks.user[:-1]))
    lengths = np.diff(np.append(first, len(clicks)))
    order = np.argsort(clicks.time_ms[first], kind="stable")
    rows = np.concatenate([np.arange(first[s], first[s] + lengths[s]) for s in order])
    return clicks.item[rows].astype(np.int64), np.append(0, np.cumsum(lengths[order]))


@torch.no_grad()
def plain_quality(network: PlainGru4Rec, clicks: Clicks) -> tuple[float, float]:
    """recall@20 and MRR@20 over all next clicks, defined as in export.measure.ranking.ranking_quality."""
    network.eval()
    item, starts = in_session_order(clicks)
    items = network.logits.out_features
    hits = reciprocal = 0.0
    judged = 0
    for first, last in pairwise(starts):
        if last - first < 2:
            continue
        session = torch.from_numpy(item[first:last])
        out, _ = network(session[:-1].unsqueeze(0), torch.zeros(1, 1, network.gru.hidden_size))
        target = session[1:]
        known = target < items
        scores, target = network.logits(out[0][known]), target[known].unsqueeze(1)
        own = scores.gather(1, target)
        lower = torch.arange(items).unsqueeze(0) < target
        rank = 1 + ((scores > own) | ((scores == own) & lower)).sum(1)
        hit = rank <= K
        hits, reciprocal = hits + float(hit.sum()), reciprocal + float((hit / rank).sum())
        judged += int(last - first - 1)
    return hits / judged, reciprocal / judged


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
        return ranking_quality(task.later.target[rows], task.items, lambda places: trained.logits(out[places]))

    return lambda: trainer.epoch(""), judge


# -- both -------------------------------------------------------------------------------------------------------------


def run_side(side: str, task: Task, hidden: int, epochs: int, seed: int) -> dict[str, Any]:
    """Train in this process; per epoch seconds by the clock and of the processor, recall@20 and MRR@20 after it."""
    epoch, judge = plain_epochs(task, hidden, seed) if side == "plain" else eddy_epochs(task, hidden, epochs, seed)
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
