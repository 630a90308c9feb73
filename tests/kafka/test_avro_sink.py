"""`eddy sink avro` on a real Kafka and a real Schema Registry.

The tests of every sink run here, too. The oracle that reads the messages is the deserializer of confluent-kafka.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import Schema
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from bench.readers import progress, read_topic
from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka_config import PLAINTEXT
from stream.places.avro import AvroSink
from stream.registry.client import Registry
from tests.contracts.test_sinks import (  # noqa: F401, the tests of every sink, on this `place`
    ALERTS,
    NAMES,
    RECS,
    Place,
    test_a_part_that_does_not_follow_on_the_stored_offset_changes_nothing,
    test_a_second_process_cannot_write_what_the_first_has_written,
    test_a_value_that_a_server_cannot_hold_stops_nothing,
    test_the_offset_moves_on_over_messages_of_which_none_is_written,
)
from tests.docs.blocks import ROOT
from tests.kafka.apicurio import Running
from tests.kafka.lane import Lane, Worker, wait_until
from tests.kafka.test_sinks import create_hours, publish

SOURCES = {partition.topic: output for partition, output in NAMES.items()}


def read(broker: str, registry: Running, topic: str) -> list[tuple[Message, dict[str, Any]]]:
    """The committed messages of a topic in Avro, in the order of their partitions, and what they hold."""
    decode, context = AvroDeserializer(registry.client()), SerializationContext(topic, MessageField.VALUE)
    found = sorted(read_topic(broker, topic), key=lambda m: (m.partition(), m.offset()))
    return [(message, decode(message.value(), context)) for message in found]


@pytest.fixture
def place(kafka: str, registry: Running, name: str) -> Place:
    """Topics that no other test uses. Those that are copied belong to all tests, and have no messages."""
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.create_topics([NewTopic(RECS.topic, 5, 1), NewTopic(ALERTS.topic, 5, 1)]).values():
        with suppress(KafkaException):  # it exists
            future.result()

    def of(topic: str) -> list[dict[str, Any]]:
        return [event for _, event in read(kafka, registry, f"{topic}-{name}")]

    return Place(
        lambda: AvroSink(kafka, PLAINTEXT, SOURCES, f"-{name}", Registry(registry.url, PLAINTEXT), create=True),
        lambda: {event["user_id"]: event["items"] for event in of(RECS.topic) if event["superseded_by"] is None},
        lambda: sorted(event["id"] for event in of(ALERTS.topic)),
    )


AHEAD = dict.fromkeys(("next", "leaves", "returns_7d", "intent"))
MISSING = {"propensities": None, "explored": None, "items_cut": 0, "superseded_by": None, **AHEAD}
MISSING_OF_ALERT = {"expected_cut": 0, "part_of": None}
AHEAD_OF_SESSION = dict.fromkeys(("intent_first", "intent_highest", "intent_last", "returns_7d"))
SUMMARY = dict.fromkeys(("path", "reached_ms", "items", "categories", "value")) | {"path_cut": 0, "alerts": 0}
MISSING_OF_SESSION = {"revision": 0, "unknown_events": 0, "p_value": None, **AHEAD_OF_SESSION, **SUMMARY}


@dataclass
class Copying:
    """The processes of one test."""

    lane: Lane
    registry: Running

    def start(self, *options: str) -> Worker:
        topics, path = self.lane.topics, self.lane.directory / f"avro-{len(self.lane.workers)}.log"
        command = [sys.executable, "-m", "stream.ops.cli", "sink", "avro", "--broker", self.lane.broker, "--json"]
        command += ["--recommendations-topic", topics.recommendations, "--anomalies-topic", topics.anomalies]
        command += ["--sessions-topic", topics.sessions, "--triggers-topic", topics.triggers]
        command += ["--schema-registry", self.registry.url, *options]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with path.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.lane.workers.append(Worker(process, path))
        return self.lane.workers[-1]

    def once(self, *options: str) -> dict[str, Any]:
        process = self.start("--once", *options)
        assert process.process.wait(60) == 0, process.log
        found: dict[str, Any] = json.loads(process.log.splitlines()[-1])
        return found

    def sink(self, suffix: str, create: bool = False) -> AvroSink:
        """A sink of the recommendations in this process."""
        sources = {self.lane.topics.recommendations: "recommendations"}
        return AvroSink(self.lane.broker, PLAINTEXT, sources, suffix, Registry(self.registry.url, PLAINTEXT), create)

    def stored(self) -> int:
        """The sum of the committed offsets of the recommendations."""
        topic = self.lane.topics.recommendations
        with progress(self.lane.broker, f"{topic}-avro", topic) as look:
            return look()[0]

    def assert_equal(self, topic: str, missing: dict[str, Any]) -> None:
        """The copies of a topic are its messages: key, timestamp and fields, each once, in the order of their keys."""
        of_key: dict[Any, list[Any]] = defaultdict(list)
        for message in sorted(self.lane.read(topic), key=lambda m: (m.partition(), m.offset())):
            if message.value() != b"bad":
                event = json.loads(message.value())
                times = {name: at(event[name]) for name in ("timestamp", "started", "not_before") if name in event}
                of_key[message.key()].append((message.timestamp(), missing | event | times))
        assert of_key
        assert self.copies(f"{topic}-avro") == of_key

    def copies(self, topic: str) -> dict[Any, list[Any]]:
        """The timestamp and the event of each copy by its key, whose order alone a sink promises."""
        of_key: dict[Any, list[Any]] = defaultdict(list)
        for message, event in read(self.lane.broker, self.registry, topic):
            of_key[message.key()].append((message.timestamp(), event))
        return of_key


def test_flat_copies_have_the_messages_in_fields_that_are_columns(copying: Copying) -> None:
    """Beside the other ones, with their own subject. What is nested is JSON in a text."""
    lane, topics = copying.lane, copying.lane.topics
    publish(lane, 50)
    written = copying.once("--create")["written"]
    assert copying.once("--create", "--flat")["written"] == written
    for topic, nested in (
        (topics.recommendations, ("items", "log_probs")),
        (topics.anomalies, ("statistics", "expected")),
    ):
        flat = copying.copies(f"{topic}-rows")
        unpacked = {
            key: [(time, event | {name: json.loads(event[name]) for name in nested}) for time, event in events]
            for key, events in flat.items()
        }
        assert unpacked == copying.copies(f"{topic}-avro")
        assert flat


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


@pytest.fixture
def copying(lane: Lane, registry: Running) -> Copying:
    create_hours(lane)
    return Copying(lane, registry)


def test_nothing_is_copied_twice_or_left_out_under_kill_9(copying: Copying) -> None:
    """The process is killed in the middle twice while messages come, and then ends by itself."""
    lane = copying.lane
    publish(lane, 600)
    before = 0
    for n in range(2):
        process = copying.start("--create")
        publish(lane, 300, seed=n + 1)
        wait_until(lambda before=before: copying.stored() > before + 50, lambda of=process: f"it copies\n{of.log}")
        before = copying.stored()  # after the end of the process, the answer would wait for the open transaction
        process.end(signal.SIGKILL)
    publish(lane, 100, seed=9)
    assert copying.once()["written"]["recommendations"]
    copying.assert_equal(lane.topics.recommendations, MISSING)
    copying.assert_equal(lane.topics.anomalies, MISSING_OF_ALERT)


def test_a_registry_that_is_away_is_waited_for_and_what_is_no_output_is_counted(copying: Copying) -> None:
    """The subjects then have the published schemas. Sessions and triggers, too. Deleted offsets end the process."""
    lane, registry = copying.lane, copying.registry
    topics = lane.topics
    publish(lane, 50)
    session = {"id": "c-0-1", "user_id": "u1", "phase": "opened", "timestamp": 1_735_689_602_600}
    session |= {"started": 1_735_689_602_600, "clicks": 1, "events": {"view": 1}, "model": "m/1"}
    producer = Producer({"bootstrap.servers": lane.broker, "log_level": 0})
    producer.produce(topics.sessions, json.dumps(session), b"u1", timestamp=time.time_ns() // 10**6 - 7_000)
    assert producer.flush(30) == 0
    registry.proxy.close()
    three = ("--topics", "recommendations,sessions,triggers")
    process = copying.start("--create", "--schema-registry", registry.by_proxy, *three)
    process.wait_for("does not answer, eddy sink waits for it")
    registry.proxy.listen()
    wait_until(lambda: copying.stored() > 0, lambda: f"it copies\n{process.log}")
    assert process.end(signal.SIGTERM) == 0
    ended = json.loads(process.log.splitlines()[-1])
    assert ended["left_out"] + copying.once(*three)["left_out"] == 1
    copying.assert_equal(topics.recommendations, MISSING)
    copying.assert_equal(topics.sessions, MISSING_OF_SESSION)
    copying.assert_equal(topics.triggers, {"not_before": None})
    found = registry.client().get_latest_version(f"{topics.recommendations}-avro-value").schema.schema_str
    assert json.loads(found) == json.loads((ROOT / "docs" / "schemas" / "recommendations.avsc").read_text())

    group = f"{topics.recommendations}-avro"
    admin = AdminClient({"bootstrap.servers": lane.broker})
    admin.delete_consumer_groups([group])[group].result(timeout=30)
    sink = copying.sink("-avro")
    sink.open()
    with pytest.raises(ConfigError, match=f"topic {group} has messages, but its consumer group .* has no offsets"):
        sink.offsets([Partition(topics.recommendations, 0)])


def test_a_missing_topic_and_a_schema_that_does_not_fit_are_errors(copying: Copying) -> None:
    """Of the topics, nothing is created without --create."""
    topic, client = copying.lane.topics.recommendations, copying.registry.client()
    with pytest.raises(ConfigError, match=f"no topic '{topic}-avro' .* run once with --create"):
        copying.sink("-avro").open()
    with pytest.raises(ConfigError, match="give another one"):
        copying.sink("")
    subject = f"{topic}-v2-value"
    client.register_schema(subject, Schema(json.dumps("string"), "AVRO"))
    client.set_compatibility(subject, "BACKWARD")
    with pytest.raises(ConfigError, match=f"does not take the schema of subject {subject} .* it is not compatible"):
        copying.sink("-v2", create=True).open()
