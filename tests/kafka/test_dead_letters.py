"""`eddy dead-letters` on a real Kafka: a message is published again once, and is decided if its cause is mended."""

import itertools
import json
import signal
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from stream.access.publish import Publisher
from stream.ops.cli import eddy
from tests.kafka.lane import NOW_MS, Lane, clicks

pytestmark = pytest.mark.real_kafka


def dead_letters(lane: Lane, *options: str) -> list[dict[str, object]]:
    command = ["dead-letters", "--broker", lane.broker, *options, "--json"]
    command += ["--clicks-topic", lane.topics.clicks, "--dead-letters-topic", lane.topics.dead_letters]
    done = CliRunner().invoke(eddy, command, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_messages_are_published_again_once_and_decided(lane: Lane) -> None:
    """A worker with a lower limit refuses long clicks; after it was raised, the same messages are decided."""
    long = [
        (b"user1", msgspec.json.encode({"user_id": "user1", "item_id": "i1", "timestamp": NOW_MS, "note": "x" * size}))
        for size in (500, 600, 700)
    ]
    lane.produce([*clicks(50), *long, (b"user2", b"no click")])
    lane.start(max_message_bytes=400, worker_id="0")
    lane.wait_for_clicks()
    [counts] = dead_letters(lane)
    assert {reason: summary["letters"] for reason, summary in counts.items()} == {"too_large": 3, "not_json": 1}
    assert [one["value"] for one in dead_letters(lane, "--show", "--reason", "not_json")] == ["no click"]

    lane.workers[0].end(signal.SIGTERM)
    lane.start(worker_id="0")
    retry = ("--publish", "--reason", "too_large")
    assert dead_letters(lane, *retry) == [{"published": 3, "already": 0, "cut": 0, "no_value": 0}]
    assert dead_letters(lane, *retry) == [{"published": 0, "already": 3, "cut": 0, "no_value": 0}]
    lane.wait_for_clicks()
    again = [m for m in lane.read(lane.topics.clicks) if m.headers()]
    assert sorted((m.key(), m.value()) for m in again) == sorted(long)
    assert len(lane.read(lane.topics.recommendations)) == 53


def test_letters_that_come_while_others_are_published_wait_for_the_next_time(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker refuses again what is published, at once: the command would go round for ever."""
    lane.produce([(b"user1", b"no click"), (b"user2", b"no click")])
    lane.start(worker_id="0")
    lane.wait_for_clicks()
    letter = msgspec.json.decode(lane.read(lane.topics.dead_letters)[0].value() or b"")
    producer, send, new = (
        Producer({"bootstrap.servers": lane.broker, "log_level": 0}),
        Publisher.send,
        itertools.count(1),
    )

    def sent(self: Publisher, *message: Any) -> None:
        send(self, *message)
        number = next(new)
        if number <= 20:
            again = letter | {"offset": 1_000 + number, "id": f"again-{number}"}
            producer.produce(lane.topics.dead_letters, msgspec.json.encode(again))
            producer.flush(10)

    monkeypatch.setattr(Publisher, "send", sent)
    assert dead_letters(lane, "--publish") == [{"published": 2, "already": 0, "cut": 0, "no_value": 0}]


def test_nothing_is_published_on_the_topic_of_the_copies(lane: Lane) -> None:
    """A letter names that topic, but what is published there is not re-keyed."""
    copies = f"{lane.topics.clicks}-by-user"
    admin = AdminClient({"bootstrap.servers": lane.broker})
    admin.create_topics([NewTopic(copies, 1)])[copies].result()
    command = ["dead-letters", "--broker", lane.broker, "--publish", "--clicks-topic", copies]
    command += ["--dead-letters-topic", lane.topics.dead_letters]
    done = subprocess.run(
        [sys.executable, "-m", "stream.ops.cli", *command], capture_output=True, text=True, check=False, timeout=60
    )
    line = f"eddy: topic {copies} has the copies of the workers, and what is published there is not re-keyed; give "
    assert (done.returncode, done.stderr) == (2, f"{line}--clicks-topic {lane.topics.clicks}\n")
