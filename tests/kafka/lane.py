"""What the tests on a real Kafka share: topics of their own, clicks, worker processes, readers, and the oracle.

The oracle is the same engine run offline over the same clicks in each partition's order, one process, no Kafka in
between: whatever a worker went through, its rows must come out bit-equal to it.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from bench.readers import progress, read_topic
from stream.engine.engine import Engine
from stream.errors import BadClick
from stream.events import Click, Origin, Partition
from stream.kafka.changelog import POSITION_KEY
from stream.kafka.topics import create_topics
from stream.model.runtime import load_model
from stream.settings import Topics
from stream.wire.json import JsonCodec
from stream.worker.served import open_engine

ROOT = Path(__file__).resolve().parents[2]
NOW_MS = 1_760_000_000_000


def wait_until(true: Callable[[], bool], what: str, deadline_s: float = 60.0) -> None:
    """Poll until `true`; fails with `what` at the deadline."""
    end = time.monotonic() + deadline_s
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:.0f} s: {what}")
        time.sleep(0.02)  # the polling interval; the deadline above decides


@dataclass
class Worker:
    """One `eddy worker` process, its log in a file."""

    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for(self, text: str, times: int = 1, deadline_s: float = 60.0) -> None:
        def seen() -> bool:
            if self.log.count(text) >= times:
                return True
            assert self.process.poll() is None, f"worker ended with {self.process.returncode}:\n{self.log}"
            return False

        wait_until(seen, f"{text!r} {times} times in:\n{self.log}", deadline_s)

    def send(self, how: signal.Signals) -> None:
        self.process.send_signal(how)

    def end(self, how: signal.Signals, deadline_s: float = 40.0) -> int:
        self.send(how)
        return self.process.wait(timeout=deadline_s)


@dataclass
class Lane:
    """One test's topics on the broker, and the group that works on them."""

    broker: str
    name: str
    model: Path
    directory: Path
    partitions: int = 4
    workers: list[Worker] = field(default_factory=list)

    @property
    def topics(self) -> Topics:
        return Topics(*(f"{self.name}-{word}" for word in ("clicks", "recs", "anomalies", "dead", "changelog")))

    def create(self, **configs: dict[str, str]) -> None:
        """Create the topics; `configs` gives some of them a configuration, as clicks={"max.message.bytes": "9000"}."""
        admin = AdminClient({"bootstrap.servers": self.broker})
        for name, config in configs.items():
            policy = {"cleanup.policy": "compact"} if name == "changelog" else {}
            new = NewTopic(getattr(self.topics, name), self.partitions, 1, config=policy | config)
            admin.create_topics([new])[new.topic].result()
        create_topics(self.broker, self.topics, self.partitions, 1)

    def arguments(self, **options: object) -> list[str]:
        """The command line of a worker; options replace or extend the usual ones."""
        given: dict[str, object] = {
            "model": self.model,
            "broker": self.broker,
            "group": self.name,
            "data_dir": self.directory / "data",
            "session_timeout_s": 6,
        }
        given |= {f"{name}_topic": topic for name, topic in msgspec.structs.asdict(self.topics).items()}
        given |= options
        flags = [(f"--{name.replace('_', '-')}", str(value)) for name, value in given.items()]
        return [sys.executable, "-m", "stream.ops.cli", "worker", *(part for flag in flags for part in flag)]

    def start(self, **options: object) -> Worker:
        """Start a worker; `end_all` ends it at the latest."""
        path = self.directory / f"worker{len(self.workers)}.log"
        with path.open("wb") as log:
            process = subprocess.Popen(
                self.arguments(**options), stdout=log, stderr=log, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
            )
        self.workers.append(Worker(process, path))
        return self.workers[-1]

    def end_all(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()  # ends a stopped one, too
                worker.process.wait()

    # -- clicks -------------------------------------------------------------------------------------------------------

    def produce(
        self, messages: Iterable[tuple[bytes | None, bytes | None]], compression: str = "none", longest: int = 1_000_000
    ) -> None:
        """Publish (key, value) pairs; none is longer than `longest` bytes."""
        producer = Producer(
            {
                "bootstrap.servers": self.broker,
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "compression.type": compression,
                "queue.buffering.max.messages": 1_000_000,
                "message.max.bytes": longest,
                "log_level": 2,
            }
        )
        failed: list[object] = []

        def delivered(error: object, _: Message) -> None:
            if error is not None:
                failed.append(error)

        for n, (key, value) in enumerate(messages):
            producer.produce(self.topics.clicks, value, key, on_delivery=delivered)
            if n % 1000 == 0:
                producer.poll(0)
        assert producer.flush(60) == 0
        assert not failed, failed[0]

    def upstream(self) -> Producer:
        """A producer of another application that writes clicks in transactions of its own."""
        producer = Producer(
            {
                "bootstrap.servers": self.broker,
                "transactional.id": f"{self.name}-upstream",
                "transaction.timeout.ms": 300_000,
                "partitioner": "murmur2_random",
                "log_level": 2,
            }
        )
        producer.init_transactions(30)
        return producer

    # -- readers ------------------------------------------------------------------------------------------------------

    def read(self, topic: str) -> list[Message]:
        """Every message of a topic that a read_committed consumer sees."""
        return read_topic(self.broker, topic)

    def progress(self) -> AbstractContextManager[Callable[[], tuple[int, int]]]:
        """A function that gives (clicks committed by the group, clicks there are)."""
        return progress(self.broker, self.name, self.topics.clicks)

    def wait_for_clicks(self, share: float = 1.0, deadline_s: float = 240.0) -> None:
        """Wait until the group has committed this share of all clicks."""
        with self.progress() as look:

            def reached() -> bool:
                committed, ends = look()
                return committed >= share * ends

            wait_until(reached, f"{share:.0%} of the clicks decided; workers' logs:\n" + self._logs(), deadline_s)

    def _logs(self) -> str:
        return "\n".join(worker.log[-1500:] for worker in self.workers)

    # -- the oracle ---------------------------------------------------------------------------------------------------

    def oracle(self) -> tuple[dict[bytes, bytes], Counter[str]]:
        """Changelog key -> row, and how many decisions each id must have, by the engine run offline."""
        engine = open_engine(load_model(self.model, "cpu"), self.model, 20, 1, 0.001)
        decode, now_ms = JsonCodec(65_536, 3_600_000).decode, time.time_ns() // 1_000_000
        ids: Counter[str] = Counter()
        for batch in _batches(self.read(self.topics.clicks), decode, now_ms):
            ids.update(_apply(engine, batch))
        rows: dict[bytes, bytes] = {}
        for partition in range(self.partitions):
            rows |= engine.arena.rows(Partition(self.topics.clicks, partition))
        return rows, ids

    def assert_as_if_nothing_had_happened(self) -> None:
        """Rows bit-equal to the oracle's, exactly one decision per click."""
        rows, ids = self.oracle()
        stored = {(m.partition(), m.key()): m.value() for m in self.read(self.topics.changelog)}
        written = {key: row for (_, key), row in stored.items() if key != POSITION_KEY}
        assert written.keys() == rows.keys()
        wrong = [key for key, row in rows.items() if written[key] != row]
        assert not wrong, self._difference(wrong, rows, written)
        decided = Counter(decode_id(message) for message in self.read(self.topics.recommendations))
        assert decided == ids

    def _difference(self, wrong: list[bytes], rows: dict[bytes, bytes], written: dict[bytes, bytes]) -> str:
        """Whether wrong rows are behind the oracle, ahead of it, or others at the same offset; and if they stay so."""
        dtype = open_engine(load_model(self.model, "cpu"), self.model, 20, 1, 0.001).arena.dtype

        def offset(row: bytes) -> int:
            return int(np.frombuffer(row, dtype)["source_offset"][0])

        steps = [offset(written[key]) - offset(rows[key]) for key in wrong]
        again = {message.key(): message.value() for message in self.read(self.topics.changelog)}
        return (
            f"{len(wrong)} of {len(rows)} rows differ: {sum(s < 0 for s in steps)} behind the oracle, "
            f"{sum(s > 0 for s in steps)} ahead, {sum(s == 0 for s in steps)} at the same offset; "
            f"{sum(again[key] != rows[key] for key in wrong)} of them still differ when read again"
        )


def decode_id(message: Message) -> str:
    decoded: dict[str, Any] = msgspec.json.decode(message.value())
    return str(decoded["id"])


def _batches(
    messages: list[Message], decode: Callable[..., Click], now_ms: int
) -> Iterator[list[tuple[Click, Origin]]]:
    """Clicks in each partition's order, one partition after the other, 1,000 at a time. Bad messages are left out."""
    batch: list[tuple[Click, Origin]] = []
    for message in sorted(messages, key=lambda m: (m.partition(), m.offset())):
        try:
            click = decode(message.key(), message.value(), now_ms)
        except BadClick:
            continue
        batch.append((click, Origin(message.topic(), message.partition(), message.offset())))
        if len(batch) == 1000:
            yield batch
            batch = []
    if batch:
        yield batch


def _apply(engine: Engine, batch: list[tuple[Click, Origin]]) -> list[str]:
    clicks = engine.encoder.columns([click for click, _ in batch], [origin for _, origin in batch])
    cycle = engine.process(clicks, now_ms=0)
    engine.commit(cycle)
    return [batch[i][1].id for i in cycle.decided.tolist()]


def clicks(count: int, users: int = 500, seed: int = 0) -> list[tuple[bytes | None, bytes | None]]:
    """`count` clicks of a shop with 300 known items and some unknown ones."""
    rng = random.Random(seed)
    encode = msgspec.json.Encoder().encode
    found: list[tuple[bytes | None, bytes | None]] = []
    for n in range(count):
        user = f"user{rng.randrange(users)}"
        event = {
            "user_id": user,
            "item_id": f"i{int(rng.random() ** 2 * 330)}",
            "event_type": rng.choice(["view", "view", "view", "cart", "purchase"]),
            "timestamp": NOW_MS + seed * 1_000_000_000 + n * 137,
        }
        found.append((user.encode(), encode(event)))
    return found
