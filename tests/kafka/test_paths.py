"""`eddy paths --topic` on a real Kafka: the figures are those of the same clicks in a file."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from bench.apache_kafka import free_ports
from export.paths.command import paths
from stream.errors import ConfigError
from stream.ops.cli import eddy
from tests.oracle_paths import Row, random_rows, write

pytestmark = pytest.mark.real_kafka

PARTITIONS = 3


def invoked(*arguments: object) -> Result:
    return CliRunner().invoke(paths, [*map(str, arguments), "--json", "--show", "1000"])


def run(*arguments: object) -> Any:
    """All figures, without the name of the log. Rows of equal counts are in no order, so rows are sorted here."""
    done = invoked(*arguments)
    assert done.exception is None, done.exception
    return in_order({name: value for name, value in json.loads(done.stdout).items() if name != "log"})


def of_topic(*arguments: object) -> tuple[Any, dict[str, int]]:
    """The figures that a log has, too, and what is left out, which a remark says in the same order."""
    found = run("--topic", *arguments)
    messages, left_out = found.pop("messages"), found.pop("left_out")
    assert messages == found["clicks"] + sum(left_out.values())
    said = ", ".join(f"{count} {reason}" for reason, count in Counter(left_out).most_common())
    found["remarks"].remove(f"left out of {messages} messages: {said}")
    details = {line for line in found["remarks"] if line.partition(": ")[0] in left_out}
    assert len(details) == len(left_out)
    found["remarks"] = [line for line in found["remarks"] if line not in details]
    return found, left_out


def in_order(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: in_order(inner) for name, inner in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return sorted(map(in_order, value), key=json.dumps)
    return round(value, 9) if isinstance(value, float) else value  # users are summed in another order


def create(kafka: str, *topics: str) -> Producer:
    admin = AdminClient({"bootstrap.servers": kafka})
    for done in admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics]).values():
        done.result(30)
    return Producer({"bootstrap.servers": kafka, "enable.idempotence": True})  # a retry keeps the order


def test_a_topic_has_the_figures_of_a_file(kafka: str, name: str, tmp_path: Path) -> None:
    """With Eddy's fields and with a mapping. What is no click is counted and left out."""
    rows = random_rows(2, users=20, clicks=600)
    wanted = run(write(rows, tmp_path / "log.csv", sessions=True))
    plain, mapped = f"{name}-plain", f"{name}-mapped"
    producer = create(kafka, plain, mapped)
    for row in rows:
        click = {"user_id": row.user, "item_id": row.item, "timestamp": row.ms, "event_type": row.event}
        more = {"category": row.category or None, "session_id": row.session}
        producer.produce(plain, key=row.user, value=msgspec.json.encode({**click, **more}))
        event = {"who": row.user, "what": {"id": row.item, "kind": row.category or None}, "at": row.ms}
        producer.produce(
            mapped, key=row.user, value=msgspec.json.encode({**event, "did": row.event, "visit": row.session})
        )
    producer.produce(plain, key=b"u1", headers={"eddy-quiet": b'{"until_ms":0}'})
    producer.produce(plain, key=b"u1")
    producer.produce(plain, key=b"u1", value=b"no click")
    producer.produce(plain, key=b"somebody", value=msgspec.json.encode(click))  # the last click, with a wrong key
    producer.produce(mapped, key=b"u1")
    assert producer.flush(30) == 0

    left_out = {"request": 1, "empty_value": 1, "not_json": 1, "key_is_not_user": 1}
    assert of_topic(plain, "--broker", kafka) == (wanted, left_out)
    (tmp_path / "m.toml").write_text(
        "[fields]\nuser_id = 'who'\nitem_id = 'what.id'\ntimestamp = 'at'\nevent_type = 'did'\n"
        "session_id = 'visit'\ncategory = 'what.kind'\n"
    )
    assert of_topic(mapped, "--broker", kafka, "--mapping", tmp_path / "m.toml") == (wanted, {"empty_value": 1})


LOGINS = """
[fields]
user_id = "who.id"
anonymous_id = "who.browser"
item_id = "what"
timestamp = "at"
event_type = "did"
category = "kind"

[key]
holds = "other"
rekey = true
"""


def test_the_users_of_a_topic_are_those_of_a_log(kafka: str, name: str, tmp_path: Path) -> None:
    """Users log in, log out, and ask to be forgotten, on a topic that is keyed by something else.

    The clicks before a login are the user's, those after a logout the browser's. The clicks of a user before the
    request are left out; those of the browser, and later ones, are not.
    """
    rows = [row._replace(ms=row.ms + n) for n, row in enumerate(random_rows(3, users=20, clicks=900))]  # no equal times
    times = sorted(row.ms for row in rows)
    login_ms, logout_ms = times[300], times[700]
    late = [rows[0]._replace(user=user, ms=times[-1] + 1_000) for user in ("u3", "u4")]
    topic, mapping = f"{name}-logins", tmp_path / "m.toml"
    mapping.write_text(LOGINS)
    producer = create(kafka, topic)

    def publish(row: Row, user: str | None, browser: str | None) -> None:
        event = {"who": {"id": user, "browser": browser}, "what": row.item, "at": row.ms, "did": row.event}
        value = json.dumps({**event, "kind": row.category or None}, indent=1).encode()
        producer.produce(topic, value, row.session.encode())

    wanted, forgotten, logged_in = list[Row](), 0, set[str]()
    for row in sorted(rows, key=lambda row: row.ms):
        browser = f"b-{row.user}"
        known = login_ms <= row.ms < logout_ms and row.user not in ("u0", "u1")  # these two never log in
        publish(row, row.user if known else None, browser if row.user not in logged_in or not known else None)
        logged_in |= {row.user} if known else set()
        if row.user in ("u3", "u4") and known:
            forgotten += 1
            continue
        whole = row.user not in ("u0", "u1", "u3", "u4") and row.ms < logout_ms
        wanted.append(row if whole else row._replace(user=browser))
    garbage = [b"no json", b"[1]", b"\xff\xfe", b"", None]
    for n, value in enumerate(garbage):
        producer.produce(topic, value, b"u5", partition=n % PARTITIONS)
    assert producer.flush(30) == 0
    done = CliRunner().invoke(eddy, ["forget", "u3", "u4", "--broker", kafka, "--clicks-topic", topic])
    assert done.exit_code == 0, done.exception
    for row in late:
        publish(row, row.user, None)
    assert producer.flush(30) == 0

    log = write([*wanted, *late], tmp_path / "log.csv", sessions=False)
    found, left_out = of_topic(topic, "--broker", kafka, "--mapping", mapping)
    assert found == run(log)
    assert found["users"] == 16 + 20 + 2  # users, browsers, users after the request
    assert left_out == {
        "forgotten": forgotten, "request": 2 * PARTITIONS, "not_json": 2, "wrong_fields": 1, "empty_value": 2
    }  # fmt: skip


def test_a_topic_that_cannot_be_read_is_one_line(
    kafka: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is empty, is not there, or has no clicks by the mapping; the broker or the registry is away."""
    empty, other = f"{name}-empty", f"{name}-other"
    producer = create(kafka, empty, other)
    producer.produce(other, b'{"who": "u", "what": "i"}')
    assert producer.flush(30) == 0
    avro = tmp_path / "avro.toml"
    avro.write_text(LOGINS + "[message]\nformat = 'avro'\n")
    away = f"127.0.0.1:{free_ports(1)[0]}"
    cases: list[tuple[str, tuple[object, ...]]] = [
        (f"topic {empty} has no messages", (empty, "--broker", kafka)),
        (f"1 wrong_fields (user_id is missing or empty). If its messages have another shape, give --mapping, which "
         f"`eddy init --topic {other}`",
         (other, "--broker", kafka)),
        (f"has no topic '{name}-none'", (f"{name}-none", "--broker", kafka)),
        (f"broker {away} cannot be reached", (empty, "--broker", away)),
        (f"the Schema Registry at http://{away} does not answer",
         (empty, "--broker", kafka, "--mapping", avro, "--schema-registry", f"http://{away}")),
    ]  # fmt: skip
    for line, words in cases:
        monkeypatch.setattr("stream.access.publish.CONNECT_S", 1.0 if away in words else 10.0)
        error = invoked("--topic", *words).exception
        assert isinstance(error, ConfigError), (line, error)
        assert line in str(error)
