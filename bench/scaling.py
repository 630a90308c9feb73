"""Measures how the CPU time of a click and the memory grow with the catalogue and with the number of users.

Each point is a process of its own: an engine with so many users in memory processes batches of BATCH clicks, from
columns to changed rows, without Kafka. Times are CPU times of one thread. The users of a batch are drawn from all,
evenly: a batch has hardly a user twice, and the rows are not in the CPU's cache.

From 100,000 items on, the models have a shortlist (network/shortlist.py). A training chooses its number of ranked items
by the loss of recall. Here there are no clicks, so the number is given: an eighth of the items, but at least 50,000.

    python -m bench.scaling [--items 20000,100000,1000000] [--users 10000,1000000,5000000] [--hidden 128]
        [--models DIRECTORY] [--json]

The catalogues are measured with the first number of users, the users with the first catalogue. Models have random
weights. They are written to --models and used again. A million items need 9 GB of memory for a minute, five million
users 7 GB.
"""

import argparse
import gc
import os
import resource
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from bench.command import say
from bench.report import RESULTS, Figures, conclude, write_report
from export.fit.shortlist import FEWEST, LARGE
from export.model.untrained import write_untrained
from stream.engine.columns import Columns
from stream.engine.engine import Engine
from stream.events import Partition
from stream.model.runtime import load_model
from stream.state.evict import Swept
from stream.state.staged import copies, stage
from stream.worker.served import open_engine

BATCH, BATCHES, FILL, K = 2_000, 4, 10_000, 20
START_MS = 1_735_689_600_000
PARTITION = Partition("clicks", 0)
GOALS = {"100000 items": 2.24, "1000000 items": 7.0, "5000000 users": 1.3}
"""Most times the CPU time of a click at the first size."""


def main() -> int:
    """Run the benchmark and write bench/results/scaling.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", default="20000,100000,1000000", help="sizes of the catalogue, V")
    parser.add_argument("--users", default="10000,1000000,5000000", help="users in memory")
    parser.add_argument("--hidden", type=int, default=128, help="units, H")
    parser.add_argument("--models", type=Path, help="directory for the models; they are used again")
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling.json")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    items, users = ([int(size) for size in sizes.split(",")] for sizes in (options.items, options.users))
    points = {f"{count} items": (count, users[0]) for count in items}
    points |= {f"{count} users": (items[0], count) for count in users}
    results: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (known, present) in points.items():
            directory = (options.models or Path(scratch)) / f"items-{known}" / str(options.hidden)
            with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as processes:
                if not (directory / "manifest.json").is_file():
                    say(f"writing a model of {known:,} items")
                    processes.submit(write_model, directory, known, options.hidden).result()
            say(f"measuring {name}")
            with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as processes:
                results[name] = processes.submit(measured, directory, present).result()
    for part in ([f"{count} items" for count in items], [f"{count} users" for count in users]):
        for name in part:
            results[name]["times"] = round(results[name]["cpu_us"] / results[part[0]]["cpu_us"], 2)
    say(table(results))
    failures = [
        f"{name}: a click takes {results[name]['times']} times the CPU time, the goal is {most}"
        for name, most in GOALS.items()
        if name in results and results[name]["times"] > most
    ]
    conditions = {"hidden": options.hidden, "batch": BATCH, "k": K}
    return conclude(write_report(options.out, "bench.scaling", conditions, results, failures), options.json)


def write_model(directory: Path, items: int, hidden: int) -> None:
    names, ranked = [f"item-{number}" for number in range(items)], max(FEWEST, items // 8) if items >= LARGE else None
    write_untrained(directory, names, ["view", "cart", "purchase"], hidden, ranked=ranked)


def measured(directory: Path, users: int) -> Figures:
    """CPU microseconds of a click, and the memory of the model and of the users."""
    empty = resident_mb()
    engine = open_engine(load_model(directory, "cpu"), directory, K, 0, 1e-9)  # no alerts: the pools are random numbers
    loaded = resident_mb()
    for start in range(0, users, FILL):
        owners = [(PARTITION, b"user-%08d" % user) for user in range(start, min(start + FILL, users))]
        found = engine.arena.find(owners)
        rows = copies(engine.arena, found)
        rows["clicks"], rows["last_ms"], rows["source_offset"] = 1, START_MS, -1
        stage(engine.arena, owners, found, rows, Swept((), 0, 0)).commit(engine.arena)
    gc.collect()
    filled = resident_mb()
    rng, took = np.random.default_rng(0), []
    for number in range(BATCHES + 1):
        clicks = batch(engine, users, number, rng)
        began = time.process_time()
        engine.commit(engine.process(clicks, START_MS))
        took.append((time.process_time() - began) / BATCH * 1e6)
    return {
        "cpu_us": round(statistics.median(took[1:]), 1),  # the first batch warms up
        "model_mb": round(loaded - empty),
        "users_mb": round(filled - loaded),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def batch(engine: Engine, users: int, number: int, rng: np.random.Generator) -> Columns:
    """Columns of BATCH clicks of users and items that are drawn evenly."""
    drawn = [b"user-%08d" % user for user in rng.integers(0, users, BATCH)]
    names = list(dict.fromkeys(drawn))
    at = {name: place for place, name in enumerate(names)}
    return Columns(
        owners=[(PARTITION, name) for name in names],
        owner=np.array([at[name] for name in drawn], np.intp),
        offset=np.arange(number * BATCH, (number + 1) * BATCH),
        time_ms=START_MS + 1_000 * np.arange(number * BATCH, (number + 1) * BATCH),
        item=rng.integers(0, len(engine.model.items), BATCH),
        event_type=np.zeros(BATCH, np.int64),
        hold=np.zeros(BATCH, np.int8),
        category=np.full(BATCH, -1, np.int32),
    )


def resident_mb() -> float:
    """Memory of this process that is in RAM, with the pages of mapped files, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def table(results: dict[str, Figures]) -> str:
    """The figures, for a person."""
    names = list(next(iter(results.values())))
    lines = [f"{'':18}" + "".join(f"{name:>10}" for name in names)]
    lines += [f"{point:18}" + "".join(f"{row[name]:>10}" for name in names) for point, row in results.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
