"""Runs one contender on new topics: starts it, waits until it is ready, sends the clicks, and reads all results.

The time begins when the first click is sent and ends when the last result is read with `read_committed`. Before that,
the contender has answered WARM_UP clicks, so the start of the process, the load of the model and the join to the group
are not part of it.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from bench.command import eddy_command, environment, stop
from bench.throughput.check import Judged, sample, wrong
from bench.throughput.clicks import Message, send
from bench.throughput.contenders.model import K
from bench.throughput.machine import machine_cpu_s, tree_cpu_s
from stream.kafka.topics import create_topics
from stream.settings import Topics

PARTITIONS, WARM_UP = 8, 400
LIMIT_S = 600.0
SETTLE_S = 1.0
"""Before the clicks are sent, so that the commits of the first ones are over; and at the end, for repeated results."""

HERE = Path(__file__).parent / "contenders"


class Contender(NamedTuple):
    """How one contender is started, and what it keeps.

    command    topics, broker, model, Python of the contenders -> command line
    by_event   it processes one click at a time, and gets fewer clicks
    keeps      where the users' states are, and what is guaranteed
    """

    command: Callable[[Topics, str, Path, Path], list[str]]
    by_event: bool
    keeps: str


def _script(name: str, eddys_python: bool) -> Callable[[Topics, str, Path, Path], list[str]]:
    def command(topics: Topics, broker: str, model: Path, python: Path) -> list[str]:
        words = [broker, topics.clicks, topics.recommendations, str(model)]
        return [sys.executable if eddys_python else str(python), str(HERE / f"{name}.py"), *words]

    return command


def _bytewax(name: str) -> Callable[[Topics, str, Path, Path], list[str]]:
    def command(topics: Topics, broker: str, model: Path, python: Path) -> list[str]:
        words = (broker, topics.clicks, topics.recommendations, str(model))
        return [str(python), "-m", "bytewax.run", f"{HERE / name}.py:flow{words!r}"]

    return command


def _eddy(topics: Topics, broker: str, model: Path, _: Path) -> list[str]:
    """The lists of the contenders have the item of the click, so Eddy's have it, too."""
    named = [
        ("--" + name.replace("_", "-") + "-topic", topic) for name, topic in msgspec.structs.asdict(topics).items()
    ]
    return eddy_command(
        *("worker", "--model", model, "--broker", broker, "--group", topics.recommendations, "--device", "cpu"),
        *("--worker-id", 0, "--k", K, "--exclude-recent", 0),
        *(word for pair in named for word in pair),
    )


CONTENDERS = {
    "limit": Contender(_script("bare", True), False, "arrays in memory; at least once"),
    "bytewax_batched": Contender(_bytewax("bytewax_batched"), False, "arrays in memory"),
    "quix_batched": Contender(_script("quix_batched", False), False, "arrays in memory; at least once"),
    "eddy": Contender(_eddy, False, "arrays in memory and changelog topic; exactly once; p-values and alerts"),
    "bytewax_events": Contender(_bytewax("bytewax_events"), True, "stateful_map in memory"),
    "quix_events": Contender(_script("quix_events", False), True, "RocksDB and changelog topic; at least once"),
    "faust_events": Contender(_script("faust_events", True), True, "table with changelog topic; at least once"),
}


class Measured(NamedTuple):
    """The figures of one run.

    clicks_per_s  clicks sent in one go / time until the last result is read
    cpu_us        CPU time of the contender's processes, microseconds per click
    kafka_us      CPU time of the broker and of this benchmark's producer and reader, microseconds per click
    others_cores  cores that all other processes of the machine used meanwhile, and what a hypervisor took
    """

    clicks_per_s: float
    cpu_us: float
    kafka_us: float
    others_cores: float


class Runner:
    """Runs contenders on one broker with one model, and checks their results.

    python   Python of the environment of Quix Streams and Bytewax
    scratch  directory for the logs and files of the contenders
    """

    def __init__(self, broker: str, model: Path, python: Path, scratch: Path) -> None:
        self._broker, self._model, self._python, self._scratch = broker, model, python, scratch
        self._producer = Producer(
            {
                "bootstrap.servers": broker,
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 10_000_000,
                "log_level": 2,
            }
        )
        self._reference: dict[int, Judged] = {}

    def run(self, name: str, number: int, clicks: list[Message]) -> Measured:
        """Let a contender process `clicks`, the first WARM_UP of them before the time begins.

        number  number of the round. The limit must run first in the first round: the others are compared with it.
        A contender that ends or is too slow, or whose results are wrong, ends the benchmark with exit code 2.
        """
        words = ("clicks", "results", "anomalies", "dead", "states")
        topics = Topics(*(f"{name}-{number}-{word}" for word in words))
        create_topics(self._broker, topics, PARTITIONS, 1)
        directory = self._scratch / f"{name}-{number}"
        directory.mkdir()
        command = CONTENDERS[name].command(topics, self._broker, self._model, self._python)
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=directory, env=environment(), stdout=log, stderr=log)
        reader = Reader(self._broker, topics.recommendations)
        try:
            send(self._producer, topics.clicks, clicks[:WARM_UP])
            reader.read(WARM_UP, process, directory)
            time.sleep(SETTLE_S)
            measured = self._timed(topics, clicks[WARM_UP:], reader, process, directory)
            reader.read_for(SETTLE_S)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            reader.close()
        if name == "limit" and not self._reference:
            self._reference = sample(reader.values, clicks)
        lines = wrong(reader.values, clicks, self._reference)
        if lines:
            stop(f"{name} gave wrong results: {'; '.join(lines)}")
        self._delete_topics()
        return measured

    def _delete_topics(self) -> None:
        """Delete the topics of a run, so that the disk does not fill up, and those that the contender created."""
        admin = AdminClient({"bootstrap.servers": self._broker, "log_level": 0})
        topics = [topic for topic in admin.list_topics(timeout=10).topics if not topic.startswith("__")]
        for future in admin.delete_topics(topics).values():
            future.result(30)

    def _timed(
        self,
        topics: Topics,
        clicks: list[Message],
        reader: "Reader",
        process: "subprocess.Popen[bytes]",
        directory: Path,
    ) -> Measured:
        def used() -> tuple[float, float, float, float]:
            return time.monotonic(), tree_cpu_s(process.pid), tree_cpu_s(os.getpid()), machine_cpu_s()

        before = used()
        send(self._producer, topics.clicks, clicks)
        reader.read(WARM_UP + len(clicks), process, directory)
        wall, contender, ours, machine = (b - a for a, b in zip(before, used(), strict=True))
        micro = 1e6 / len(clicks)
        return Measured(
            len(clicks) / wall, contender * micro, (ours - contender) * micro, max(0.0, machine - ours) / wall
        )


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

    def read(self, count: int, process: "subprocess.Popen[bytes]", directory: Path) -> None:
        """Read until there are `count` results. Exit code 2 if the process ends or LIMIT_S seconds are over."""
        deadline = time.monotonic() + LIMIT_S
        while len(self.values) < count:
            self.read_for(0.05, count - len(self.values))
            if process.poll() is not None or time.monotonic() > deadline:
                tail = (directory / "log").read_text(errors="replace")[-3000:]
                stop(f"{len(self.values)} of {count} results, exit code {process.returncode}\n{tail}")

    def read_for(self, seconds: float, most: int = 10_000) -> None:
        """Read what comes within so many seconds, at most `most` results."""
        messages = self._consumer.consume(min(most, 10_000), seconds)
        self.values += [message.value() for message in messages if message.error() is None]

    def close(self) -> None:
        self._consumer.close()
