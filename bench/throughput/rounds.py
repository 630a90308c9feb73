"""Runs one contender: waits until it is ready, sends the clicks, reads all results, and measures.

The time begins when the first click is sent and ends when the last result is read with `read_committed`. Before that,
the contender has answered WARM_UP clicks, so the start of the process, the load of the model and the join to the group
are not part of it.
"""

import os
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.command import say, stop
from bench.throughput.check import Judged, clicks_per_list, sample, timestamps, uncounted, wrong
from bench.throughput.clicks import Message, made_up, send
from bench.throughput.machine import machine_cpu_s, tree_cpu_s
from bench.throughput.started import CONTENDERS, PARTITIONS, Running, Site, running

WARM_UP = 400
LIMIT_S = 600.0
SETTLE_S = 1.0
"""Before the clicks are sent, so that the commits of the first ones are over; and at the end, for repeated results."""


class Measured(NamedTuple):
    """The figures of one run.

    clicks_per_s     clicks sent in one go / time until the last result is read
    cpu_us           CPU time of the contender's processes, microseconds per click
    kafka_us         CPU time of the broker and of this benchmark's producer and reader, microseconds per click
    others_cores     cores that all other processes of the machine used meanwhile, and what a hypervisor took
    clicks_per_list  results for each one that has a list
    """

    clicks_per_s: float
    cpu_us: float
    kafka_us: float
    others_cores: float
    clicks_per_list: float


class Runner:
    """Runs contenders at one site and checks their results."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._reference: dict[int, Judged] = {}

    def run(self, name: str, number: object, clicks: list[Message]) -> Measured:
        """Let a contender process `clicks`, the first WARM_UP of them before the time begins.

        number  of the round, or another word; a contender has each of them once. The limit must run first: the others
                are compared with its first results.
        A contender that ends or is too slow, or whose results are wrong, ends the benchmark with exit code 2.
        """
        with running(self._site, CONTENDERS[name], f"{name}-{number}") as contender:
            measured, values = drain(self._site.broker, [contender], clicks)
        if name == "limit" and not self._reference:
            self._reference = sample(values, clicks)
        lines = wrong(values, clicks, self._reference)
        if lines:
            stop(f"{name} gave wrong results: {'; '.join(lines)}")
        return measured


def drain(broker: str, contenders: Sequence[Running], clicks: list[Message]) -> tuple[Measured, list[bytes]]:
    """Let one contender, or several of one group, process `clicks` as fast as they can. Returns figures and results.

    The first WARM_UP clicks are processed before the time begins.
    """
    producer = Producer(
        {
            "bootstrap.servers": broker,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 10_000_000,
            "log_level": 2,
        }
    )
    topics = contenders[0].topics
    reader = Reader(broker, topics.recommendations)
    send(producer, topics.clicks, clicks[:WARM_UP])
    reader.read(WARM_UP, contenders)
    time.sleep(SETTLE_S)

    def used() -> tuple[float, float, float, float]:
        its = sum(tree_cpu_s(contender.process.pid) for contender in contenders)
        return time.monotonic(), its, tree_cpu_s(os.getpid()), machine_cpu_s()

    before, rest = used(), clicks[WARM_UP:]
    send(producer, topics.clicks, rest)
    reader.read(len(clicks), contenders)
    wall, its, ours, machine = (b - a for a, b in zip(before, used(), strict=True))
    reader.read_for(SETTLE_S)
    reader.close()
    micro, others = 1e6 / len(rest), max(0.0, machine - ours) / wall
    per_list = clicks_per_list(reader.values[WARM_UP:])
    return Measured(len(rest) / wall, its * micro, (ours - its) * micro, others, per_list), reader.values


def capacity(site: Site, clicks: int, drains: int = 3) -> float:
    """Clicks per second of one `eddy worker` that has a backlog: the median of some runs.

    Exit code 2 if a click has no result or several.
    """
    found, some = [], made_up(clicks + WARM_UP)
    for number in range(drains):
        with running(site, CONTENDERS["eddy"], f"capacity-{number}") as worker:
            measured, values = drain(site.broker, [worker], some)
        lines = uncounted(timestamps(values), (click.timestamp for click in some))
        if lines:
            stop(f"{worker.directory.name}: {'; '.join(lines)}")
        say(f"capacity, {number + 1} of {drains}: {measured.clicks_per_s:,.0f} clicks/s")
        found.append(measured.clicks_per_s)
    return statistics.median(found)


class Reader:
    """Reads the results of one contender, with `read_committed`. `values`: the messages so far."""

    def __init__(self, broker: str, topic: str) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": broker,
                "group.id": "throughput-reader",  # it does not join the group
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 20,
                "log_level": 2,
            }
        )
        self._consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
        self.values: list[bytes] = []

    def read(self, count: int, contenders: Sequence[Running]) -> None:
        """Read until there are `count` results. Exit code 2 if the process ends or LIMIT_S seconds are over."""
        deadline = time.monotonic() + LIMIT_S
        while len(self.values) < count:
            self.read_for(0.05, count - len(self.values))
            for contender in contenders:
                contender.check(f"{len(self.values)} of {count} results", time.monotonic() > deadline)

    def read_for(self, seconds: float, most: int = 10_000) -> None:
        """Read what comes within so many seconds, at most `most` results."""
        messages = self._consumer.consume(min(most, 10_000), seconds)
        self.values += [message.value() for message in messages if message.error() is None]

    def close(self) -> None:
        self._consumer.close()
