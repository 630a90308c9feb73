"""`eddy explain`, `eddy feedback` and `eddy calibrate` on the topics of a real Kafka."""

import json
import signal
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from stream.kafka.topics import create_topics
from stream.kafka_config import PLAINTEXT
from stream.ops.cli import eddy
from tests.kafka.lane import DAY_MS, NOW_MS, Lane, bot, clicks

pytestmark = pytest.mark.real_kafka


def explain(lane: Lane, *options: str) -> str:
    topics = ["--anomalies-topic", lane.topics.anomalies, "--system-alerts-topic", lane.topics.system_alerts]
    done = CliRunner().invoke(eddy, ["explain", "--broker", lane.broker, *topics, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def feedback_topic(lane: Lane) -> str:
    return f"{lane.name}-feedback"


def call(lane: Lane, command: str, *options: str) -> dict[str, Any]:
    topics = ["--anomalies-topic", lane.topics.anomalies, "--feedback-topic", feedback_topic(lane)]
    given = [command, "--broker", lane.broker, *topics, *options, "--json"]
    done = CliRunner().invoke(eddy, given, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def bot_on(day: int) -> list[tuple[bytes | None, bytes | None]]:
    """The bot some days later."""
    values = [msgspec.json.decode(value or b"") for _, value in bot()]
    return [(b"bot", msgspec.json.encode(one | {"timestamp": one["timestamp"] + day * DAY_MS})) for one in values]


def test_an_alert_is_listed_explained_and_judged(lane: Lane) -> None:
    """`--user` lists the alert of a bot, and its id gives the reasons. After a verdict with `--quiet` the bot has no
    alert until that time, also if the worker is killed meanwhile, and the verdict is counted."""
    lane.produce([*clicks(200), *bot()])
    worker = lane.start(worker_id="0")
    created = create_topics(lane.broker, lane.topics, 4, 1, PLAINTEXT, feedback_topic(lane))
    assert created[feedback_topic(lane)] == "created, 4 partitions"
    lane.wait_for_clicks()
    alert = json.loads(explain(lane, "--user", "bot", "--json", "--limit", "1"))
    assert alert["user_id"] == "bot"
    text = explain(lane, alert["id"])
    assert alert["reason"] in text
    assert next(iter(alert["statistics"])) in text
    assert explain(lane, "--user", "nobody") == "no alerts on user nobody\n"

    until = datetime.fromtimestamp((NOW_MS + 2 * DAY_MS) / 1000, UTC).isoformat()
    quiet = ("--quiet", until, "--note", "our monitor", "--clicks-topic", lane.topics.clicks)
    said = call(lane, "feedback", alert["id"], "false", *quiet)
    assert (said["user_id"], said["quiet_until_ms"]) == ("bot", NOW_MS + 2 * DAY_MS)
    assert [msgspec.json.decode(m.value()) for m in lane.read(feedback_topic(lane))] == [said]
    lane.produce(bot_on(1)[:6])
    lane.wait_for_clicks()
    worker.end(signal.SIGKILL)
    lane.start(worker_id="0")
    lane.produce([*bot_on(1)[6:], *bot_on(3)])
    lane.wait_for_clicks()
    alerts = [msgspec.json.decode(m.value()) for m in lane.read(lane.topics.anomalies) if m.key() == b"bot"]
    assert {(one["timestamp"] - NOW_MS) // DAY_MS for one in alerts} == {0, 3}
    assert not lane.read(lane.topics.dead_letters)
    found = call(lane, "calibrate")
    assert (found["all"]["true"], found["all"]["false"], found["missing"]) == (0, 1, 0)
