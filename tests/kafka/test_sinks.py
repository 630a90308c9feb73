"""`eddy sink` on the real servers: what the places hold is what the topics hold, whatever happens to the process.

The oracle is a plain read of the topics, folded by the test.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import polars as pl
import pytest
from confluent_kafka import Producer

from stream.kafka.topics import create_topics
from tests.docs.blocks import ROOT
from tests.kafka.lane import Lane, Worker, wait_until
from tests.servers import Postgres, Redis

pytestmark = pytest.mark.real_kafka


class Sinks:
    """The processes of one test, and what their places hold."""

    def __init__(self, lane: Lane, cache: Redis, database: Postgres) -> None:
        self.lane, self.cache, self.database = lane, cache, database
        self.history = lane.directory / "history"
        self.words = {
            "redis": ["redis", "--url", cache.url, "--prefix", f"{lane.name}:"],
            "postgres": ["postgres", "--url", database.url, "--prefix", f"{lane.name}_", "--create"],
            "parquet": ["parquet", "--directory", str(self.history), "--rows", "40", "--every-s", "0.2"],
        }
        topics = lane.topics
        self.options = ["--broker", lane.broker, "--recommendations-topic", topics.recommendations]
        self.options += ["--anomalies-topic", topics.anomalies, "--sessions-topic", topics.sessions]
        self.options += ["--triggers-topic", topics.triggers, "--behaviour-topic", hours_of(lane), "--json"]
        self.options += ["--topics", "recommendations,anomalies,sessions,triggers,behaviour"]

    def start(self, kind: str, *options: str) -> Worker:
        path = self.lane.directory / f"{kind}-{len(self.lane.workers)}.log"
        command = [sys.executable, "-c", "from stream.sinks.command import sink; sink()"]
        with path.open("wb") as log:
            process = subprocess.Popen(
                [*command, *self.words[kind], *self.options, *options], stdout=log, stderr=log, cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        self.lane.workers.append(Worker(process, path))
        return self.lane.workers[-1]

    def once(self, *kinds: str) -> list[dict[str, Any]]:
        """Copy all that is there into each of the places, at the same time; returns their figures."""
        running = [self.start(kind, "--once") for kind in kinds]
        for one in running:
            assert one.process.wait(60) == 0, one.log
        return [json.loads(one.log.splitlines()[-1]) for one in running]

    def stored(self, kind: str) -> int:
        """The sum of the stored offsets."""
        if kind == "redis":
            keys = self.cache.client.keys(f"{self.lane.name}:offsets:*")
            return sum(int(offset) for key in keys for offset in self.cache.client.hvals(key))
        if kind == "postgres":
            try:
                [(found,)] = self.database.rows(f"SELECT coalesce(sum(next_offset), 0) FROM {self.lane.name}_offsets")
            except Exception:  # the table is not there yet
                return 0
            return int(found)
        ends: dict[str, int] = {}
        for path in self.history.glob("*/*.parquet"):
            partition, _, last = path.stem.rsplit("-", 2)
            ends[partition] = max(ends.get(partition, 0), int(last) + 1)
        return sum(ends.values())

    def wait_for_more(self, kind: str, before: int, process: Worker) -> None:
        wait_until(lambda: self.stored(kind) > before, lambda: f"{kind} writes\n{process.log}")

    def in_redis(self, word: str) -> dict[str, Any]:
        prefix = f"{self.lane.name}:{word}:"
        keys = self.cache.client.keys(f"{prefix}*")
        return {key.decode().removeprefix(prefix): json.loads(self.cache.client.get(key)) for key in keys}

    def parquet(self, topic: str) -> list[dict[str, Any]]:
        return [row for path in (self.history / topic).glob("*.parquet") for row in pl.read_parquet(path).to_dicts()]

    def assert_equal_to_the_topics(self, *kinds: str) -> None:
        """Each place holds exactly what a plain reader sees."""
        topics = self.lane.topics
        decisions = [json.loads(m.value()) for m in self.lane.read(topics.recommendations) if m.value() != b"bad"]
        alerts, sessions, triggers, hours = (
            [json.loads(m.value()) for m in self.lane.read(topic)]
            for topic in (topics.anomalies, topics.sessions, topics.triggers, hours_of(self.lane))
        )
        steps = sorted((one["id"], one["transitions"]) for one in hours)
        lists = {one["user_id"]: one for one in decisions}  # a user's messages are in one partition, in order
        assert decisions
        assert alerts
        assert sessions
        assert triggers
        assert hours
        if "redis" in kinds:
            assert self.in_redis("recs") == lists
            assert self.in_redis("sessions") == {one["user_id"]: one for one in sessions}
            assert self.in_redis("triggers") == {f"{one['rule']} {one['user_id']}": one for one in triggers}
            assert self.in_redis("behaviour") == {one["id"]: one for one in hours}
        if "postgres" in kinds:
            assert sorted(self.database.rows(f"SELECT id, transitions FROM {self.lane.name}_behaviour")) == steps
            rows = self.database.rows(f"SELECT user_id, id, items FROM {self.lane.name}_recommendations")
            assert sorted(rows) == sorted((user, one["id"], one["items"]) for user, one in lists.items())
            ids = self.database.rows(f"SELECT id FROM {self.lane.name}_anomalies")
            assert sorted(ids) == sorted((one["id"],) for one in alerts)
            rows = self.database.rows(f"SELECT id, phase, revision, events FROM {self.lane.name}_sessions")
            wanted = [(one["id"], one["phase"], one.get("revision", 0), one["events"]) for one in sessions]
            assert sorted(rows, key=str) == sorted(wanted, key=str)
            rows = self.database.rows(
                f"SELECT id, items, extract(epoch FROM not_before)::int FROM {self.lane.name}_triggers"
            )
            assert sorted(rows, key=str) == sorted(
                ((one["id"], one["items"], before(one)) for one in triggers), key=str
            )
        if "parquet" in kinds:
            for topic, of_it in ((topics.recommendations, decisions), (topics.anomalies, alerts)):
                assert sorted(row["id"] for row in self.parquet(topic)) == sorted(one["id"] for one in of_it)
            found = [(row["id"], row["phase"], row["events"]) for row in self.parquet(topics.sessions)]
            assert sorted(found, key=str) == sorted(
                ((one["id"], one["phase"], one["events"]) for one in sessions), key=str
            )
            tables = [(row["id"], dict(row["transitions"])) for row in self.parquet(hours_of(self.lane))]
            assert sorted((id_, {name: dict(to) for name, to in table.items()}) for id_, table in tables) == steps
            found = [(row["id"], row["not_before"]) for row in self.parquet(topics.triggers)]
            times = {one["id"]: None if before(one) is None else at(one["not_before"]) for one in triggers}
            assert sorted(found, key=str) == sorted(times.items(), key=str)


def before(trigger: dict[str, Any]) -> int | None:
    """The end of a trigger's quiet hours, s since the epoch."""
    return trigger["not_before"] // 1000 if "not_before" in trigger else None


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


@pytest.fixture
def sinks(lane: Lane, redis_server: Redis, postgres_server: Postgres) -> Sinks:
    create_hours(lane)
    return Sinks(lane, redis_server, postgres_server)


def hours_of(lane: Lane) -> str:
    return f"{lane.name}-behaviour"


def create_hours(lane: Lane) -> None:
    """Create the topic of `publish` that a lane does not have."""
    create_topics(lane.broker, msgspec.structs.replace(lane.topics, behaviour=hours_of(lane)), lane.partitions, 1)


def publish(lane: Lane, count: int, seed: int = 0) -> None:
    """Decisions, alerts, begins and ends of sessions, triggers and hours, in transactions of which every third is
    rolled back; one message is no decision."""
    rng = random.Random(seed)
    producer = Producer({"bootstrap.servers": lane.broker, "transactional.id": f"{lane.name}-{seed}", "log_level": 2})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(lane.topics.recommendations, b"bad", b"u0", 0)
    for n in range(count):
        user = rng.randrange(200)
        partition = user % lane.partitions
        event = {
            "id": f"c-{seed}-{n}", "user_id": f"u{user}", "item_id": "i1", "timestamp": 1_735_689_602_600 + n,
            "surprise": 1.5, "p_value": 0.5, "model": "m/1",
        }  # fmt: skip
        decision = {**event, "items": [f"i{n}", "i2"], "log_probs": [-1.0, -2.0]}
        producer.produce(lane.topics.recommendations, json.dumps(decision), f"u{user}", partition)
        if n % 10 == 0:
            alert = {
                **event, "event_type": "view", "episode": event["id"], "reason": "many", "score": 5.0,
                "threshold": 1e-4, "statistics": {"twins": 1e-5}, "pool": "4 clicks", "pool_size": 900, "expected": [],
            }  # fmt: skip
            producer.produce(lane.topics.anomalies, json.dumps(alert), f"u{user}", partition)
        if n % 10 == 5:
            of_user = {"user_id": f"u{user}", "model": "m/1", "timestamp": event["timestamp"]}
            begin = {**of_user, "id": event["id"], "phase": "opened", "started": event["timestamp"], "clicks": 1}
            end = {**begin, "phase": "closed", "clicks": 3, "revision": 2, "events": {"view": 2, "cart": 1}}
            for session in (begin | {"events": {"view": 1}}, end):
                producer.produce(lane.topics.sessions, json.dumps(session), f"u{user}", partition)
            trigger = {
                **of_user, "id": f"{event['id']}-end:cart", "rule": ("cart", "back")[n % 3 == 0], "kind": "abandoned",
                "group": "treated", "items": ["i1", "i2"], "reason": "a session of 3 clicks has ended",
            } | ({"not_before": 1_735_714_800_000} if n % 20 == 5 else {})  # fmt: skip
            producer.produce(lane.topics.triggers, json.dumps(trigger), f"u{user}", partition)
        if n % 20 == 0:
            hour = {
                "id": f"c-{partition}/{seed}{n}", "partition": partition, "hour": 1_735_689_600_000, "clicks": 2,
                "users": 1, "opened": 1, "closed": 0, "events": {"view": 2}, "reached": {"view": 1},
                "transitions": {"(start)": {"view": 1}, "view": {"view": n}}, "model": "m/1",
            }  # fmt: skip
            producer.produce(hours_of(lane), json.dumps(hour), hour["id"], partition)
        if n % 100 == 99:
            producer.flush(30)  # so that what is rolled back is on the topic
            producer.abort_transaction() if n % 300 == 199 else producer.commit_transaction()
            producer.begin_transaction()
    producer.commit_transaction(30)


def test_nothing_is_written_twice_or_left_out_under_kill_9(sinks: Sinks) -> None:
    """Each sink is killed in the middle three times while messages come, and then ends by itself."""
    kinds = ("redis", "postgres", "parquet")
    publish(sinks.lane, 600)
    for n in range(3):
        before = {kind: sinks.stored(kind) for kind in kinds}
        running = {kind: sinks.start(kind) for kind in kinds}
        publish(sinks.lane, 300, seed=n + 1)
        for kind, process in running.items():
            sinks.wait_for_more(kind, before[kind], process)
            process.end(signal.SIGKILL)
    publish(sinks.lane, 100, seed=9)
    assert all(sum(done["written"].values()) for done in sinks.once(*kinds))
    sinks.assert_equal_to_the_topics(*kinds)


def test_a_server_that_is_killed_is_waited_for(sinks: Sinks) -> None:
    """The log has the begin and the end of the outage. A second process beside the first one does no harm, and SIGTERM
    ends a process with 0 and the figures."""
    servers: dict[str, Any] = {"redis": sinks.cache, "postgres": sinks.database}
    publish(sinks.lane, 100)
    running = {kind: sinks.start(kind) for kind in servers}
    for kind, process in running.items():
        sinks.wait_for_more(kind, 0, process)
        servers[kind].kill()
    publish(sinks.lane, 100, seed=1)
    for kind, process in running.items():
        process.wait_for("does not answer, eddy sink waits for it")
        servers[kind].start()
        process.wait_for("answers again")
    sinks.once(*servers)
    for process in running.values():
        assert process.end(signal.SIGTERM) == 0, process.log
        assert set(json.loads(process.log.splitlines()[-1])) == {"written", "left_out", "offsets"}
    sinks.assert_equal_to_the_topics(*servers)


READ_ONLY: dict[str, tuple[str, Callable[[Sinks, bool], object], str]] = {
    "a database that only answers questions": (
        "postgres",
        lambda sinks, on: sinks.database.read_only(on),
        "read-only transaction",
    ),
    "a replica": (
        "redis",
        lambda sinks, on: sinks.cache.client.replicaof(*("127.0.0.1", "9") if on else ("NO", "ONE")),
        "read only replica",
    ),
    "a Redis with too few replicas": (
        "redis",
        lambda sinks, on: sinks.cache.client.config_set("min-replicas-to-write", int(on)),
        "Not enough good replicas",
    ),
}
"""What it is -> kind of the sink, what makes it so (True) or ends it (False), and words of the reason in the log."""


@pytest.mark.parametrize("what", READ_ONLY)
def test_a_place_that_can_only_be_read_is_waited_for_with_one_line(sinks: Sinks, what: str) -> None:
    """As after a switch to another server. Its connection and its offsets are no answer: only a write is."""
    kind, switch, reason = READ_ONLY[what]
    publish(sinks.lane, 100)
    process = sinks.start(kind)
    sinks.wait_for_more(kind, 0, process)
    switch(sinks, True)
    try:
        publish(sinks.lane, 100, seed=1)
        process.wait_for("does not answer, eddy sink waits for it")
        tries_s = time.monotonic() + 5
        wait_until(lambda: time.monotonic() > tries_s, "it has tried some times")
        assert [process.log.count(text) for text in ("does not answer", "answers again", reason)] == [1, 0, 1]
        assert process.process.poll() is None, process.log
    finally:
        switch(sinks, False)
    process.wait_for("answers again")
    sinks.once(kind)
    assert process.end(signal.SIGTERM) == 0, process.log
    assert [process.log.count(text) for text in ("does not answer", "answers again")] == [1, 1], process.log
    sinks.assert_equal_to_the_topics(kind)


def test_bad_messages_are_counted_and_a_password_is_never_printed(sinks: Sinks) -> None:
    """The sink goes on after a message that is no decision. A URL in an error has no password."""
    publish(sinks.lane, 50)
    assert [done["left_out"] for done in sinks.once("parquet")] == [1]
    process = sinks.start("redis", "--url", "redis://eddy:s3cret@127.0.0.1:1/0")
    process.wait_for("does not answer, eddy sink waits for it")
    assert process.end(signal.SIGTERM) == 0
    assert "WARNING: other users can read the password" in process.log
    assert "s3cret" not in process.log


def test_a_topic_that_was_created_again_is_refused(sinks: Sinks) -> None:
    """A stored offset after the end of a partition would leave out messages without a word."""
    publish(sinks.lane, 50)
    [done] = sinks.once("parquet")
    assert done["offsets"]
    [newest] = sorted((sinks.history / sinks.lane.topics.recommendations).glob("*-0-*.parquet"))[-1:]
    newest.rename(newest.with_name(newest.name.rpartition("-")[0] + f"-{10**6:020d}.parquet"))
    process = sinks.start("parquet", "--once")
    assert process.process.wait(60) != 0
    assert "was deleted and" in process.log
