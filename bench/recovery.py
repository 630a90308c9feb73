"""How fast a worker's states come back from the changelog, in how much memory, and how long growth stops a live worker.

The rows of many users are written to a changelog on a real Kafka. A process of its own then reads them into an arena as
a worker does at its start. After that, more users are added in cycles of 64 clicks; the longest of these cycles is the
pause by growth.

    python -m bench.recovery [--users N] [--hidden N] [--json]
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer

from bench.apache_kafka import VERSION, ApacheKafka
from bench.report import RESULTS, ROOT, conclude, write_report
from stream.events import Partition
from stream.kafka.changelog import POSITION_KEY, Changelog, Mark
from stream.kafka.topics import create_topics
from stream.manifest import Tensor
from stream.settings import RECENT_ITEMS, Topics
from stream.state.arena import Arena
from stream.state.checksum import checksums
from stream.state.evict import Swept
from stream.state.row import new_rows, row_dtype
from stream.state.staged import copies, stage

RESULT = RESULTS / "recovery.json"
PARTITIONS, MODEL, BATCH, CYCLE, NEW_USERS = 4, 1, 10_000, 64, 200_000
GOALS = {"users_per_s": 150_000, "memory_of_rows": 1.3, "pause_ms": 50.0}
TOPICS = Topics()


def layout(hidden: int) -> np.dtype[np.void]:
    return row_dtype((Tensor("h", (hidden,)), Tensor("c", (hidden,))), RECENT_ITEMS)


def write(broker: str, users: int, hidden: int) -> None:
    """Write the rows of `users` users and the marks of their partitions."""
    producer = Producer(
        {"bootstrap.servers": broker, "linger.ms": 20, "queue.buffering.max.kbytes": 500_000, "log_level": 2}
    )
    dtype, sums = layout(hidden), [0] * PARTITIONS
    rng = np.random.default_rng(0)
    for start in range(0, users, BATCH):
        keys = [b"user-%012d" % user for user in range(start, min(start + BATCH, users))]
        rows = new_rows(len(keys), dtype, MODEL)
        rows["h"], rows["clicks"] = rng.standard_normal((len(keys), hidden), np.float32), 1
        rows["checksum"] = checksums(keys, rows)
        for n, (key, row) in enumerate(zip(keys, rows, strict=True)):
            producer.produce(TOPICS.changelog, row.tobytes(), key, n % PARTITIONS)
            sums[n % PARTITIONS] += int(row["checksum"])
        producer.flush()
    for partition in range(PARTITIONS):
        mark = Mark(1, len(range(partition, users, PARTITIONS)), sums[partition] % 2**64)
        producer.produce(TOPICS.changelog, mark.encode(), POSITION_KEY, partition)
    producer.flush()


def recover(broker: str, hidden: int) -> dict[str, Any]:
    """Read the changelog into an arena, then add users. Runs in a process of its own, whose memory it reports."""
    arena = Arena(layout(hidden), MODEL)
    broken: list[bytes] = []
    partitions = [Partition(TOPICS.clicks, number) for number in range(PARTITIONS)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    changelog = Changelog(broker, "eddy", TOPICS.changelog)
    marks = changelog.read(partitions, lambda partition, rows: broken.extend(arena.load(partition, rows)))
    seconds = time.perf_counter() - began
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    exact = not broken and all(marks[p][1:] == arena.totals(p) for p in partitions)
    users, slowest, usual = len(arena), 0.0, []
    for start in range(0, NEW_USERS, CYCLE):
        owners = [(partitions[n % PARTITIONS], b"new-%d" % n) for n in range(start, start + CYCLE)]
        cycle = time.perf_counter()
        found = arena.find(owners)
        stage(arena, owners, found, copies(arena, found), Swept((), 0, 0)).commit(arena)
        usual.append(time.perf_counter() - cycle)
        slowest = max(slowest, usual[-1])
    return {
        "users": users,
        "exact": exact,
        "seconds": round(seconds, 2),
        "users_per_s": round(users / seconds),
        "memory_of_rows": round(peak / (users * arena.dtype.itemsize), 3),
        "pause_ms": round(1000 * slowest, 2),
        "usual_ms": round(1000 * float(np.median(usual)), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=1_000_000, help="users in the changelog [1000000]")
    parser.add_argument("--hidden", type=int, default=128, help="units of the LSTM [128]")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    parser.add_argument("--recover", metavar="BROKER", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.recover:
        print(json.dumps(recover(given.recover, given.hidden)))
        return 0
    with ApacheKafka() as kafka:
        create_topics(kafka.address, TOPICS, PARTITIONS, 1)
        print(f"writing the rows of {given.users:,} users", file=sys.stderr)
        write(kafka.address, given.users, given.hidden)
        command = [sys.executable, "-m", "bench.recovery", "--recover", kafka.address, "--hidden", str(given.hidden)]
        print("recovering", file=sys.stderr)
        results = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    failures = [] if results["exact"] else ["the rows in memory are not those that were written"]
    missed = [key for key in GOALS if (results[key] < GOALS[key]) == (key == "users_per_s")]
    failures += [f"{key} is {results[key]}, the goal is {GOALS[key]}" for key in missed]
    conditions = {"row_bytes": layout(given.hidden).itemsize, "partitions": PARTITIONS, "cycle_clicks": CYCLE}
    report = write_report(given.out, "bench.recovery", conditions, results, failures, kafka=VERSION)
    print("\n".join(f"{key:16} {value}" for key, value in results.items()))
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())
