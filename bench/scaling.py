"""Measures how the time of a click and the memory grow with the catalogue and with the number of users.

Each point is a process of its own: an engine with so many users processes batches of BATCH clicks, from columns to
changed rows, without Kafka. CPU times are of one thread, with what the kernel does for it. The users of a batch are
drawn from all, evenly: a batch has hardly a user twice, and the rows are not in the CPU's cache.

From 10,000 items on, the models have shortlist.onnx. A training chooses its number of ranked items by the loss of
recall (fit/shortlist.py). Here there are no clicks, so the number is given: all items, and from 100,000 items on an
eighth of them, but at least 50,000.

    python -m bench.scaling [--items 20000,100000,1000000] [--users 10000,1000000,5000000] [--hidden 128]
        [--models DIRECTORY] [--states DIRECTORY] [--json]

The catalogues are measured with the first number of users, the users with the first catalogue. The largest number of
users is measured twice more, with the states in a file in --states (`--state-on-disk`): "on disk" leaves it to the
kernel what it keeps in memory; "read from disk" moves all states out of memory before each batch, so that each one is
read from the disk, as on a machine whose memory has no room for any state.

Models have random weights. They are written to --models and used again. A million items need 9 GB of memory for a
minute, five million users 7 GB, and as much space in --states.
"""

import argparse
import ctypes
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
from stream.engine.columns import Columns
from stream.engine.engine import Engine
from stream.events import Partition
from stream.model.runtime import load_model
from stream.past.clicks import Names
from stream.state.blocks import in_ram, on_disk
from stream.state.evict import Swept
from stream.state.staged import copies, stage
from stream.worker.served import open_engine

BATCH, BATCHES, FILL, K = 2_000, 4, 10_000, 20
START_MS = 1_735_689_600_000
PARTITION = Partition("clicks", 0)
ON_DISK, FROM_DISK = "on disk", "read from disk"
GOALS = {
    "100000 items": 2.24,
    "1000000 items": 7.0,
    "5000000 users": 1.3,
    "5000000 users on disk": 1.3,
    "5000000 users read from disk": 1.3,
}
"""Most times the CPU time of a click at the first size."""

MADV_PAGEOUT = 21


def main() -> int:
    """Run the benchmark and write bench/results/scaling.json."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", default="20000,100000,1000000", help="sizes of the catalogue, V")
    parser.add_argument("--users", default="10000,1000000,5000000", help="users in memory")
    parser.add_argument("--hidden", type=int, default=128, help="units, H")
    parser.add_argument("--models", type=Path, help="directory for the models; they are used again")
    parser.add_argument("--states", type=Path, help="directory of the states on disk; not on a tmpfs")
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling.json")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    items, users = ([int(size) for size in sizes.split(",")] for sizes in (options.items, options.users))
    points = {f"{count} items": (count, users[0], "") for count in items}
    points |= {f"{count} users": (items[0], count, "") for count in users}
    points |= {f"{max(users)} users {how}": (items[0], max(users), how) for how in (ON_DISK, FROM_DISK)}
    results: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (known, present, how) in points.items():
            directory = (options.models or Path(scratch)) / f"items-{known}" / str(options.hidden)
            with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as processes:
                if not (directory / "manifest.json").is_file():
                    say(f"writing a model of {known:,} items")
                    processes.submit(write_model, directory, known, options.hidden).result()
            say(f"measuring {name}")
            with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as processes:
                states = options.states or Path(scratch)
                results[name] = processes.submit(measured, directory, present, how, states).result()
    for part in ([name for name in points if word in name] for word in ("items", "users")):
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
    from export.fit.shortlist import FEWEST, LARGE, SMALL_PART  # PyTorch: 0.6 GB in the processes that are measured
    from export.model.untrained import write_untrained

    names = [f"item-{number}" for number in range(items)]
    ranked = max(FEWEST, items // 8) if items >= LARGE else items if items >= LARGE // SMALL_PART else None
    write_untrained(directory, names, ["view", "cart", "purchase"], hidden, ranked=ranked)


def measured(directory: Path, users: int, how: str, states: Path) -> Figures:
    """Microseconds of a click, and the memory of the model and of the users.

    how     "", ON_DISK or FROM_DISK
    states  directory of the states on disk

    users_mb is what the users take of memory once they are there, users_anon_mb the part of it that is not in a mapped
    file, last_mb the memory of the process after the last batch.
    """
    empty = resident_mb()
    new_block = on_disk(states) if how else in_ram
    model = load_model(directory, "cpu")
    engine = open_engine(model, directory, K, 0, 1e-9, new_block=new_block)  # no alerts: the pools are random numbers
    loaded = resident_mb()
    began = time.perf_counter()
    for start in range(0, users, FILL):
        owners = [(PARTITION, b"user-%08d" % user) for user in range(start, min(start + FILL, users))]
        found = engine.arena.find(owners)
        rows = copies(engine.arena, found)
        rows["clicks"], rows["last_ms"], rows["source_offset"] = 1, START_MS, -1
        stage(engine.arena, owners, found, rows, Swept((), 0, 0)).commit(engine.arena)
    fill_us = (time.perf_counter() - began) / users * 1e6
    gc.collect()
    filled = resident_mb()
    rng, cpu, wall = np.random.default_rng(0), [], []
    for number in range(BATCHES + 1):
        clicks = batch(engine, users, number, rng)
        if how == FROM_DISK:
            page_out(states)
        began_cpu, began = time.process_time(), time.perf_counter()
        engine.commit(engine.process(clicks, START_MS))
        cpu.append((time.process_time() - began_cpu) / BATCH * 1e6)
        wall.append((time.perf_counter() - began) / BATCH * 1e6)
    return {
        "cpu_us": round(statistics.median(cpu[1:]), 1),  # the first batch warms up
        "wall_us": round(statistics.median(wall[1:]), 1),
        "fill_us": round(fill_us, 1),
        "model_mb": round(loaded["all"] - empty["all"]),
        "users_mb": round(filled["all"] - loaded["all"]),
        "users_anon_mb": round(filled["RssAnon"] - loaded["RssAnon"]),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "last_mb": round(resident_mb()["all"]),
    }


def page_out(directory: Path) -> None:
    """Write the unnamed files of this process in a directory to the disk, and move their pages out of memory."""
    inside = f"{directory.resolve()}/"
    for link in Path("/proc/self/fd").iterdir():
        if link.is_symlink() and os.readlink(link).startswith(inside):
            os.fsync(int(link.name))
    libc = ctypes.CDLL(None, use_errno=True)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, _, _, _, *path = line.split(maxsplit=5)
        if path and path[0].startswith(inside):
            start, end = (int(text, 16) for text in span.split("-"))
            if libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_PAGEOUT):
                raise OSError(ctypes.get_errno(), "madvise")


def batch(engine: Engine, users: int, number: int, rng: np.random.Generator) -> Columns:
    """Columns of BATCH clicks of users and items that are drawn evenly."""
    drawn = [b"user-%08d" % user for user in rng.integers(0, users, BATCH)]
    names = list(dict.fromkeys(drawn))
    at = {name: place for place, name in enumerate(names)}
    item = rng.integers(0, len(engine.model.items), BATCH)
    return Columns(
        owners=[(PARTITION, name) for name in names],
        owner=np.array([at[name] for name in drawn], np.intp),
        offset=np.arange(number * BATCH, (number + 1) * BATCH),
        time_ms=START_MS + 1_000 * np.arange(number * BATCH, (number + 1) * BATCH),
        item=item,
        event_type=np.zeros(BATCH, np.int64),
        hold=np.zeros(BATCH, np.int8),
        category=np.full(BATCH, -1, np.int32),
        names=Names(item.astype(np.uint64), np.zeros(BATCH, np.uint16)),
    )


def resident_mb() -> dict[str, float]:
    """Memory of this process that is in RAM, MB: in mapped files ("RssFile"), the rest ("RssAnon"), and "all"."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.partition(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith("Rss")}
    return found | {"all": sum(found.values())}


def table(results: dict[str, Figures]) -> str:
    """The figures, for a person."""
    names = list(next(iter(results.values())))
    lines = [f"{'':30}" + "".join(f"{name:>14}" for name in names)]
    lines += [f"{point:30}" + "".join(f"{row[name]:>14}" for name in names) for point, row in results.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
