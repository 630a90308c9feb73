"""Runs one contender: waits until it is ready, sends the clicks, reads all results, and measures.

The time begins when the first click is sent and ends when the last result is read with `read_committed`. Before that,
the contender has answered WARM_UP clicks, so the start of the process, the load of the model and the join to the group
are not part of it.
"""

import os
import time
from typing import NamedTuple

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.command import stop
from bench.throughput.check import Judged, clicks_per_list, sample, wrong
from bench.throughput.clicks import Message, send
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
        self._producer = Producer(
            {
                "bootstrap.servers": site.broker,
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 10_000_000,
                "log_level": 2,
            }
        )
        self._reference: dict[int, Judged] = {}

    def run(self, name: str, number: object, clicks: list[Message]) -> Measured:
        """Let a contender process `clicks`, the first WARM_UP of them before the time begins.

        number  of the round, or another word; a contender has each of them once. The limit must run first: the others
                are compared with its first results.
        A contender that ends or is too slow, or whose results are wrong, ends the benchmark with exit code 2.
        """
        with running(self._site, CONTENDERS[name], f"{name}-{number}") as contender:
            reader = Reader(self._site.broker, contender.topics.recommendations)
            send(self._producer, contender.topics.clicks, clicks[:WARM_UP])
            reader.read(WARM_UP, contender)
            time.sleep(SETTLE_S)
            measured = self._timed(clicks[WARM_UP:], reader, contender)
            reader.read_for(SETTLE_S)
            reader.close()
        if name == "limit" and not self._reference:
            self._reference = sample(reader.values, clicks)
        lines = wrong(reader.values, clicks, self._reference)
        if lines:
            stop(f"{name} gave wrong results: {'; '.join(lines)}")
        return measured

    def _timed(self, clicks: list[Message], reader: "Reader", contender: Running) -> Measured:
        def used() -> tuple[float, float, float, float]:
            return time.monotonic(), tree_cpu_s(contender.process.pid), tree_cpu_s(os.getpid()), machine_cpu_s()

        before = used()
        send(self._producer, contender.topics.clicks, clicks)
        reader.read(WARM_UP + len(clicks), contender)
        wall, its, ours, machine = (b - a for a, b in zip(before, used(), strict=True))
        micro, others = 1e6 / len(clicks), max(0.0, machine - ours) / wall
        per_list = clicks_per_list(reader.values[WARM_UP:])
        return Measured(len(clicks) / wall, its * micro, (ours - its) * micro, others, per_list)


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

    def read(self, count: int, contender: Running) -> None:
        """Read until there are `count` results. Exit code 2 if the process ends or LIMIT_S seconds are over."""
        deadline = time.monotonic() + LIMIT_S
        while len(self.values) < count:
            self.read_for(0.05, count - len(self.values))
            contender.check(f"{len(self.values)} of {count} results", time.monotonic() > deadline)

    def read_for(self, seconds: float, most: int = 10_000) -> None:
        """Read what comes within so many seconds, at most `most` results."""
        messages = self._consumer.consume(min(most, 10_000), seconds)
        self.values += [message.value() for message in messages if message.error() is None]

    def close(self) -> None:
        self._consumer.close()
