"""No record that a worker writes is larger than its topic allows: it is cut, or the worker does not start. What a topic
refuses in any case ends the worker with one line."""

import json
import signal
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from export.model.untrained import write_untrained
from stream.events import Anomaly, DeadLetter, Recommendation
from tests.kafka.lane import NOW_MS, Lane, clicks

SMALLEST = 16_384
LONG_IDS = [f"{n:03}-" + "i" * 252 for n in range(300)]


@pytest.fixture
def narrow(kafka: str, name: str, model: Path, tmp_path: Path) -> Iterator[Lane]:
    """Topics that do not exist yet: each test creates them with its own limits."""
    lane = Lane(kafka, name, model, tmp_path)
    yield lane
    lane.end_all()


@pytest.fixture(scope="module")
def long_ids(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose item ids have 256 characters."""
    directory = tmp_path_factory.mktemp("models") / "long" / "1"
    write_untrained(directory, LONG_IDS, ["view", "cart", "purchase"], hidden=16)  # sizes that other tests trace too
    return directory


def letters(lane: Lane) -> list[tuple[bytes | None, DeadLetter]]:
    """Key and event of every dead letter."""
    return [
        (message.key(), msgspec.json.decode(message.value(), type=DeadLetter))
        for message in lane.read(lane.topics.dead_letters)
    ]


def configure(lane: Lane, topic: str, name: str, value: object) -> None:
    """Change a property of a topic."""
    entry = ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": lane.broker})
    admin.incremental_alter_configs([resource])[resource].result()


def test_bad_message_with_a_key_near_kafkas_limit_does_not_stop_the_stream(lane: Lane) -> None:
    """A message with a 950 KB key becomes a letter without a Kafka key, and the clicks after it are decided."""
    key = b"k" * 950_000
    lane.produce([*clicks(10), (key, b"{}"), (b"user1", None), *clicks(10, seed=1)])
    worker = lane.start()
    lane.wait_for_clicks()
    assert worker.end(signal.SIGTERM) == 0, worker.log
    by_length = {letter.key_bytes: (kafka_key, letter) for kafka_key, letter in letters(lane)}
    assert by_length.keys() == {950_000, 5}
    kafka_key, letter = by_length[950_000]
    kept = b64decode(letter.key or "")
    assert kafka_key is None
    assert key.startswith(kept)
    assert len(kept) > 700_000
    assert (letter.value, letter.value_bytes) == ("e30=", 2)
    assert by_length[5][0] == b"user1"
    assert len(lane.read(lane.topics.recommendations)) == 20


def test_letter_is_cut_to_the_limit_of_its_topic(narrow: Lane) -> None:
    """A 3 MB message with a 2 MB key fits into a small dead-letter topic: both are cut, their lengths are kept."""
    narrow.create(clicks={"max.message.bytes": "6000000"}, dead_letters={"max.message.bytes": str(SMALLEST)})
    key, value = b"k" * 2_000_000, b"v" * 3_000_000
    narrow.produce([(key, value), (b"user1", value), *clicks(10)], longest=6_000_000)
    narrow.start()
    narrow.wait_for_clicks()
    found = letters(narrow)  # the two keys may be in two partitions: no order between them
    lengths = {(letter.key_bytes, letter.value_bytes) for _, letter in found}
    assert (len(found), lengths) == (2, {(2_000_000, 3_000_000), (5, 3_000_000)})
    for _, letter in found:
        assert key.startswith(b64decode(letter.key or "")) or letter.key_bytes == 5
        assert value.startswith(b64decode(letter.value or ""))
        assert len(msgspec.json.encode(letter)) > 0.9 * SMALLEST
    assert len(narrow.read(narrow.topics.recommendations)) == 10


def test_list_is_cut_to_the_limit_of_its_topic(narrow: Lane, long_ids: Path) -> None:
    """300 ids of 256 characters do not fit into 16 KB: the best ones that fit are written, and the omitted ones are
    counted."""
    limits = {"max.message.bytes": str(SMALLEST)}
    narrow.create(recommendations=limits, anomalies=limits, dead_letters=limits)
    users = [f"user{n % 40}-{'u' * 240}" for n in range(400)]
    narrow.produce(
        (user.encode(), json.dumps({"user_id": user, "item_id": LONG_IDS[n % 300], "timestamp": NOW_MS + n}).encode())
        for n, user in enumerate(users)
    )
    worker = narrow.start(model=long_ids, k=1000, alpha=0.5)
    narrow.wait_for_clicks()
    decided = [
        (len(message.value()), msgspec.json.decode(message.value(), type=Recommendation))
        for message in narrow.read(narrow.topics.recommendations)
    ]
    assert len(decided) == 400
    for size, decision in decided:
        assert SMALLEST - 600 < size < SMALLEST
        assert len(decision.items) == len(decision.log_probs)
        assert len(decision.items) + decision.items_cut == 299  # the click's own item is left out
        assert decision.log_probs == sorted(decision.log_probs, reverse=True)
    alerts = [msgspec.json.decode(m.value(), type=Anomaly) for m in narrow.read(narrow.topics.anomalies)]
    assert len(alerts) > 50
    assert all(len(alert.expected) == 3 for alert in alerts)
    worker.wait_for("recommendations cut")


def test_topic_too_small_for_any_event_is_refused(lane: Lane) -> None:
    """Below 16 KB even a decision without its list may be too large: the error names the topic and the limit to set."""
    configure(lane, lane.topics.anomalies, "max.message.bytes", 16_000)
    worker = lane.start()
    assert worker.process.wait(timeout=30) == 2, worker.log
    assert len(worker.log.strip().splitlines()) == 1
    for word in (lane.topics.anomalies, "max.message.bytes", "16000", str(SMALLEST)):
        assert word in worker.log


def test_changelog_too_small_for_a_state_row_is_refused(narrow: Lane) -> None:
    """A state row cannot be cut, and its size is known from the model: the worker refuses to start on such a topic."""
    narrow.create(changelog={"max.message.bytes": "1200"})
    worker = narrow.start()
    assert worker.process.wait(timeout=30) == 2, worker.log
    assert len(worker.log.strip().splitlines()) == 1
    for word in (narrow.topics.changelog, "max.message.bytes", "1200"):
        assert word in worker.log


def test_limit_lowered_under_a_running_worker_ends_it_with_the_remedy(lane: Lane) -> None:
    """Kafka refuses a record that fitted at the start: the worker prints the remedy and exits with 2; after a restart
    it cuts."""
    lane.produce(clicks(10))
    worker = lane.start(k=300)
    lane.wait_for_clicks()
    configure(lane, lane.topics.dead_letters, "max.message.bytes", SMALLEST)
    lane.produce([(b"user1", b"x" * 50_000)])
    assert worker.process.wait(timeout=40) == 2, worker.log
    line = worker.log.strip().splitlines()[-1]
    assert "max.message.bytes" in line
    assert lane.topics.dead_letters in line
    lane.start()
    lane.wait_for_clicks()
    assert [letter.value_bytes for _, letter in letters(lane)] == [50_000]


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("cleanup.policy", "compact", "set the topic's cleanup.policy to delete"),
        ("message.timestamp.before.max.ms", 0, "its time is outside message.timestamp.after.max.ms or before.max.ms"),
    ],
)
def test_a_record_that_its_topic_never_takes_ends_the_worker_with_the_remedy(
    lane: Lane, name: str, value: object, remedy: str
) -> None:
    """A dead letter without a key where only the last one of each key is kept; one that is older than the topic
    allows. Tried again, it would be refused again, and the stream would stop without a word about the reason."""
    lane.produce(clicks(10))
    worker = lane.start()
    lane.wait_for_clicks()
    configure(lane, lane.topics.dead_letters, name, value)
    lane.produce([(None, b"no click")] * 200)
    assert worker.process.wait(timeout=60) == 2, worker.log
    assert remedy in worker.log.strip().splitlines()[-1]
    assert "Traceback" not in worker.log
