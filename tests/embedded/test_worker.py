"""The whole worker, started as an operator starts it, on the embedded broker."""

import base64
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from stream.demo.broker import EmbeddedBroker
from stream.events import Anomaly, Click, DeadLetter, Recommendation, click_of
from stream.settings import Topics
from tests.collector import Collector, attributes, running
from tests.kafka.lane import wait_until

PARTITIONS = 2
TOPICS = dict.fromkeys(Topics().names(), PARTITIONS)
DEADLINE_S = 60.0
START_MS = 1_700_000_000_000


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "stream.ops.cli", *arguments]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("EDDY_")}


@contextlib.contextmanager
def worker(broker: str, model: Path, directory: Path, *options: str) -> Iterator[Callable[[], str]]:
    """Run `eddy worker` while the block runs; yields a function that reads its log."""
    log = directory / "worker.log"
    with log.open("wb") as file:
        given = ("--model", str(model), "--broker", broker, "--worker-id", "1", "--device", "cpu", *options)
        process = subprocess.Popen(
            command("worker", *given),
            stdout=file,
            stderr=file,
            env=environment(),
            cwd=Path(__file__).parents[2],
        )
    try:
        yield log.read_text
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        code = process.wait(30)
    assert code == 0, log.read_text()


@contextlib.contextmanager
def states_on_disk() -> Iterator[list[str]]:
    """The options for states in a file, on Linux: on a file system that the worker takes also in a container."""
    if sys.platform != "linux":
        yield []
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield ["--state-on-disk", "--data-dir", directory]


def read(broker: str, topics: list[str], enough: Callable[[dict[str, list[bytes]]], bool]) -> dict[str, list[bytes]]:
    """Topic -> committed values: read until there are enough, then a moment longer to catch extra messages."""
    consumer = Consumer(
        {"bootstrap.servers": broker, "group.id": "t", "isolation.level": "read_committed", "enable.auto.commit": False}
    )
    consumer.assign([TopicPartition(topic, number, 0) for topic in topics for number in range(PARTITIONS)])
    found: dict[str, list[bytes]] = {topic: [] for topic in topics}
    deadline, late = time.monotonic() + DEADLINE_S, 0
    while late < 5:
        messages = consumer.consume(500, 0.1)
        for message in messages:
            assert message.error() is None
            found[str(message.topic())].append(message.value() or b"")
        assert time.monotonic() < deadline, {topic: len(values) for topic, values in found.items()}
        late += enough(found)
    consumer.close()
    return found


BROKEN = {
    "not_json": b'{"user_id": "u1", "item',
    "wrong_fields": b'{"user_id": "u1", "item_id": 1.5, "timestamp": 1}',
    "not_utf8": b'{"user_id": "u1", "item_id": "\xff\xfe", "timestamp": 1700000000000}',
    "empty_value": b"",
    "future_timestamp": b'{"user_id": "u1", "item_id": "i1", "timestamp": 99999999999999}',
    "bad_timestamp": b'{"user_id": "u1", "item_id": "i1", "timestamp": -5}',
    "too_large": b'{"user_id": "u1", "item_id": "%s"}' % (b"x" * 70_000),
    "key_is_not_user": b'{"user_id": "u2", "item_id": "i1", "timestamp": 1700000000000}',
}


def test_every_click_gets_one_decision_and_every_broken_message_a_reason(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every click has one decision, also on an unknown item; every other message has a dead letter with its origin. The
    states are in a file; the tests on a real Kafka have them in memory. All transactions are traces; when the collector
    is gone, clicks are decided as before, and the log says it in one line."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")  # ms
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    headers = [("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
    clicks = [
        Click(f"u{n % 7}", f"i{n % 50}" if n % 10 else f"new-{n}", START_MS + n * 1000, ("view", "cart", "wish")[n % 3])
        for n in range(400)
    ]
    with (
        states_on_disk() as options,
        running() as collector,
        EmbeddedBroker(TOPICS) as broker,
        worker(broker.address, model_dir, tmp_path, "--otlp-endpoint", collector.url, *options) as log,
    ):
        producer = Producer({"bootstrap.servers": broker.address, "log_level": 0})
        sent: dict[str, Click] = {}
        for n, click in enumerate(clicks):
            producer.produce(
                "clicks",
                key=click.user_id.encode(),
                value=msgspec.json.encode(click),
                headers=headers if n == 3 else None,
                on_delivery=lambda error, m, click=click: sent.update({f"clicks-{m.partition()}-{m.offset()}": click}),
            )
            if n % 50 == 0:
                producer.produce("clicks", key=b"u1", value=list(BROKEN.values())[n // 50])
        assert producer.flush(20) == 0
        found = read(
            broker.address,
            ["recommendations", "anomalies", "clicks-dead-letter"],
            lambda f: len(f["recommendations"]) >= len(clicks) and len(f["clicks-dead-letter"]) >= len(BROKEN),
        )
        assert "provider=CPUExecutionProvider" in log()
        assert not options or f"states are in a file: directory={options[-1]}" in log()
        wait_until(
            lambda: (
                sum(attributes(one)["messaging.batch.message_count"] for one in collector.named("transaction"))
                == len(clicks) + len(BROKEN)
            ),
            "all messages in traces",
        )
        collector.leave()
        for _ in range(2):
            producer.produce("clicks", msgspec.json.encode(Click("u1", "i1", START_MS)), b"u1")
            assert producer.flush(20) == 0
            wait_until(lambda: "traces are lost" in log(), "a line on the collector")
        read(broker.address, ["recommendations"], lambda f: len(f["recommendations"]) >= len(clicks) + 2)

    assert_traces(collector, len(clicks), len(BROKEN))
    lines = [line for line in log().splitlines() if "trace" in line or "export" in line or collector.url in line]
    assert [re.split(" (INFO|WARNING) ", line)[-1].partition(":")[0] for line in lines] == [
        "traces are sent",
        "traces are lost, clicks are decided as before",
    ]

    decisions = [msgspec.json.decode(value, type=Recommendation) for value in found["recommendations"]]
    assert Counter(click_of(d.id) for d in decisions) == Counter(list(sent))
    for decision in decisions:
        click = sent[click_of(decision.id)]
        assert (decision.user_id, decision.item_id, decision.timestamp) == (
            click.user_id,
            click.item_id,
            click.timestamp,
        )
        assert len(decision.items) == 20
        assert click.item_id not in decision.items
        assert 0 < decision.p_value <= 1
    letters = [msgspec.json.decode(value, type=DeadLetter) for value in found["clicks-dead-letter"]]
    assert Counter(letter.reason for letter in letters) == Counter(list(BROKEN))
    for letter in letters:
        whole = BROKEN[letter.reason]
        assert letter.topic == "clicks"
        assert letter.id == f"clicks-{letter.partition}-{letter.offset}"
        assert letter.id not in sent
        assert letter.value_bytes == len(whole)
        assert whole.startswith(base64.b64decode(letter.value or ""))
        assert base64.b64decode(letter.key or "") == b"u1"
    for value in found["anomalies"]:
        assert msgspec.json.decode(value, type=Anomaly).id in sent


def assert_traces(collector: Collector, clicks: int, letters: int) -> None:
    """Each transaction is a span, with its stages in its time and a link to the one click that has a trace."""
    whole = collector.named("transaction")
    facts = [attributes(one) for one in whole]
    assert (sum(one["eddy.clicks"] for one in facts), sum(one["eddy.dead_letters"] for one in facts)) == (
        clicks,
        letters,
    )
    assert {name for one in facts for name in one["eddy.partitions"]} == {"clicks-0", "clicks-1"}
    assert {one["eddy.worker_id"] for one in facts} == {"1"}
    linked = [(link.trace_id + link.span_id).hex() for one in whole for link in one.links]
    assert linked == ["0af7651916cd43dd8448eb211c80319cb7ad6b7169203331"]
    for one in whole:
        stages = [span for span in collector.spans if span.parent_span_id == one.span_id]
        assert {span.name for span in stages} == {"decode", "engine", "encode", "produce", "commit", "apply"}
        assert min(span.start_time_unix_nano for span in stages) == one.start_time_unix_nano
        assert max(span.end_time_unix_nano for span in stages) == one.end_time_unix_nano
        assert abs(one.end_time_unix_nano / 1e9 - time.time()) < DEADLINE_S
    assert collector.resource["service.name"] == "eddy"


@pytest.mark.parametrize(
    ("topics", "arguments", "words"),
    [
        (TOPICS, ["--model", "nowhere"], "nowhere: no such directory"),
        ({**TOPICS, "eddy-changelog": 3}, [], "must be equal"),
        ({"clicks": 2}, [], "eddy topics create"),
    ],
)
def test_a_worker_that_cannot_run_prints_one_line(
    model_dir: Path, tmp_path: Path, topics: dict[str, int], arguments: list[str], words: str
) -> None:
    """A missing model or topic, or a changelog of another size: one line with the remedy, and exit code 2."""
    with EmbeddedBroker(topics) as broker:
        done = subprocess.run(
            command(
                "worker", "--model", str(model_dir), "--broker", broker.address, "--data-dir", str(tmp_path), *arguments
            ),
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(),
            check=False,
        )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert words in done.stderr
