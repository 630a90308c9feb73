"""Requests to a worker beside its clicks: how long an answer takes, and what the answers cost the stream.

One worker gets clicks at a fixed rate on a real Kafka. Rounds without and with requests are interleaved. A client in a
process of its own asks for the recommendations of random users at a fixed rate, each time on a new connection, and one
user in ten has never clicked. Its latencies are measured from the time at which the request was due, so a request that
waits for an earlier one counts its wait. The benchmark fails (exit code 1) if the p99 of the answers is above 20 ms, if
an answer is an error, if a click has no decision or two, or if a round with requests decides fewer than 98 % of the
clicks that a round without them decides.

    python -m bench.answers
    python -m bench.answers --rate 1000 --requests 20 --seconds 5 --rounds 1 --out /tmp/answers.json      a short trial

Broker, sender, readers and client use the same cores as the worker.
"""

import argparse
import http.client
import multiprocessing
import random
import socket
import statistics
import sys
import time
from itertools import islice
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np

from bench.apache_kafka import VERSION
from bench.command import say
from bench.flow import Flow, Sample, wrong
from bench.report import RESULTS, conclude, write_report
from bench.steady import above_0, median
from bench.throughput.clicks import USERS
from bench.throughput.started import CONTENDERS, SHOP, Contender, Site, running, shop_site
from stream.settings import Topics

RESULT = RESULTS / "answers.json"
MOST_P99_MS = 20.0
FEWEST_CLICKS = 0.98
NEW_USERS = 0.1
UNDUE_S = 5.0

Answered = list[tuple[int, float]]
"""Status and latency in ms of each request."""


def worker(port: int) -> Contender:
    """The worker of the other benchmarks, with an HTTP port that answers."""

    def command(topics: Topics, site: Site) -> list[str]:
        eddy = CONTENDERS["eddy"]
        return [*eddy.command(topics, site), "--http-port", str(port), "--http-answers"]

    return CONTENDERS["eddy"]._replace(command=command)


def ask(port: int, rate: float, seconds: float, seed: int, answered: "Queue[Answered]") -> None:
    """Ask for recommendations at a rate. Runs in a process of its own."""
    rng, found = random.Random(seed), Answered()
    began = time.monotonic()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        user = f"user-{int(USERS * rng.random() ** 2):05}" if rng.random() >= NEW_USERS else f"new-{number}"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=UNDUE_S)
        connection.request("GET", f"/v1/users/{user}/recommendations")
        answer = connection.getresponse()
        answer.read()
        connection.close()
        found.append((answer.status, 1e3 * (time.monotonic() - due)))
    answered.put(found)


def asked(flow_s: list[Sample], answered: Answered) -> dict[str, Any]:
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


def measure(given: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, int]]:
    """The rounds without and with requests, and what `Flow.end` counts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    without, with_ = [], []
    spawn = multiprocessing.get_context("spawn")
    with (
        shop_site() as (kafka, site),
        running(site, worker(port), "answers") as its,
        Flow(kafka.address, its, given.rate) as flow,
    ):
        samples = flow.samples(1.0)
        next(samples)  # the first second
        for number in range(given.rounds):
            without.append(asked(list(islice(samples, given.seconds)), []))
            say(f"without requests: {without[-1]}")
            queue = spawn.Queue()
            client = spawn.Process(target=ask, args=(port, given.requests, given.seconds, number, queue))
            client.start()
            during = list(islice(samples, given.seconds + 1))
            answered = queue.get(timeout=60)
            client.join()
            with_.append(asked(during[1:], answered))  # in the first second the client starts
            say(f"with requests: {with_[-1]}")
        counted = flow.end()
    return without, with_, counted


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
    rounds_without, rounds_with, counted = measure(given)
    without, with_ = middle(rounds_without), middle(rounds_with)
    conditions = {
        **SHOP,
        "rate": given.rate,
        "requests_per_s": given.requests,
        "seconds": given.seconds,
        "rounds": given.rounds,
        "new_users": NEW_USERS,
        "same cores": "worker, broker, sender, readers and client",
    }
    results = {"without": without, "with": with_, "rounds": {"without": rounds_without, "with": rounds_with}, **counted}
    report = write_report(
        given.out, "bench.answers", conditions, results, wrong(counted) + verdict(without, with_), kafka=VERSION
    )
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())
