"""One worker under steady traffic for a long time: do memory, latency and CPU time stay where they are?

The capacity is measured first: the clicks per second of a worker with a backlog. Then a new worker works off a backlog
and gets clicks at a share of the capacity, on a real Kafka. The broker is frozen two times for 6 seconds first, because
the first backlogs leave memory in the allocator. Then the time begins. Every 10 seconds a sample is taken: the latency
of the results of these seconds, the worker's memory and CPU time, and its lag. At the end the last third of the samples
is compared with the first third. The benchmark fails (exit code 1) if the memory has grown by more than 16 MB, if the
latency is more than 1.25 times that of the first third, or if a click has no result or two.

    make soak                                       30 minutes at 70 % of the capacity
    python -m bench.soak --minutes 1 --drain 5000 --every 2 --out /tmp/soak.json --plot /tmp/soak.svg
                                                    a short trial
    python -m bench.soak --rate 2000                a rate of your own; no capacity is measured

Clicks and results are kept for a few minutes only, so a run needs about 10 GB of disk, however long it is. Broker,
sender and readers use the same cores as the worker.
"""

import statistics
import sys
import time
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from bench.apache_kafka import VERSION
from bench.command import say, stop
from bench.flow import Flow, Sample, series, wrong
from bench.plot import Panel, draw
from bench.readers import volume
from bench.report import RESULTS, ROOT, conclude, write_report
from bench.steady import Steady, median, options, steady
from stream.settings import Topics

RESULT, PLOT = RESULTS / "soak.json", ROOT / "docs" / "soak.svg"
KEPT = {"retention.bytes": str(128 << 20), "segment.bytes": str(32 << 20)}
"""Of a partition of clicks or results: at 5,000 clicks per second these are some minutes."""

COMPARED = (*(name for name in Sample._fields if name.endswith("_ms")), "cpu_us", "anon_mb", "file_mb", "lag")
GROWN_MB, SLOWER = 16.0, 1.25
"""How much more memory, and how many times the latency, the last third may have."""

FREEZES, FROZEN_S = 2, 6.0
"""Before the time begins. How much memory a first backlog leaves is in docs/results.md."""


def soak(run: Steady, flow: Flow, seconds: float, every_s: float) -> list[Sample]:
    """Freeze the broker some times, then let clicks flow for a time; return the samples of this time."""
    samples = flow.samples(every_s)
    before = _shown(next(samples), "at first")
    for number in range(FREEZES):
        with run.kafka.frozen():
            time.sleep(FROZEN_S)
        before = _shown(next(samples), f"after freeze {number + 1}")
        while before.lag > run.rate:
            before = _shown(next(samples), "catching up")
    found: list[Sample] = []
    while not found or found[-1].s < seconds:
        sample = next(samples)
        found.append(_shown(sample._replace(s=round(sample.s - before.s, 2)), f"of {seconds:.0f} s"))
    return found


def _shown(sample: Sample, when: str) -> Sample:
    """Print a line on a sample, and return it."""
    p99 = sample.read_uncommitted_p99_ms or float("nan")
    say(f"{sample.s:6.0f} s {when}: p99 {p99:5.0f} ms, {sample.anon_mb:.0f} MB, lag {sample.lag}")
    return sample


def keep_little(broker: str, topics: list[str]) -> None:
    """Let the broker delete the old messages of these topics."""
    entries = [
        ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
        for name, value in {**KEPT, "file.delete.delay.ms": "1000"}.items()
    ]
    resources = [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries) for topic in topics]
    admin = AdminClient({"bootstrap.servers": broker, "log_level": 0})  # without a name it would end before its answer
    for future in admin.incremental_alter_configs(resources).values():
        future.result(30)


def thirds(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """Figure -> its medians over the first and the last third of the samples, and last / first."""
    third, found = max(1, len(samples) // 3), {}
    for name in COMPARED:
        parts = [
            [value for sample in part if (value := getattr(sample, name)) is not None]
            for part in (samples[:third], samples[-third:])
        ]
        if not all(parts):
            stop("a third of the run has no result; give it more --minutes")
        first, last = map(statistics.median, parts)
        found[name] = {"first": round(first, 2), "last": round(last, 2), "ratio": round(last / max(first, 0.01), 3)}
    return found


def verdict(compared: dict[str, dict[str, float]]) -> list[str]:
    """A line for each figure that has grown too much."""
    grown = compared["anon_mb"]["last"] - compared["anon_mb"]["first"]
    lines = [f"the worker's memory has grown by {grown:.0f} MB, {GROWN_MB:.0f} are allowed"] if grown > GROWN_MB else []
    return lines + [
        f"{name} of the last third is {of['ratio']} times that of the first, {SLOWER} are allowed"
        for name, of in compared.items()
        if name.endswith("_ms") and of["ratio"] > SLOWER
    ]


def table(compared: dict[str, dict[str, float]]) -> str:
    """The comparison, for a person."""
    lines = [f"{'':26}{'first third':>12}{'last third':>12}{'ratio':>8}"]
    lines += [f"{name:26}{of['first']:>12.1f}{of['last']:>12.1f}{of['ratio']:>8.2f}" for name, of in compared.items()]
    return "\n".join(lines)


def plot(path: Path, date: str, rate: float, found: dict[str, list[Any]]) -> None:
    """Draw the series."""
    panels = [
        Panel("latency, ms", {"p50": found["read_uncommitted_p50_ms"], "p99": found["read_uncommitted_p99_ms"]}),
        Panel("memory, MB", {"own": found["anon_mb"], "mapped files": found["file_mb"]}),
        Panel("CPU us per click", {"worker": found["cpu_us"]}),
        Panel("lag, clicks", {"lag": found["lag"]}),
    ]
    draw(path, f"One worker at {rate:,.0f} clicks per second", date, found["s"], panels)


def volumes(broker: str, topics: Topics, clicks: int) -> dict[str, dict[str, float]]:
    """Topic -> records per click, and bytes of key and value per click and per record."""
    found = {}
    for name in ("clicks", "recommendations", "changelog"):
        its = volume(broker, getattr(topics, name))
        per_click = its.records / clicks
        found[name] = {
            "records_per_click": round(per_click, 3),
            "bytes_per_click": round(per_click * its.bytes_each, 1),
            "bytes_per_record": round(its.bytes_each, 1),
        }
    return found


def main() -> int:
    parser = options("bench.soak", __doc__, share=0.7, every=10.0, out=RESULT, plot=PLOT)
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the run [30]")
    given = parser.parse_args()
    if 60 * given.minutes < 3 * given.every:
        stop("--minutes must be long enough for three samples, see --every")
    with steady(given) as run:
        keep_little(run.kafka.address, [run.worker.topics.clicks, run.worker.topics.recommendations])
        with Flow(run.kafka.address, run.worker, run.rate) as flow:
            samples = soak(run, flow, 60 * given.minutes, given.every)
            counted = flow.end()
        written = volumes(run.kafka.address, run.worker.topics, flow.sent)
    compared, found = thirds(samples), series(samples)
    results = {"thirds": compared, **counted, "volumes": written, "series": found}
    conditions = {
        **run.conditions(given),
        "minutes": given.minutes,
        "freezes": FREEZES,
        "others_cores": median(found["others_cores"]),
    }
    report = write_report(
        given.out, "bench.soak", conditions, results, wrong(counted) + verdict(compared), kafka=VERSION
    )
    plot(given.plot, report["date"], run.rate, found)
    print(table(compared))
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())
