"""Requests to a worker beside its clicks: how long an answer takes, and what the answers cost the stream.

One worker gets clicks at a fixed rate on a real Kafka. Three kinds of rounds are interleaved: without requests, with
requests for recommendations, and with requests for /livez, which show what the machine and the HTTP server take. A
client in a process of its own asks at a fixed rate, each time on a new connection; one user in ten has never clicked.
Its latencies are measured from the time at which the request was due, so a request that waits for an earlier one counts
its wait. The benchmark fails (exit code 1) if the p99 of the answers is above 20 ms, if
an answer is an error, if a click has no decision or two, or if a round with requests decides fewer than 98 % of the
clicks that a round without them decides.

    python -m bench.answers
    python -m bench.answers --rate 1000 --requests 20 --seconds 5 --rounds 1 --out trial.json      a short trial

Broker, sender, readers and client use the same cores as the worker.
"""

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from bench.apache_kafka import AS_SERVED, VERSION
from bench.command import say
from bench.flow import Flow, Sample, wrong
from bench.report import RESULTS, conclude, write_report
from bench.steady import above_0, median
from bench.throughput.clicks import USERS
from bench.throughput.started import CONTENDERS, SERVED_SHOP, Contender, Site, running, shop_site
from stream.settings import Topics

RESULT = RESULTS / "answers.json"
MOST_P99_MS = 20.0
FEWEST_CLICKS = 0.98
NEW_USERS = 0.1
EVERY_S = 1.0
PATHS = {"livez": "/livez", "with": "/v1/users/USER/recommendations"}
CLIENT = Path(__file__).with_name("http_client.py")

Answered = list[tuple[int, float]]
"""Status and latency in ms of each request."""


def worker(port: int) -> Contender:
    """The worker of the other benchmarks, with an HTTP port that answers."""

    def command(topics: Topics, site: Site) -> list[str]:
        eddy = CONTENDERS["eddy"]
        return [*eddy.command(topics, site), "--http-port", str(port), "--http-answers"]

    return CONTENDERS["eddy"]._replace(command=command)


class Client:
    """A client that is ready, and waits for its start."""

    def __init__(self, port: int, rate: float, seconds: int, seed: int, path: str) -> None:
        words = [CLIENT, port, rate, seconds, seed, USERS, NEW_USERS, path]
        command = [sys.executable, *map(str, words)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def start(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def answered(self) -> Answered:
        """Wait for its end."""
        found, _ = self._process.communicate(timeout=60)
        return [(status, ms) for status, ms in json.loads(found)]


def figures(flow_s: list[Sample], answered: Answered) -> dict[str, Any]:
    """The figures of a round: of the stream, and of the answers."""
    found: dict[str, Any] = {
        "clicks_per_s": median([sample.clicks_per_s for sample in flow_s]),
        "decision_p50_ms": median([sample.read_committed_p50_ms or 0.0 for sample in flow_s]),
        "decision_p99_ms": median([sample.read_committed_p99_ms or 0.0 for sample in flow_s]),
        "cpu_us_per_click": median([sample.cpu_us or 0.0 for sample in flow_s]),
        "others_cores": median([sample.others_cores for sample in flow_s]),
    }
    if answered:
        p50, p99 = np.percentile([ms for _, ms in answered], (50, 99))
        found |= {
            "answers": len(answered),
            "errors": sum(status != 200 for status, _ in answered),
            "answer_p50_ms": round(float(p50), 2),
            "answer_p99_ms": round(float(p99), 2),
        }
    return found


def measure(given: argparse.Namespace) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int]]:
    """The rounds of each kind, and what `Flow.end` counts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    rounds: dict[str, list[dict[str, Any]]] = {"without": [], **{kind: [] for kind in PATHS}}
    with (
        shop_site(java=AS_SERVED) as (kafka, site),
        running(site, worker(port), "answers") as its,
        Flow(kafka.address, its, given.rate) as flow,
    ):
        samples = flow.samples(EVERY_S)
        for number in range(given.rounds):
            for kind, path in (("without", None), *PATHS.items()):
                client = None if path is None else Client(port, given.requests, given.seconds, number, path)
                skip_late(samples)
                if client is not None:
                    client.start()
                during = list(islice(samples, given.seconds))
                rounds[kind].append(figures(during, [] if client is None else client.answered()))
                say(f"{kind}: {rounds[kind][-1]}")
        counted = flow.end()
    return rounds, counted


def skip_late(samples: Iterator[Sample]) -> None:
    """Take the samples that are due already, and the next one."""
    waited_s = 0.0
    while waited_s < EVERY_S / 2:
        began_s = time.monotonic()
        next(samples)
        waited_s = time.monotonic() - began_s


def middle(rounds: list[dict[str, Any]]) -> dict[str, float]:
    """The median of each figure over the rounds."""
    return {name: round(statistics.median(of[name] for of in rounds), 2) for name in rounds[0]}


def verdict(without: dict[str, float], with_: dict[str, float]) -> list[str]:
    """A line for each part of the claim that does not hold."""
    lines = []
    if with_["answer_p99_ms"] > MOST_P99_MS:
        lines.append(f"the p99 of the answers is {with_['answer_p99_ms']} ms, {MOST_P99_MS} are allowed")
    if with_["errors"]:
        lines.append(f"{with_['errors']} answers of a round are errors")
    if with_["clicks_per_s"] < FEWEST_CLICKS * without["clicks_per_s"]:
        lines.append(f"{with_['clicks_per_s']} clicks/s with requests, {without['clicks_per_s']} without")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.answers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=above_0, default=2000.0, help="clicks per second [2000]")
    parser.add_argument("--requests", type=above_0, default=50.0, help="requests per second [50]")
    parser.add_argument("--seconds", type=int, default=10, help="length of a round [10]")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each kind [3]")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    rounds, counted = measure(given)
    medians = {kind: middle(its) for kind, its in rounds.items()}
    conditions = {
        **SERVED_SHOP,
        "rate": given.rate,
        "requests_per_s": given.requests,
        "seconds": given.seconds,
        "rounds": given.rounds,
        "new_users": NEW_USERS,
        "same cores": "worker, broker, sender, readers and client",
    }
    results = {**medians, "rounds": rounds, **counted}
    report = write_report(
        given.out,
        "bench.answers",
        conditions,
        results,
        wrong(counted) + verdict(medians["without"], medians["with"]),
        kafka=VERSION,
    )
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())
