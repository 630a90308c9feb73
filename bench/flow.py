"""Clicks at a fixed rate to one `eddy worker` for a long time, and samples of what comes out and what it costs.

A thread sends the clicks of bench/throughput; while the broker is away it goes on, and its producer keeps them. Two
readers take the results, one as they are written (read_uncommitted), one as they are committed (read_committed). Each
click's results are counted, so at the end it is known that none is lost or repeated. Only counts and times are kept,
so a run may take hours.
"""

import os
import threading
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count, islice, takewhile
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
from confluent_kafka import Producer

from bench.command import stop
from bench.latency.traffic import Reader, paced
from bench.throughput.check import Stamp
from bench.throughput.clicks import Message, endless, position
from bench.throughput.machine import machine_cpu_s, memory, tree_cpu_s
from bench.throughput.rounds import SETTLE_S, WARM_UP
from bench.throughput.started import PARTITIONS, Running
from stream.events import click_of

ISOLATIONS = ("read_uncommitted", "read_committed")
LATE_S = 120.0

BACKLOG, BACKLOG_RATE = 40_000, 100_000.0
"""Clicks before the time begins, and how many of them are sent a second. The worker works them off in its largest
transactions, and keeps part of the memory: a run with its first backlog in the middle would look like one that grows.
Later backlogs still add some, each one less (six stops of the broker: from 244 to 331 MB, then flat)."""


class Sample(NamedTuple):
    """What happened since the sample before.

    s             end of the sample, seconds since the first click
    clicks_per_s  results that were committed
    lag           clicks that were sent and have no committed result, at the end
    *_ms          latencies of the results of this time, p50 and p99; None without a result
    cpu_us        CPU time of the worker per committed result; None without one
    anon_mb       memory of the worker that is its own, at the end
    file_mb       pages of mapped files, at the end
    others_cores  cores that processes used which are none of this benchmark, and what a hypervisor took
    """

    s: float
    clicks_per_s: float
    lag: int
    read_uncommitted_p50_ms: float | None
    read_uncommitted_p99_ms: float | None
    read_committed_p50_ms: float | None
    read_committed_p99_ms: float | None
    cpu_us: float | None
    anon_mb: float
    file_mb: float
    others_cores: float


class Named(Stamp):
    """The fields of a decision that name its click: `id` ends with the offset of the click in its partition."""

    id: str


class Counted(NamedTuple):
    """What is wrong with the results of a run.

    lost           clicks without a result
    decided_twice  results that are not the first of a message: Eddy's fault
    stored_twice   clicks that Kafka has twice because the producer sent them again: each has a result of its own
    """

    lost: int
    decided_twice: int
    stored_twice: int


class Results:
    """What one reader got. `take` is called in the reader's thread, all else in the main thread.

    sent   monotonic time at which each click was sent, by its position
    total  results so far, without those of clicks that are stored twice
    """

    def __init__(self, sent: Sequence[float]) -> None:
        self._sent = sent
        self._lock = threading.Lock()
        self._decode = msgspec.json.Decoder(Named).decode
        self._times: list[float] = []
        self._offsets = array("q")  # of the message that was decided first, by the click's position; -1 = none
        self._messages_twice: set[tuple[int, int]] = set()
        self._decided_twice = 0
        self.total = 0

    def take(self, at: float, values: Sequence[bytes]) -> None:
        """Count and time the results that came at `at`."""
        decoded = [self._decode(value) for value in values]
        named = [(position(one.timestamp), int(click_of(one.id).rpartition("-")[2])) for one in decoded]
        with self._lock:
            self._offsets.extend([-1] * max(0, len(self._sent) - len(self._offsets)))
            for one in named:
                self._count(*one, at)

    def _count(self, click: int, offset: int, at: float) -> None:
        first = self._offsets[click]
        if first == -1:
            self._offsets[click] = offset
            self._times.append(1e3 * (at - self._sent[click]))
            self.total += 1
        elif first == offset or (click, offset) in self._messages_twice:
            self._decided_twice += 1
        else:
            self._messages_twice.add((click, offset))

    def percentiles(self) -> tuple[float | None, float | None]:
        """p50 and p99 of the latencies since the last call, ms; None without a result."""
        with self._lock:
            times, self._times = self._times, []
        if not times:
            return None, None
        p50, p99 = np.percentile(times, (50, 99))
        return round(float(p50), 2), round(float(p99), 2)

    def counted(self) -> Counted:
        """What is wrong so far."""
        with self._lock:
            return Counted(len(self._sent) - self.total, self._decided_twice, len(self._messages_twice))


class Flow:
    """Traffic at `rate` clicks per second to a worker. Use it in a `with` statement; the worker is warm then.

    committed, uncommitted  the results of the two readers
    """

    def __init__(self, broker: str, worker: Running, rate: float) -> None:
        self._worker = worker
        self._over = threading.Event()
        self._clicks = takewhile(lambda _: not self._over.is_set(), endless())
        self._producer = Producer(
            {
                "bootstrap.servers": broker,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,  # a repetition after an outage is stored once
                "message.timeout.ms": 600_000,
                "queue.buffering.max.messages": 10_000_000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._sent = array("d")
        self.uncommitted, self.committed = Results(self._sent), Results(self._sent)
        topic = worker.topics.recommendations
        self._readers = [
            Reader(broker, topic, PARTITIONS, isolation, results.take)
            for isolation, results in zip(ISOLATIONS, (self.uncommitted, self.committed), strict=True)
        ]
        self._thread = threading.Thread(target=self._send, args=(rate, self._clicks), daemon=True)

    @property
    def lag(self) -> int:
        """Clicks that were sent and have no committed result."""
        return len(self._sent) - self.committed.total

    @property
    def sent(self) -> int:
        return len(self._sent)

    def _send(self, rate: float, clicks: Iterator[Message]) -> None:
        for _, at in paced(rate, self._producer, self._worker.topics.clicks, clicks):
            self._sent.append(at)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for reader in self._readers:
                stack.enter_context(reader)
            self._send(WARM_UP, islice(self._clicks, WARM_UP))
            self._wait()
            self._send(BACKLOG_RATE, islice(self._clicks, BACKLOG))
            self._wait()
            time.sleep(SETTLE_S)
            self._readers_end = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._readers_end.close()

    def samples(self, every_s: float) -> Iterator[Sample]:
        """Send clicks, and yield a sample every so many seconds, without an end. To be called once."""
        self.uncommitted.percentiles(), self.committed.percentiles()
        process = self._worker.process.pid
        began = time.monotonic()
        self._thread.start()
        before = began, self.committed.total, tree_cpu_s(process), machine_cpu_s() - tree_cpu_s(os.getpid())
        for number in count(1):
            time.sleep(max(0.0, began + number * every_s - time.monotonic()))
            self._worker.check(f"{self.committed.total} results", False)
            others_s = machine_cpu_s() - tree_cpu_s(os.getpid())
            after = time.monotonic(), self.committed.total, tree_cpu_s(process), others_s
            wall, clicks, cpu, others = (b - a for a, b in zip(before, after, strict=True))
            anon, file = memory(process)
            yield Sample(
                round(after[0] - began, 2),
                round(clicks / wall, 1),
                self.lag,
                *self.uncommitted.percentiles(),
                *self.committed.percentiles(),
                round(1e6 * cpu / clicks, 1) if clicks else None,
                round(anon, 1),
                round(file, 1),
                round(max(0.0, others) / wall, 2),
            )
            before = after

    def end(self) -> dict[str, int]:
        """Send no more and wait for all results. Returns how many clicks were sent, and what `Counted` has."""
        self._over.set()
        self._thread.join()
        self._wait()
        time.sleep(SETTLE_S)  # for repeated results
        return {"clicks": self.sent, **self.committed.counted()._asdict()}

    def _wait(self) -> None:
        """Wait until each click has a committed result. Exit code 2 if that takes more than LATE_S seconds."""
        self._producer.flush(LATE_S)
        deadline = time.monotonic() + LATE_S
        while self.lag > 0:
            self._worker.check(f"{self.committed.total} of {self.sent} results", time.monotonic() > deadline)
            time.sleep(0.05)


def series(samples: Sequence[Sample]) -> dict[str, list[Any]]:
    """Samples as columns: name -> values."""
    if not samples:
        stop("the run was too short for a sample")
    return {name: list(values) for name, values in zip(Sample._fields, zip(*samples, strict=True), strict=True)}


def wrong(counted: dict[str, int]) -> list[str]:
    """A line for each kind of error in what `Flow.end` has counted."""
    named = (("lost", "lost"), ("decided_twice", "decided twice"))
    return [f"{counted[key]} clicks are {words}" for key, words in named if counted[key]]
