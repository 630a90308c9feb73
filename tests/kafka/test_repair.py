"""`eddy topics repair`: after a change of the topics the states are kept, and each click has one decision.

The expectation is a plain loop over the clicks in the order in which they were sent: it knows nothing of partitions.
"""

import io
import json
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from itertools import islice
from typing import Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from stream.errors import ConfigError
from stream.events import Partition
from stream.kafka.changelog import Changelog
from stream.kafka.partitioners import murmur2
from stream.kafka_config import PLAINTEXT
from stream.ops.cli import main
from stream.repair.plan import Change
from stream.repair.repair import repair_topics
from tests.kafka.lane import Lane, Worker, click_id, clicks, wait_until
from tests.oracle import POSITION, Oracle

Messages = list[tuple[bytes | None, bytes | None]]
OF_A_PARTITION = (
    *("checksum", "model", "offset", "seen_ms", "episode_offset", "population_window_ms", "population_signs"),
    *("session_offset", "session_revision"),
)
"""Fields of a row with offsets of a topic that was deleted, or with times of the partition that the row was in."""
"""Bytes of a row before its last_ms: checksum, model, and the offset, which a repair changes."""


def repair(lane: Lane, *options: str) -> tuple[int, str]:
    """Exit code and output of the command."""
    topics = msgspec.structs.asdict(lane.topics).items()
    words = ["topics", "repair", f"--broker={lane.broker}", f"--group={lane.name}"]
    words += [f"--{field.replace('_', '-')}-topic={name}" for field, name in topics]
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit) as ended:
        main([*words, *options])
    assert isinstance(ended.value.code, int)
    return ended.value.code, out.getvalue()


def plan(lane: Lane, *options: str) -> dict[str, Any]:
    """The plan of the command with --json."""
    code, text = repair(lane, "--json", *options)
    assert code == 0, text
    found: dict[str, Any] = json.loads(text)
    return found


def changed(found: dict[str, Any]) -> int:
    return sum(one["changed"] for one in found["partitions"].values())


def ended(worker: Worker) -> str:
    """The last line of a worker that ends with exit code 2."""
    assert worker.process.wait(timeout=30) == 2, worker.log
    return worker.log.strip().splitlines()[-1]


def send(lane: Lane, messages: Messages, partitions: int) -> Messages:
    """Send clicks as a producer does that knows so many partitions of the topic."""
    # Right after a topic was created again the first batch can be refused: without idempotence its retry comes late.
    producer = Producer({"bootstrap.servers": lane.broker, "enable.idempotence": True, "log_level": 2})
    for key, value in messages:
        producer.produce(lane.topics.clicks, value, key, murmur2(key or b"") % partitions)
    assert producer.flush(60) == 0
    return messages


@pytest.fixture
def admin(kafka: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": kafka})


class Killed(Exception):
    """Ends a repair where `kill -9` would."""


def dies(changes: Sequence[Change]) -> Iterator[tuple[bytes, bytes | None, int]]:
    """The records of a repair that dies after a few of them."""
    yield from islice(((key, row, 0) for key, row in changes[0].rows.items()), 5)
    raise Killed


def assert_one_stream(lane: Lane, sent: Messages) -> None:
    """Each click that was sent has one decision, and each user one row, as a loop over `sent` makes them."""
    oracle = Oracle(lane.model, lists_every=10**9)
    want, found = {}, {}
    for offset, (key, value) in enumerate(sent, 1):
        expected = oracle.decide("clicks", 0, offset, key, value)
        assert expected is not None
        want[expected.decision["user_id"], expected.decision["timestamp"]] = expected.decision["surprise"]
    decisions = [msgspec.json.decode(message.value()) for message in lane.read(lane.topics.recommendations)]
    assert len(decisions) == len(sent)
    # not the p-values: they depend on the other users of the partition, and the oracle has one partition
    found = {(decision["user_id"], decision["timestamp"]): decision["surprise"] for decision in decisions}
    assert found == want
    rows: dict[tuple[bytes, int], bytes] = {}
    for message in lane.read(lane.topics.changelog):
        rows.pop((message.key(), message.partition()), None)
        if message.key() != POSITION and message.value() is not None:
            rows[message.key(), message.partition()] = message.value()
    layout = oracle.layout()

    def rest(row: bytes) -> list[bytes]:
        values = np.frombuffer(row[: layout.itemsize], layout)[0]
        return [
            *(values[name].tobytes() for name in layout.names or () if name not in OF_A_PARTITION),
            row[layout.itemsize :],
        ]

    ends = {key: rest(row) for (key, _), row in rows.items()}
    assert len(ends) == len(rows), "a user has two rows"
    assert ends == {key: rest(row) for _, key, row, _ in oracle.rows(0)}


def test_added_partitions(lane: Lane, admin: AdminClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions are added under a running worker. It ends in seconds and names the way on: drain, repair, start. No
    worker starts after a repair that died, and the next one ends it."""
    sent = send(lane, clicks(1_000), 4)
    worker = lane.start()
    lane.wait_for_clicks()
    admin.create_partitions([NewPartitions(lane.topics.clicks, 8)])[lane.topics.clicks].result(30)
    line = ended(worker)
    assert "has 8 partitions now" in line
    assert "eddy topics repair" in line
    assert "eddy topics repair" in ended(lane.start())

    sent += send(lane, clicks(500, seed=1), 4)  # of a producer that has not noticed yet
    sent += send(lane, clicks(500, seed=2), 8)
    code, text = repair(lane)
    assert (code, "eddy worker --drain" in text) == (2, True), text
    drain = lane.start(drain=True)
    assert drain.process.wait(timeout=60) == 0, drain.log

    planned = plan(lane)
    assert (planned["applied"], planned["partitioner"], planned["partitions_before"]) == (False, "murmur2", 4)
    assert changed(planned) == 8
    with monkeypatch.context() as patch:
        patch.setattr("stream.repair.apply._records", dies)
        with pytest.raises(Killed):
            repair_topics(lane.broker, PLAINTEXT, lane.name, lane.topics, "auto", "auto", False, True, print)
    with pytest.raises(ConfigError, match="a repair of the changelog of partition"):
        Changelog(lane.broker, lane.name, lane.topics.changelog).marks([Partition(lane.topics.clicks, 0)])
    assert plan(lane, "--apply")["applied"]
    assert changed(plan(lane)) == 0
    worker = lane.start()
    worker.wait_for("partitions recovered")
    code, text = repair(lane)
    assert (code, "has 1 member (" in text) == (2, True), text
    sent += send(lane, clicks(500, seed=3), 8)
    lane.wait_for_clicks()
    assert_one_stream(lane, sent)


def test_topics_and_offsets_that_are_deleted(lane: Lane, admin: AdminClient) -> None:
    """Clicks topic, group and changelog are deleted one after the other. Each time the command finds a way on, and only
    a lost changelog costs the users their history."""
    sent = send(lane, clicks(1_000), 4)
    worker = lane.start()
    lane.wait_for_clicks()
    create_again(admin, lane.topics.clicks)
    sent += send(lane, clicks(3_000, seed=1), 4)  # beyond the old offsets
    assert "created again" in ended(worker)
    assert changed(plan(lane, "--apply")) == 4
    worker = lane.start()
    lane.wait_for_clicks()
    assert worker.end(signal.SIGTERM) == 0, worker.log

    admin.delete_consumer_groups([lane.name])[lane.name].result(30)
    sent += send(lane, clicks(500, seed=2), 4)
    assert changed(plan(lane, "--apply")) == 4
    worker = lane.start()
    lane.wait_for_clicks()
    assert_one_stream(lane, sent)

    create_again(admin, lane.topics.changelog, {"cleanup.policy": "compact"})
    assert "eddy topics repair --accept-lost-rows" in ended(worker)
    code, text = repair(lane, "--apply")
    assert (code, "--accept-lost-rows" in text) == (2, True), text
    assert changed(plan(lane, "--apply", "--accept-lost-rows")) == 4
    sent += send(lane, clicks(500, seed=3), 4)
    lane.start()
    lane.wait_for_clicks()
    assert len(lane.read(lane.topics.recommendations)) == len(sent)


def test_an_output_topic_that_is_deleted(lane: Lane, admin: AdminClient) -> None:
    """A worker waits for it for some seconds, and goes on with the one that is created. Then it ends, with one line."""
    lane.produce(clicks(300))
    worker = lane.start()
    lane.wait_for_clicks()
    admin.delete_topics([lane.topics.sessions])[lane.topics.sessions].result(30)
    lane.produce(clicks(300, seed=1))
    with suppress(AssertionError):  # librdkafka may wait for it instead; TopicWatch waits for 5 s
        wait_until(lambda: worker.log.count("transaction rolled back") >= 3, "", deadline_s=2.0)
    lane.create()
    lane.wait_for_clicks()
    decided = Counter(click_id(message) for message in lane.read(lane.topics.recommendations))
    assert (len(decided), set(decided.values())) == (600, {1})
    admin.delete_topics([lane.topics.sessions])[lane.topics.sessions].result(30)
    lane.produce(clicks(300, seed=2))
    line = ended(worker)
    assert "-sessions was deleted while this worker ran; create it with `eddy topics create`, then start the" in line
    assert "Traceback" not in worker.log


def create_again(admin: AdminClient, topic: str, config: dict[str, str] | None = None) -> None:
    admin.delete_topics([topic])[topic].result(30)
    wait_until(lambda: topic not in admin.list_topics(timeout=10).topics, "the topic is deleted")
    admin.create_topics([NewTopic(topic, 4, 1, config=config or {})])[topic].result(30)
