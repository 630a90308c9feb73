"""Options and set-up of the benchmarks that send clicks at a share of the capacity: soak and outage."""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.apache_kafka import AS_SERVED, ApacheKafka
from bench.command import say
from bench.throughput.rounds import capacity
from bench.throughput.started import CONTENDERS, SERVED_SHOP, Running, running, shop_site


class Steady(NamedTuple):
    """A broker and a worker that has started.

    rate      clicks per second
    capacity  clicks per second of a worker with a backlog; None: not measured
    """

    kafka: ApacheKafka
    worker: Running
    rate: float
    capacity: float | None

    def conditions(self, given: argparse.Namespace) -> dict[str, Any]:
        """For the result file."""
        return {
            "rate": round(self.rate, 1),
            "capacity": self.capacity and round(self.capacity, 1),
            "share": round(self.rate / self.capacity, 3) if self.capacity else None,
            "capacity_is": f"median of three drains of {given.drain} clicks by one worker",
            "every_s": given.every,
            **SERVED_SHOP,
            "same cores": "worker, broker, sender and readers",
        }


def options(
    module: str, text: str | None, *, share: float, every: float, out: Path, plot: Path
) -> argparse.ArgumentParser:
    """The options that both benchmarks have."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=above_0, default=share, help=f"share of the capacity [{share}]")
    parser.add_argument("--rate", type=above_0, help="clicks per second, instead of a share of the capacity")
    parser.add_argument("--drain", type=int, default=50_000, help="clicks of a run that measures the capacity [50000]")
    parser.add_argument("--every", type=above_0, default=every, help=f"seconds between two samples [{every:g}]")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=out, help="where to write the result")
    parser.add_argument("--plot", type=Path, default=plot, help="where to write the picture")
    return parser


def above_0(text: str) -> float:
    """A number above 0. Raises ValueError."""
    if not (number := float(text)) > 0:
        raise ValueError
    return number


@contextmanager
def steady(given: argparse.Namespace) -> Iterator[Steady]:
    """Start a broker, measure the capacity unless a rate is given, and start a worker.

    Exit code 2 if there is no Kafka or no /proc.
    """
    with shop_site(java=AS_SERVED) as (kafka, site):
        most = None if given.rate else capacity(site, given.drain)
        rate = given.share * most if most else given.rate
        say(f"sending {rate:,.0f} clicks/s")
        with running(site, CONTENDERS["eddy"], "steady") as worker:
            yield Steady(kafka, worker, rate, most)


def median(values: Sequence[float]) -> float:
    """The median, with two digits after the point."""
    return round(statistics.median(values), 2)
