"""Clicks per second of one worker and of two workers that share the same backlog, on a real Kafka.

The clicks, the model and the measurement are those of bench/throughput: the worker, or both of them, have answered
some first clicks; then the others are sent in one go, and the time ends when a reader has the last committed result.
Two workers have half of the 8 partitions each. One worker and two run in turn, on new topics. The gain of a round is
the clicks per second of two workers as a multiple of those of one in the same round.

Broker, sender and reader use the same cores as the workers, so on two cores the gain is below 2: `cores` of the result
are those that all of them used together.

    make workers                                    about 5 minutes on two cores
    python -m bench.workers --clicks 5000 --rounds 1 --out /tmp/workers.json
                                                    a short trial
"""

import argparse
import os
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench.apache_kafka import VERSION
from bench.command import recovered_partitions, say, stop
from bench.report import RESULTS, conclude, write_report
from bench.throughput.check import timestamps, uncounted
from bench.throughput.clicks import Message, made_up
from bench.throughput.rounds import WARM_UP, Measured, drain
from bench.throughput.started import CONTENDERS, PARTITIONS, SECOND, SHOP, Running, Site, process, running, shop_site

RESULT = RESULTS / "workers.json"
SHARE_S = 60.0


def one_run(site: Site, workers: int, number: int, clicks: list[Message]) -> Measured:
    """Let one worker or two process the clicks. Exit code 2 if a click has no result or several."""
    name = f"{workers}-workers-{number}"
    with ExitStack() as stack:
        group = [stack.enter_context(running(site, CONTENDERS["eddy"], name))]
        if workers == 2:
            group.append(stack.enter_context(process(site, SECOND, f"{name}-second", group[0].topics)))
        share(group)
        measured, values = drain(site.broker, group, clicks)
    lines = uncounted(timestamps(values), (click.timestamp for click in clicks))
    if lines:
        stop(f"{name}: {'; '.join(lines)}")
    return measured


def share(group: list[Running]) -> None:
    """Wait until each worker of a group has recovered its share of the partitions."""
    deadline = time.monotonic() + SHARE_S
    while any(len(partitions(worker)) != PARTITIONS // len(group) for worker in group):
        for worker in group:
            worker.check("not all workers have their share of the partitions", time.monotonic() > deadline)
        time.sleep(0.05)


def partitions(worker: Running) -> set[int]:
    """The partitions that a worker recovered last."""
    return next(iter(recovered_partitions((worker.directory / "log").read_text(errors="replace"))[-1:]), set())


def figures(rounds: list[dict[str, Measured]]) -> dict[str, Any]:
    """Medians over the rounds: of one worker, of two, and of the gain."""
    gains = [one["2"].clicks_per_s / one["1"].clicks_per_s for one in rounds]
    found: dict[str, Any] = {
        workers: {
            "clicks_per_s": round(statistics.median(one[workers].clicks_per_s for one in rounds)),
            "cpu_us": round(statistics.median(one[workers].cpu_us for one in rounds), 1),
            "kafka_cpu_us": round(statistics.median(one[workers].kafka_us for one in rounds), 1),
            "cores": round(statistics.median(used(one[workers]) for one in rounds), 2),
            "others_cores": round(statistics.median(one[workers].others_cores for one in rounds), 2),
        }
        for workers in ("1", "2")
    }
    return found | {
        "gain": round(statistics.median(gains), 2),
        "gain_lowest": round(min(gains), 2),
        "gain_highest": round(max(gains), 2),
    }


def used(run: Measured) -> float:
    """Cores that the workers, the broker and this benchmark used together."""
    return run.clicks_per_s * (run.cpu_us + run.kafka_us) / 1e6


def table(found: dict[str, Any]) -> str:
    """The figures, for a person."""
    lines = [f"{'workers':>8}{'clicks/s':>10}{'CPU us':>8}{'Kafka us':>10}{'cores':>7}{'others':>8}"]
    lines += [
        f"{workers:>8}{of['clicks_per_s']:>10,}{of['cpu_us']:>8.0f}{of['kafka_cpu_us']:>10.0f}{of['cores']:>7.2f}"
        f"{of['others_cores']:>8.2f}"
        for workers, of in found.items()
        if workers in ("1", "2")
    ]
    return "\n".join([*lines, f"gain {found['gain']} ({found['gain_lowest']} to {found['gain_highest']})"])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.workers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clicks", type=int, default=100_000, help="clicks of a run [100000]")
    parser.add_argument("--rounds", type=int, default=5, help="runs of one worker and of two [5]")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    if min(given.clicks, given.rounds) < 1:
        stop("--clicks and --rounds must be above 0")
    clicks = made_up(given.clicks + WARM_UP)
    rounds: list[dict[str, Measured]] = []
    with shop_site() as (_, site):
        for number in range(given.rounds):
            rounds.append({})
            for workers in (1, 2) if number % 2 == 0 else (2, 1):
                rounds[-1][str(workers)] = run = one_run(site, workers, number, clicks)
                say(f"round {number + 1} of {given.rounds}, {workers} workers: {run.clicks_per_s:,.0f} clicks/s")
    found = figures(rounds)
    conditions = {
        "clicks": given.clicks,
        "rounds": given.rounds,
        **SHOP,
        "cores": os.cpu_count(),
        "same cores": "workers, broker, sender and reader",
        "time": "from the first click that is sent to the last committed result that is read",
    }
    results = {**found, "rounds": [{workers: run._asdict() for workers, run in one.items()} for one in rounds]}
    report = write_report(given.out, "bench.workers", conditions, results, [], kafka=VERSION)
    print(table(found))
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())
