"""The command that posts alerts to a chat, as docs/slack.md has it, with a broker and a webhook of this test."""

import json
import os
import signal
import subprocess
from pathlib import Path

from confluent_kafka import Producer

from stream.demo.broker import EmbeddedBroker
from tests.docs.blocks import ROOT, Block, blocks
from tests.docs.test_commands import arguments, environment
from tests.kafka.lane import Worker
from tests.receiver import Receiver, alert, system_alert

PAGE = ROOT / "docs" / "slack.md"


def block(language: str) -> Block:
    [found] = [block for block in blocks(PAGE) if block.language == language]
    return found


def produce(broker: EmbeddedBroker, *events: tuple[str, dict[str, object]]) -> None:
    producer = Producer({"bootstrap.servers": broker.address})
    for topic, event in events:
        producer.produce(topic, json.dumps(event))
    assert producer.flush(60) == 0


def test_each_alert_that_opens_is_posted_and_no_other(tmp_path: Path) -> None:
    """One alert of a user, one on many users. Those before the first start are not posted, nor later ones of the same
    episode. The line is that of the page."""
    log = tmp_path / "log"
    with Receiver() as receiver, EmbeddedBroker({"anomalies": 1, "system-alerts": 1}) as broker:
        produce(broker, ("anomalies", alert(1)), ("system-alerts", system_alert(2)))
        (tmp_path / "webhook.txt").write_text(f"{receiver.url}\n")
        with log.open("wb") as output:
            process = subprocess.Popen(
                arguments(block("sh"), broker.address),
                cwd=tmp_path,
                env={**environment(), "PYTHONPATH": str(ROOT)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        running = Worker(process, log)
        try:
            running.wait_for("begins to read")
            produce(
                broker,
                ("anomalies", alert(9, episode="clicks-0-7")),
                ("anomalies", alert(7)),
                ("system-alerts", system_alert(10, episode="clicks-0-8", phase="closed", p_value=None)),
                ("system-alerts", system_alert(8)),
            )
            receiver.wait_for(2)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            assert process.wait(60) == 0, running.log
    of_user, of_many = sorted((json.loads(one.body)["text"] for one in receiver.requests), key=len)
    assert of_user == block("text").text.strip()
    assert of_many.endswith("partition 0, opened: 30 users do the same (p-value 3e-09)")
    assert "2 later ones of episodes" in running.log
    assert "S3CRET" not in running.log
