"""What the tests on a real Kafka share: new topics, clicks, worker processes, readers, and the oracle.

The oracle (tests/oracle.py) is a plain loop over the same clicks in each partition's order. After every kill, freeze or
rebalance a worker's decisions and alerts must equal the oracle's, and its rows must be bit-equal.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from bench.readers import progress, read_topic, wait_until_readable
from stream.kafka.topics import create_topics
from stream.settings import Topics
from tests.oracle import POSITION, Event, Oracle, event_name

ROOT = Path(__file__).resolve().parents[2]
NOW_MS = 1_760_000_000_000
DAY_MS = 86_400_000

ASK_S = 0.1
"""The polling interval for questions to the broker, which cost both sides CPU time."""

LISTS_EVERY = 20
"""The oracle makes the list of one click in so many: it costs more than all the rest."""


def wait_until(
    true: Callable[[], bool], what: str | Callable[[], str], deadline_s: float = 60.0, every_s: float = 0.02
) -> None:
    """Poll until `true` returns True; fail with `what`, or with what it returns then, at the deadline."""
    end = time.monotonic() + deadline_s
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline_s:.0f} s: {what if isinstance(what, str) else what()}")
        time.sleep(every_s)  # the polling interval; the deadline above decides


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

        wait_until(seen, lambda: f"{text!r} {times} times in:\n{self.log}", deadline_s)

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
        names = ("clicks", "recs", "anomalies", "dead", "changelog", "system", "sessions", "triggers")
        return Topics(*(f"{self.name}-{word}" for word in names))

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
        words = [word for flag in flags for word in flag if word != "True"]  # --stay-in-group has no value
        return [sys.executable, "-m", "stream.ops.cli", "worker", *words]

    def start(self, **options: object) -> Worker:
        """Start a worker; `end_all` ends it at the latest."""
        return self._run(self.arguments(**options), ROOT, {})

    def start_command(self, words: Iterable[str], directory: Path, variables: Mapping[str, str]) -> Worker:
        """Start `eddy` with these words, in a directory; `end_all` ends it at the latest."""
        return self._run([sys.executable, "-m", "stream.ops.cli", *words], directory, variables)

    def _run(self, command: list[str], directory: Path, variables: Mapping[str, str]) -> Worker:
        path = self.directory / f"worker{len(self.workers)}.log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        with path.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory, env=environment)
        self.workers.append(Worker(process, path))
        return self.workers[-1]

    def end_all(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()  # ends a stopped one, too
                worker.process.wait()

    # -- clicks -------------------------------------------------------------------------------------------------------

    def produce(
        self,
        messages: Iterable[tuple[bytes | None, bytes | None] | tuple[bytes | None, bytes | None, dict[str, bytes]]],
        compression: str = "none",
        longest: int = 1_000_000,
    ) -> None:
        """Publish messages of key, value and perhaps headers; none is longer than `longest` bytes."""
        producer = Producer(
            {
                "bootstrap.servers": self.broker,
                "partitioner": "murmur2_random",
                "linger.ms": 20,
                "enable.idempotence": True,  # a retry neither repeats nor reorders clicks: the oracle knows one order
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

        for n, (key, value, *more) in enumerate(messages):
            producer.produce(self.topics.clicks, value, key, on_delivery=delivered, headers=more[0] if more else {})
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
        """Wait until the group has committed this share of all clicks, and a reader sees what became of them."""
        with self.progress() as look:

            def reached() -> bool:
                committed, ends = look()
                return committed >= share * ends

            wait_until(
                reached, lambda: f"{share:.0%} of the clicks decided; {look()}; {self._logs()}", deadline_s, ASK_S
            )
        wait_until_readable(self.broker, self.topics.names())

    def wait_until_decided(self) -> None:
        """Wait until all clicks are decided that the producers have sent."""
        self.wait_for_clicks()

    def _logs(self) -> str:
        return "\n".join(worker.log[-1500:] for worker in self.workers)

    # -- the oracle ---------------------------------------------------------------------------------------------------

    def assert_as_if_nothing_had_happened(self, at_rest: bool = False) -> None:
        """Each click has exactly the decision and the alert that the oracle gives it, and every row is bit-equal.

        at_rest  no click came for half an hour after the last one
        """
        oracle = Oracle(self.model, lists_every=LISTS_EVERY)
        decisions: dict[str, Event] = {}
        alerts: dict[str, Event] = {}
        system: list[Event] = []
        for message in sorted(self.read(self.topics.clicks), key=lambda m: (m.partition(), m.offset())):
            expected = oracle.decide(
                message.topic(), message.partition(), message.offset(), message.key(), message.value()
            )
            if expected is not None:
                decisions[expected.decision["id"]] = expected.decision
                if expected.alert is not None:
                    alerts[expected.alert["id"]] = expected.alert
                system += expected.system
        if at_rest:
            oracle.rest()
        for output, topic, expected_events in (
            ("recommendations", self.topics.recommendations, decisions),
            ("anomalies", self.topics.anomalies, alerts),
            ("system-alerts", self.topics.system_alerts, {event_name(one): one for one in system}),
            ("sessions", self.topics.sessions, {event_name(one): one for one in oracle.session_events()}),
        ):
            messages = self.read(topic)
            _assert_events(messages, expected_events)
            assert_valid(output, messages)
        self._assert_rows(oracle)

    def _assert_rows(self, oracle: Oracle) -> None:
        """The changelog holds the oracle's rows; that of a user who is forgotten may be gone."""
        written: dict[tuple[int, bytes], bytes] = {}
        positions: dict[int, bytes] = {}
        for message in self.read(self.topics.changelog):
            row = (message.partition(), message.key())
            if message.value() is None:
                written.pop(row, None)
            elif message.key() != POSITION:
                written[row] = message.value()
            else:
                positions[message.partition()] = message.value()
        for partition, position in positions.items():
            checksums = [
                int.from_bytes(row[:8], "little") for (number, _), row in written.items() if number == partition
            ]
            expected = oracle.mark(partition, int(position.split()[0]), checksums)
            assert (position[: len(expected)] if self.topics.behaviour else position) == expected  # then the open hour
        mark = int.from_bytes(next(iter(written.values()))[8:16], "little")
        wrong: list[str] = []
        for partition, key, row, may_be_gone in oracle.rows(mark):
            found = written.pop((partition, key), row if may_be_gone else None)
            if found is None:
                wrong.append(f"{key!r} has no row")
            elif found != row:
                offsets = (int.from_bytes(data[16:24], "little") for data in (found, row))
                wrong.append("{!r} is at offset {} and should be at {}".format(key, *offsets))
        assert not wrong, f"{len(wrong)} of {len(oracle.users)} rows are wrong: {wrong[:10]}"
        assert not written, f"{len(written)} rows of users who never clicked: {list(written)[:10]}"


def _assert_events(messages: list[Message], expected: dict[str, Event]) -> None:
    """Exactly the expected events by id. A field is compared if the oracle has made it."""
    found = [msgspec.json.decode(message.value()) for message in messages]
    names = [event_name(event) for event in found]
    ids = Counter(names)
    missing, repeated = expected.keys() - ids.keys(), [id_ for id_, n in ids.items() if n > 1]
    unknown = ids.keys() - expected.keys()
    assert not missing, f"{len(missing)} of {len(expected)} are missing: {sorted(missing)[:10]}"
    assert not repeated, f"{len(repeated)} of {len(expected)} came twice: {sorted(repeated)[:10]}"
    assert not unknown, f"{len(unknown)} are of no click: {sorted(unknown)[:10]}"
    wrong = [
        (event, want)
        for event, want in ((event, expected[name]) for event, name in zip(found, names, strict=True))
        if {field: event[field] for field in want} != want
    ]
    assert not wrong, f"{len(wrong)} of {len(found)} differ: {wrong[0][0]} should be {wrong[0][1]}"


def assert_valid(output: str, messages: list[Message]) -> None:
    """Some of the messages, by the schema that is published for them."""
    schema = json.loads((ROOT / "docs" / "schemas" / f"{output}.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for message in messages[:20]:
        validator.validate(json.loads(message.value()))


def click_id(message: Message) -> str:
    """The id of the click that a decision is about."""
    decoded: dict[str, Any] = msgspec.json.decode(message.value())
    return str(decoded["id"]).partition("@")[0]


def bot() -> list[tuple[bytes | None, bytes | None]]:
    """A user who clicks one item every second: there is an alert on one of these clicks."""
    event = {"user_id": "bot", "item_id": "i7"}
    return [(b"bot", msgspec.json.encode(event | {"timestamp": NOW_MS + 1_000 * n})) for n in range(12)]


def fault() -> list[tuple[bytes | None, bytes | None]]:
    """Nine windows of 300 users, and in the last two of them a front end that sends a wrong event type: each partition
    has an alert on many users."""
    found: list[tuple[bytes | None, bytes | None]] = []
    for window, n in itertools.product(range(9), range(300)):
        event = {
            "user_id": f"crowd{n}",
            "item_id": f"i{n % 60}",
            "event_type": "view" if window < 7 else "veiw",
            "timestamp": NOW_MS + 30 * DAY_MS + 400_000 * window + 100 * n,
        }
        found.append((f"crowd{n}".encode(), msgspec.json.encode(event)))
    return found


def trigger_file(directory: Path) -> Path:
    """A file of --triggers with a rule that applies to each view."""
    path = directory / "triggers.toml"
    path.write_text('[[trigger]]\nname = "each"\nkind = "after"\nevents = ["view"]\ncooldown = "0s"\n')
    return path


def clicks(count: int, users: int = 500, seed: int = 0) -> list[tuple[bytes | None, bytes | None]]:
    """`count` clicks of a shop with 300 known items and some unknown ones; each seed has a day of its own."""
    rng = random.Random(seed)
    encode = msgspec.json.Encoder().encode
    found: list[tuple[bytes | None, bytes | None]] = []
    for n in range(count):
        user = f"user{rng.randrange(users)}"
        event = {
            "user_id": user,
            "item_id": f"i{int(rng.random() ** 2 * 330)}",
            "event_type": rng.choice(["view", "view", "view", "cart", "purchase"]),
            "timestamp": NOW_MS + seed * DAY_MS + n * 137,
        }
        found.append((user.encode(), encode(event)))
    return found
