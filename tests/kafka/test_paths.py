"""`eddy paths --topic` on a real Kafka: the figures are those of the same clicks in a file."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from export.paths.command import paths
from stream.errors import ConfigError
from tests.oracle_paths import random_rows, write

pytestmark = pytest.mark.real_kafka


def run(*arguments: object) -> Any:
    """All figures, without the name of the log. Rows of equal counts are in no order, so rows are sorted here."""
    done = CliRunner().invoke(paths, [*map(str, arguments), "--json", "--show", "1000"], catch_exceptions=False)
    assert done.exit_code == 0
    return in_order({name: value for name, value in json.loads(done.stdout).items() if name != "log"})


def in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: in_order(inner) for name, inner in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return sorted(map(in_order, value), key=json.dumps)
    return round(value, 9) if isinstance(value, float) else value  # users are summed in another order


def test_a_topic_has_the_figures_of_a_file(kafka: str, name: str, tmp_path: Path) -> None:
    """With Eddy's fields and with a mapping. What is no click is counted and left out; an empty topic is one line."""
    rows = random_rows(2, users=20, clicks=600)
    wanted = run(write(rows, tmp_path / "log.csv", sessions=True))
    plain, mapped, empty = (f"{name}-{kind}" for kind in ("plain", "mapped", "empty"))
    admin = AdminClient({"bootstrap.servers": kafka})
    made = admin.create_topics([NewTopic(topic, 3, 1) for topic in (plain, mapped, empty)])
    for done in made.values():
        done.result(30)
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True})  # a retry keeps the order
    for row in rows:
        click = {"user_id": row.user, "item_id": row.item, "timestamp": row.ms, "event_type": row.event}
        more = {"category": row.category or None, "session_id": row.session}
        producer.produce(plain, key=row.user, value=msgspec.json.encode({**click, **more}))
        event = {"who": row.user, "what": {"id": row.item, "kind": row.category or None}, "at": row.ms}
        producer.produce(
            mapped, key=row.user, value=msgspec.json.encode({**event, "did": row.event, "visit": row.session})
        )
    producer.produce(plain, key=b"u1", headers={"eddy-forget": b""})
    producer.produce(plain, key=b"u1", value=b"no click")
    producer.produce(plain, key=b"somebody", value=msgspec.json.encode(click))  # the last click, with a wrong key
    assert producer.flush(30) == 0

    assert run("--topic", plain, "--broker", kafka) == wanted
    (tmp_path / "m.toml").write_text(
        "[fields]\nuser_id = 'who'\nitem_id = 'what.id'\ntimestamp = 'at'\nevent_type = 'did'\n"
        "session_id = 'visit'\ncategory = 'what.kind'\n"
    )
    assert run("--topic", mapped, "--broker", kafka, "--mapping", tmp_path / "m.toml") == wanted
    with pytest.raises(ConfigError, match=f"topic {empty} has no clicks$"):
        run("--topic", empty, "--broker", kafka)
    with pytest.raises(
        ConfigError, match=rf"wrong_fields\. If .* give --mapping, which `eddy init --topic {mapped}` w"
    ):
        run("--topic", mapped, "--broker", kafka)
