"""Longest pause of each partition when a worker stops, joins, crashes or freezes, as a reader of the decisions sees it.

A producer sends clicks at a fixed rate to a real Kafka, two workers decide, and a reader (`read_committed`) notes when
decisions of each partition arrive. A pause is the longest time between two arrivals of one partition, from the fault
until both workers are at work again.

    stop    SIGTERM to one worker: its partitions move to the other one
    join    the worker starts again: half of the partitions move back
    kill    kill -9, and a start under the same worker id at once
    freeze  SIGSTOP until the other worker has all partitions, then SIGCONT

    python -m bench.pauses [--rate N] [--rounds N] [--json]
"""

import argparse
import itertools
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.apache_kafka import VERSION, ApacheKafka
from bench.command import recovered_partitions
from bench.report import RESULTS, ROOT, conclude, write_report
from export.model.untrained import write_untrained
from stream.kafka.topics import create_topics
from stream.settings import Topics

RESULT = RESULTS / "pauses.json"
PARTITIONS, USERS, ITEMS = 8, 20_000, 1_000
SESSION_S = 10.0
GOALS_S = {"stop moved": 1.0, "stop others": 0.5, "join all": 1.0, "kill moved": 5.0, "freeze others": 1.0}
TOPICS = Topics()


class Traffic:
    """Clicks at a fixed rate, and the arrival times of their decisions by partition. Two threads."""

    def __init__(self, broker: str, rate: int) -> None:
        self._broker, self._rate = broker, rate
        self._over = threading.Event()
        self.arrivals: list[list[float]] = [[] for _ in range(PARTITIONS)]
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._produce, self._read)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def longest(self, partition: int, since: float, until: float) -> float:
        """The longest time without a decision of a partition, seconds."""
        times = [t for t in self.arrivals[partition] if t <= until]
        before = [t for t in times if t <= since][-1:]
        return max(b - a for a, b in itertools.pairwise([*before, *(t for t in times if t > since), until]))

    def flowing(self, seconds: float) -> bool:
        """True if every partition had a decision in the last half second, and all had them `seconds` long."""
        now = time.monotonic()
        return all(times and self.longest(p, now - seconds, now) < 0.5 for p, times in enumerate(self.arrivals))

    def _produce(self) -> None:
        producer = Producer(
            {"bootstrap.servers": self._broker, "linger.ms": 5, "partitioner": "murmur2_random", "log_level": 2}
        )
        rng, began, sent = random.Random(0), time.monotonic(), 0
        while not self._over.wait(0.01):
            due = int((time.monotonic() - began) * self._rate)
            for _ in range(sent, due):
                user = f"user{rng.randrange(USERS)}"
                click = {"user_id": user, "item_id": f"item{rng.randrange(ITEMS)}", "timestamp": int(time.time() * 1e3)}
                producer.produce(TOPICS.clicks, msgspec.json.encode(click), user.encode())
            sent = due
            producer.poll(0)
        producer.flush(10)

    def _read(self) -> None:
        consumer = Consumer(
            {
                "bootstrap.servers": self._broker,
                "group.id": "bench-reader",
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 20,
                "log_level": 2,
            }
        )
        consumer.assign([TopicPartition(TOPICS.recommendations, p, 0) for p in range(PARTITIONS)])
        while not self._over.is_set():
            messages = consumer.consume(1_000, 0.02)
            now = time.monotonic()
            for partition in {message.partition() for message in messages if message.error() is None}:
                self.arrivals[partition].append(now)
        consumer.close()


class Worker:
    """One `eddy worker` under a fixed worker id; `start` and `end` may be repeated."""

    def __init__(self, broker: str, model: Path, number: int, directory: Path) -> None:
        self._command = [sys.executable, "-m", "stream.ops.cli", "worker", "--model", str(model), "--broker", broker]
        self._command += ["--worker-id", str(number), "--device", "cpu", "--session-timeout-s", str(SESSION_S)]
        self._log = directory / f"worker-{number}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, cwd=ROOT)

    def send(self, how: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(how)

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def recoveries(self) -> list[set[int]]:
        return recovered_partitions(self._log.read_text())

    def partitions(self) -> set[int]:
        """The partitions that it recovered last."""
        return next(iter(self.recoveries()[-1:]), set())


def wait_for(true: Callable[[], bool], what: str, limit_s: float = 90.0) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            sys.exit(f"not within {limit_s:.0f} s: {what}")
        time.sleep(0.05)


def shared(one: Worker, other: Worker) -> bool:
    """True if each worker has half of the partitions."""
    halves = one.partitions(), other.partitions()
    return len(halves[0]) == len(halves[1]) == PARTITIONS // 2 and not halves[0] & halves[1]


def fault(name: str, traffic: Traffic, stays: Worker, hurt: Worker) -> dict[str, float]:
    """Do one fault to a worker, wait until all partitions flow, and return the longest pauses in seconds."""
    had, recoveries = hurt.partitions(), len(hurt.recoveries())
    since = time.monotonic()
    if name == "stop":
        hurt.send(signal.SIGTERM)
        wait_for(hurt.ended, "the stopped worker ends")
        wait_for(lambda: len(stays.partitions()) == PARTITIONS, "the other worker has all partitions")
    elif name == "join":
        hurt.start()
        wait_for(lambda: len(hurt.recoveries()) > recoveries, "the new worker has recovered")
        wait_for(lambda: shared(stays, hurt), "both workers have partitions")
    elif name == "kill":
        hurt.send(signal.SIGKILL)
        wait_for(hurt.ended, "the killed worker has ended")
        hurt.start()
        wait_for(lambda: len(hurt.recoveries()) > recoveries, "the restarted worker has recovered")
    else:
        hurt.send(signal.SIGSTOP)
        wait_for(lambda: len(stays.partitions()) == PARTITIONS, "the other worker has all partitions")
        wait_for(lambda: traffic.flowing(1.0), "all partitions flow")
        until = time.monotonic()
        hurt.send(signal.SIGCONT)
        wait_for(lambda: hurt.ended() or len(hurt.recoveries()) > recoveries, "it ends with 70, or joins again")
        if hurt.ended():
            hurt.start()
        wait_for(lambda: len(hurt.recoveries()) > recoveries, "the worker that was frozen has recovered")
        wait_for(lambda: shared(stays, hurt), "both workers have partitions")
        wait_for(lambda: traffic.flowing(2.0), "all partitions flow")
        return pauses(name, traffic, had, since, until)
    wait_for(lambda: traffic.flowing(2.0), "all partitions flow")
    return pauses(name, traffic, had, since, time.monotonic())


def pauses(name: str, traffic: Traffic, had: set[int], since: float, until: float) -> dict[str, float]:
    longest = [traffic.longest(p, since, until) for p in range(PARTITIONS)]
    if name == "join":
        return {"join all": max(longest)}
    return {
        f"{name} moved": max(longest[p] for p in had),
        f"{name} others": max(longest[p] for p in range(PARTITIONS) if p not in had),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rate", type=int, default=2_000, help="clicks per second [2000]")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each fault [5]")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=RESULT, help="where to write the result")
    given = parser.parse_args()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, ApacheKafka() as kafka:
        directory = Path(name)
        model = directory / "shop" / "1"
        write_untrained(model, [f"item{n}" for n in range(ITEMS)], ["view"], hidden=64)
        create_topics(kafka.address, TOPICS, PARTITIONS, 1)
        traffic = Traffic(kafka.address, given.rate)
        first, second = (Worker(kafka.address, model, number, directory) for number in (0, 1))
        first.start()
        second.start()
        traffic.start()
        try:
            wait_for(lambda: shared(first, second), "the workers share the work")
            wait_for(lambda: traffic.flowing(2.0), "all partitions flow")
            for number in range(given.rounds):
                for what in ("stop", "join", "kill", "freeze"):
                    for key, seconds in fault(what, traffic, first, second).items():
                        found.setdefault(key, []).append(round(seconds, 3))
                        print(f"round {number + 1}: {key:14} {seconds:6.2f} s", file=sys.stderr)
        finally:
            for worker in (first, second):
                if not worker.ended():
                    worker.send(signal.SIGKILL)
            traffic.end()
    medians = {key: statistics.median(seconds) for key, seconds in found.items()}
    missed = {key: goal for key, goal in GOALS_S.items() if medians[key] > goal}
    failures = [f"{key}: {medians[key]:.2f} s, the goal is {goal} s" for key, goal in missed.items()]
    results: dict[str, Any] = {"median_s": medians, "rounds_s": found}
    conditions = {"rate": given.rate, "partitions": PARTITIONS, "workers": 2, "session_timeout_s": SESSION_S}
    report = write_report(given.out, "bench.pauses", conditions, results, failures, kafka=VERSION)
    print("\n".join(f"{key:14} {seconds:6.2f} s" for key, seconds in medians.items()))
    return conclude(report, given.json)


if __name__ == "__main__":
    sys.exit(main())
