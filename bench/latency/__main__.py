"""Time from a click to its recommendations at fixed rates: Eddy beside the bare client with transactions.

Clicks are sent to a real Kafka at each rate. The latency of a click is the time from the call that sends it until a
reader has its result. One reader sees results when they are written (read_uncommitted), one when their transaction is
committed (read_committed).

    eddy          `eddy worker`: exactly once, durable states, p-values and alerts
    transactions  confluent-kafka with transactions and ONNX Runtime in batches: the same graphs, no durable states

Both make a batch of all clicks that are there when the last batch is committed. They run one after the other, on new
topics, once in each round. Exit code 2 if a click has no result or two.

The last rate is a share of Eddy's capacity: the clicks per second of a worker with a backlog, which is measured first.
Exit code 1 if the p99 of Eddy is above 500 ms there (read_uncommitted).

    make latency                                    the benchmark, about 8 minutes
    python -m bench.latency --rates 200 --share 0 --seconds 10
                                                    a short trial, without a share of the capacity
"""

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Producer

from bench.apache_kafka import AS_SERVED, VERSION
from bench.command import say, stop
from bench.latency.traffic import Reader, latencies_ms, send_at
from bench.report import RESULTS, conclude, write_report
from bench.throughput.clicks import Message, made_up
from bench.throughput.machine import machine_cpu_s, tree_cpu_s
from bench.throughput.rounds import capacity
from bench.throughput.started import (
    CONTENDERS,
    PARTITIONS,
    SERVED_SHOP,
    Contender,
    Running,
    Site,
    running,
    script,
    shop_site,
)

RESULT = RESULTS / "latency.json"
WARM_UP, SETTLE_S, LATE_S = 400, 1.0, 60.0
ISOLATIONS = ("read_uncommitted", "read_committed")
SIDES = {
    "eddy": CONTENDERS["eddy"],
    "transactions": Contender(
        script(Path(__file__).parent / "transactional.py", True), False, "arrays in memory, offsets exactly once"
    ),
}

BUSY_P99_MS = 500.0
"""Goal of Eddy's p99, read_uncommitted, at the share of its capacity."""

Run = dict[str, float]


def one_run(site: Site, side: str, name: str, rate: float, clicks: list[Message]) -> Run:
    """Send `clicks` at a rate to one side, the first WARM_UP of them before the time begins; return its figures."""
    with running(site, SIDES[side], name) as worker:
        producer = Producer({"bootstrap.servers": site.broker, "partitioner": "murmur2_random", "log_level": 2})
        results = worker.topics.recommendations
        arrivals: dict[str, list[tuple[float, list[bytes]]]] = {isolation: [] for isolation in ISOLATIONS}
        uncommitted, committed = (
            Reader(site.broker, results, PARTITIONS, isolation, lambda at, values, into=into: into.append((at, values)))
            for isolation, into in arrivals.items()
        )
        with uncommitted, committed:
            send_at(rate, producer, worker.topics.clicks, clicks[:WARM_UP])
            _wait(committed, WARM_UP, worker)
            time.sleep(SETTLE_S)
            before = time.monotonic(), tree_cpu_s(worker.process.pid), tree_cpu_s(os.getpid()), machine_cpu_s()
            sent = send_at(rate, producer, worker.topics.clicks, clicks[WARM_UP:])
            _wait(committed, len(clicks), worker)
            after = time.monotonic(), tree_cpu_s(worker.process.pid), tree_cpu_s(os.getpid()), machine_cpu_s()
            time.sleep(SETTLE_S)  # for repeated results
    wall, cpu, ours, machine = (b - a for a, b in zip(before, after, strict=True))
    found = {"cpu_us": 1e6 * cpu / len(sent), "others_cores": max(0.0, machine - ours) / wall}
    for isolation, its in arrivals.items():
        try:
            times, repeated = latencies_ms(sent, its)
        except ValueError as exc:
            stop(f"{name}: {exc}")
        if repeated and isolation == "read_committed":
            stop(f"{name}: {repeated} results are repeated")
        found |= {f"{isolation}_p{of}_ms": float(np.percentile(times, of)) for of in (50, 99)}
    return found


def _wait(reader: Reader, count: int, worker: Running) -> None:
    """Wait until the reader has `count` results. Exit code 2 if the worker ends or LATE_S seconds are over."""
    deadline = time.monotonic() + LATE_S
    while reader.count < count:
        worker.check(f"{reader.count} of {count} results", time.monotonic() > deadline)
        time.sleep(0.05)


def medians(runs: list[Run]) -> Run:
    """The median of each figure."""
    return {key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}


def too_late(found: dict[str, dict[str, Run]], busy: int | None) -> list[str]:
    """A line if Eddy's p99 at the share of its capacity is above the goal. busy: that rate; None: not measured."""
    if busy is None or (p99 := found[str(busy)]["eddy"]["read_uncommitted_p99_ms"]) <= BUSY_P99_MS:
        return []
    return [f"p99 at {busy} clicks/s is {p99:.0f} ms, the goal is {BUSY_P99_MS:.0f} ms"]


def table(found: dict[str, dict[str, Run]]) -> str:
    """The figures, for a person. found: rate -> side -> figures."""
    head = f"{'clicks/s':>9} {'':14}{'p50':>9}{'p99':>9}{'committed p50':>15}{'p99':>9}{'CPU us':>9}{'others':>8}"
    lines = [
        f"{rate:>9} {side:14}{run['read_uncommitted_p50_ms']:>9.1f}{run['read_uncommitted_p99_ms']:>9.1f}"
        f"{run['read_committed_p50_ms']:>15.1f}{run['read_committed_p99_ms']:>9.1f}"
        f"{run['cpu_us']:>9.0f}{run['others_cores']:>8.2f}"
        for rate, sides in found.items()
        for side, run in sides.items()
    ]
    return "\n".join([head, *lines])


def measure(given: argparse.Namespace, site: Site) -> dict[str, dict[str, list[Run]]]:
    """Rate -> side -> the figures of each round. The side that runs first changes."""
    clicks = made_up(WARM_UP + max(given.rates) * given.seconds)
    found: dict[str, dict[str, list[Run]]] = {str(rate): {side: [] for side in SIDES} for rate in given.rates}
    for number in range(given.rounds):
        for turn, rate in enumerate(given.rates):
            sides = list(SIDES)[:: 1 if (number + turn) % 2 == 0 else -1]
            for side in sides:
                some = clicks[: WARM_UP + rate * given.seconds]
                run = one_run(site, side, f"{side}-{rate}-{number}", rate, some)
                found[str(rate)][side].append(run)
                p50 = run["read_committed_p50_ms"]
                say(f"round {number + 1} of {given.rounds}, {rate} clicks/s: {side:13} p50 {p50:.0f} ms")
    return found


def whole_numbers(text: str) -> list[int]:
    """The numbers of "500,2000"."""
    return [int(word) for word in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rates", type=whole_numbers, default="500,2000", help="clicks per second, with commas [500,2000]"
    )
    parser.add_argument(
        "--share", type=float, default=0.8, help="also this share of Eddy's capacity; 0: without it [0.8]"
    )
    parser.add_argument(
        "--drain", type=int, default=50_000, help="clicks of each of three runs that measure the capacity [50000]"
    )
    parser.add_argument("--seconds", type=int, default=60, help="length of a run [60]")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each side at each rate [1]")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    if min(*given.rates, given.drain, given.seconds, given.rounds) < 1:
        stop("--rates, --drain, --seconds and --rounds must be above 0")
    if not 0 <= given.share <= 1:
        stop("--share must be from 0 to 1")
    with shop_site(java=AS_SERVED) as (_, site):
        most = capacity(site, given.drain) if given.share else None
        busy = round(given.share * most) if most else None
        given.rates += [busy] if busy else []
        runs = measure(given, site)
    found = {rate: {side: medians(its) for side, its in sides.items()} for rate, sides in runs.items()}
    conditions: dict[str, Any] = {
        "rates": given.rates,
        "capacity": most and round(most),
        "share of the capacity": {str(busy): given.share} if busy else {},
        "seconds": given.seconds,
        "rounds": given.rounds,
        **SERVED_SHOP,
        "time": "from the call that sends a click until a reader has its result; the sender waits 5 ms for a batch",
        "states": {side: contender.keeps for side, contender in SIDES.items()},
    }
    results, failures = {**found, "rounds": runs}, too_late(found, busy)
    report = write_report(given.out, "bench.latency", conditions, results, failures, kafka=VERSION)
    print(table(found))
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())
