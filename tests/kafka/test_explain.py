"""`eddy explain` on the topics of a real Kafka."""

import json

import pytest
from click.testing import CliRunner

from stream.ops.cli import eddy
from tests.kafka.lane import Lane, bot, clicks

pytestmark = pytest.mark.real_kafka


def explain(lane: Lane, *options: str) -> str:
    topics = ["--anomalies-topic", lane.topics.anomalies, "--system-alerts-topic", lane.topics.system_alerts]
    done = CliRunner().invoke(eddy, ["explain", "--broker", lane.broker, *topics, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_an_alert_is_listed_and_explained(lane: Lane) -> None:
    """`--user` lists the alert of a bot, and its id gives the reasons."""
    lane.produce([*clicks(200), *bot()])
    lane.start()
    lane.wait_for_clicks()
    alert = json.loads(explain(lane, "--user", "bot", "--json", "--limit", "1"))
    assert alert["user_id"] == "bot"
    text = explain(lane, alert["id"])
    assert alert["reason"] in text
    assert next(iter(alert["statistics"])) in text
    assert explain(lane, "--user", "nobody") == "no alerts on user nobody\n"
