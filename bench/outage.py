"""A broker that is away for a minute, under steady traffic: is the backlog worked off at full speed?

The capacity is measured first: the clicks per second of a worker with a backlog. Then a new worker gets clicks at half
of it. The only broker is killed (SIGKILL), and started again after a minute on the same data. The clicks go on: their
producer keeps them, and sends them when the broker is back. So the worker finds the clicks of a minute at once, while
new ones come. Every second a sample is taken, until the worker has caught up.

The catch-up begins in the first second in which more clicks are decided than come, and ends when no more clicks wait
than come in a second.
The benchmark fails (exit code 1) if the catch-up is slower than .9 of the capacity, or if a click has no result or two.

    make outage                                     a minute without a broker, at 50 % of the capacity
    python -m bench.outage --away 5 --before 5 --drain 5000 --out /tmp/outage.json --plot /tmp/outage.svg
                                                    a short trial

Broker, sender and readers use the same cores as the worker.
"""

import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from bench.apache_kafka import VERSION
from bench.command import say, stop
from bench.flow import Flow, Sample, series, wrong
from bench.plot import Panel, draw
from bench.report import RESULTS, ROOT, conclude, write_report
from bench.steady import Steady, above_0, median, options, steady

RESULT, PLOT = RESULTS / "outage.json", ROOT / "docs" / "outage.svg"
FULL_SPEED = 0.9
"""Least share of the capacity during the catch-up."""

AFTER_S, LIMIT_S = 10.0, 600.0
"""The samples go on so long after the catch-up; a catch-up that takes LIMIT_S seconds ends the benchmark."""


class Outage(NamedTuple):
    """Times in seconds since the first click: the broker is killed, is started, and answers again."""

    killed: float
    started: float
    ready: float


def outage(run: Steady, flow: Flow, before_s: float, away_s: float, every_s: float) -> tuple[list[Sample], Outage]:
    """Take the broker away and bring it back. Returns the samples and the times."""
    times: list[float] = []
    began = time.monotonic()

    def away() -> None:
        time.sleep(before_s)
        run.kafka.kill()
        times.append(time.monotonic() - began)
        time.sleep(away_s)
        times.append(time.monotonic() - began)
        run.kafka.restart()
        times.append(time.monotonic() - began)

    thread = threading.Thread(target=away, daemon=True)
    thread.start()
    samples: list[Sample] = []
    caught_up = 0.0
    for sample in flow.samples(every_s):
        samples.append(sample)
        say(f"{sample.s:5.0f} s: {sample.clicks_per_s:7,.0f} clicks/s, lag {sample.lag:,}")
        if len(times) == 3 and not caught_up and sample.clicks_per_s > run.rate and sample.lag <= run.rate:
            caught_up = sample.s
        if caught_up and sample.s > caught_up + AFTER_S:
            break
        if sample.s > before_s + away_s + LIMIT_S:
            stop(f"the worker has not caught up within {LIMIT_S:.0f} s; lag {sample.lag:,}")
    thread.join()
    return samples, Outage(*times)


def catch_up(samples: list[Sample], times: Outage, rate: float, every_s: float) -> dict[str, float]:
    """The figures of the catch-up.

    wait_s         from the broker's answer until more clicks are decided than come, to a sample's length
    catch_up_s     from then until no more clicks wait than come in a second
    clicks_per_s   decided during the catch-up. Its first and its last sample are left out if there are more, because
                   the worker works in only a part of them
    """
    after = [sample for sample in samples if sample.s > times.started]
    first = next(n for n, sample in enumerate(after) if sample.clicks_per_s > rate)
    last = next(n for n, sample in enumerate(after) if n >= first and sample.lag <= rate)
    whole = after[first + 1 : last] or after[first : last + 1]
    return {
        "away_s": round(times.ready - times.killed, 1),
        "largest_lag": max(sample.lag for sample in samples),
        "wait_s": round(max(0.0, after[first].s - every_s - times.ready), 1),
        "catch_up_s": round(after[last].s - after[first].s + every_s, 1),
        "clicks_per_s": round(sum(sample.clicks_per_s for sample in whole) / len(whole)),
    }


def plot(path: Path, date: str, times: Outage, capacity: float | None, found: dict[str, list[Any]]) -> None:
    """Draw the series. The time without a broker is shaded."""
    speeds = {"decided": found["clicks_per_s"]}
    if capacity:
        speeds["capacity"] = [capacity] * len(found["s"])
    panels = [Panel("clicks/s", speeds), Panel("lag, clicks", {"lag": found["lag"]})]
    title = f"{times.ready - times.killed:.0f} seconds without a broker"
    draw(path, title, date, found["s"], panels, (times.killed, times.ready))


def main() -> int:
    parser = options("bench.outage", __doc__, share=0.5, every=1.0, out=RESULT, plot=PLOT)
    parser.add_argument("--away", type=above_0, default=60.0, help="seconds without a broker [60]")
    parser.add_argument("--before", type=above_0, default=20.0, help="seconds before the broker is killed [20]")
    given = parser.parse_args()
    with steady(given) as run, Flow(run.kafka.address, run.worker, run.rate) as flow:
        samples, times = outage(run, flow, given.before, given.away, given.every)
        counted = flow.end()
    figures: dict[str, Any] = {**catch_up(samples, times, run.rate, given.every), **counted}
    errors = wrong(counted)
    if run.capacity:
        figures["of_capacity"] = round(figures["clicks_per_s"] / run.capacity, 3)
        if figures["of_capacity"] < FULL_SPEED:
            errors.append(f"the catch-up has {figures['of_capacity']} of the capacity, {FULL_SPEED} are the goal")
    found = series(samples)
    results = {"outage": figures, "times": times._asdict(), "series": found}
    conditions = {**run.conditions(given), "others_cores": median(found["others_cores"])}
    report = write_report(given.out, "bench.outage", conditions, results, errors, kafka=VERSION)
    plot(given.plot, report["date"], times, run.capacity, found)
    print("\n".join(f"{name:14}{value:>10,}" for name, value in figures.items()))
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())
