"""A user who is forgotten is on no compacted topic afterwards, and comes back as a new one."""

import json

import msgspec
import pytest
from click.testing import CliRunner
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from stream.ops.cli import eddy
from tests.kafka.lane import NOW_MS, Lane, clicks, wait_until

pytestmark = pytest.mark.real_kafka

COMPACT_AT_ONCE = {
    "segment.ms": "200",
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "0",
    "min.compaction.lag.ms": "0",
}


def forget(lane: Lane, *users: str) -> dict[str, object]:
    command = ["forget", *users, "--json", "--broker", lane.broker, "--clicks-topic", lane.topics.clicks]
    done = CliRunner().invoke(eddy, command, catch_exceptions=False)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_a_forgotten_user_is_found_only_where_the_docs_say(lane: Lane) -> None:
    """After compaction no record of the changelog has the id. The clicks and the outputs have it until retention."""
    entries = [ConfigEntry(*one, incremental_operation=AlterConfigOpType.SET) for one in COMPACT_AT_ONCE.items()]
    changelog = ConfigResource(ResourceType.TOPIC, lane.topics.changelog, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": lane.broker})
    admin.incremental_alter_configs([changelog])[changelog].result()
    lane.produce([*clicks(400, users=40), (b"user7", b"no click")])
    rules = lane.directory / "triggers.toml"
    rules.write_text('[[trigger]]\nname = "more"\nkind = "after"\nevents = ["purchase"]\ncooldown = "1h"\n')
    worker = lane.start(alpha=0.5, triggers=rules)
    lane.wait_for_clicks()
    assert forget(lane, "user7", "nobody") == {"topic": lane.topics.clicks, "users": 2, "partitions": 4}
    lane.wait_for_clicks()
    seed = 0

    def compacted() -> bool:
        nonlocal seed
        seed += 1
        lane.produce([one for one in clicks(40, users=40, seed=seed) if one[0] != b"user7"])  # rolls the segments
        lane.wait_for_clicks()
        return not [m for m in lane.read(lane.topics.changelog) if b"user7" in (m.key(), m.value())]

    wait_until(compacted, "the changelog is compacted and has no record of user7", 90)
    names = {name: topic for name, topic in msgspec.structs.asdict(lane.topics).items() if topic}
    found = {
        name
        for name, topic in names.items()
        for m in lane.read(topic)
        if m.key() == b"user7" or b'"user7"' in (m.value() or b"")
    }
    assert found == {"clicks", "recommendations", "anomalies", "sessions", "triggers", "dead_letters"}
    assert not [m for m in lane.read(lane.topics.changelog) if m.key() == b"nobody"]
    assert "different ways" not in worker.log  # the request itself is in every partition

    value = msgspec.json.encode({"user_id": "user7", "item_id": "i1", "timestamp": NOW_MS + 100 * 86_400_000})
    lane.produce([(b"user7", value)])
    lane.wait_for_clicks()
    rows = [m.value() for m in lane.read(lane.topics.changelog) if m.key() == b"user7"]
    assert [int.from_bytes((row or b"")[40:44], "little") for row in rows] == [1]  # clicks of the row
