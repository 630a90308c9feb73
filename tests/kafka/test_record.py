"""`eddy record` on a real Kafka: a log has exactly the clicks that the test has produced, read by the same mapping."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from bench.apache_kafka import free_ports
from export.log.log import log_clicks, read_log
from stream.access.messages import read_messages, span_of
from stream.errors import ConfigError
from stream.mapping.parse import parse_mapping, read_mapping
from stream.ops.cli import eddy
from tests.kafka.apicurio import Running
from tests.kafka.lane import ROOT, Lane, wait_until
from tests.kafka.test_registry import CLICKS, as_decided, as_text, avro, kind, proto

pytestmark = pytest.mark.real_kafka

PARTITIONS = 3
START_MS = 1_735_689_600_000
SEGMENT = """
[fields]
user_id = ["userId", "anonymousId"]
item_id = "properties.product_id"
timestamp = "timestamp"
event_type = "event"
price = "properties.price"

[event_types]
"Product Viewed" = "view"
"Order Completed" = "purchase"

[events]
drop_without = ["item_id"]

[key]
holds = "other"
rekey = true
"""

Row = tuple[str, str, int, str, float | None]
"""A click: user, item, time, event type, price."""


def run(*words: object) -> Result:
    return CliRunner().invoke(eddy, ["record", *map(str, words)])


def recorded(*words: object) -> dict[str, Any]:
    done = run(*words, "--json")
    assert done.exception is None, done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def paths_of(*words: object) -> dict[str, Any]:
    done = CliRunner().invoke(eddy, ["paths", *map(str, words), "--json"])
    assert done.exception is None, done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rows_of(path: Path, mapping: Path) -> Counter[Row]:
    """The clicks that `eddy train` would read."""
    log = read_log(path, mapping=read_mapping(mapping))
    return Counter((c.user_id, c.item_id, c.timestamp, c.event_type, c.price) for c, _ in log_clicks(log))


def topic_of(kafka: str, name: str, partitions: int = PARTITIONS) -> str:
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(name, partitions, 1)])[name].result(30)
    return name


def producer_of(kafka: str, **more: object) -> Producer:
    return Producer({"bootstrap.servers": kafka, "enable.idempotence": True, **more})


def segment(row: Row, known: bool = True) -> dict[str, Any]:
    user, item, ms, event, price = row
    at = f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"
    names = {"view": "Product Viewed", "purchase": "Order Completed"}
    product = {"product_id": item, "name": f"{item} größe", **({} if price is None else {"price": price})}
    return {
        "userId": user if known else None, "anonymousId": f"a-{user}" if known else user,
        "event": names.get(event, event), "timestamp": at, "properties": product, "messageId": f"m{ms}",
    }  # fmt: skip


def clicks(count: int, seed: int, users: int = 20, begin_ms: int = START_MS) -> list[Row]:
    rng = random.Random(seed)
    return [
        (
            f"u{rng.randrange(users)}", f"i{rng.randrange(40)}", begin_ms + 1_000 * n + rng.randrange(1_000),
            rng.choice(["view", "purchase", "wish"]), rng.choice([None, 9.5, 120]),
        )
        for n in range(count)
    ]  # fmt: skip


def test_a_log_has_the_clicks_of_the_topic(kafka: str, name: str, tmp_path: Path) -> None:
    """Nested events, keyed by the session, with whatever else is on a topic: nothing of it is in the log.

    The clicks of a user before the request to forget are not, in whichever partition, and later ones are. No group is
    left on the broker.
    """
    topic, mapping = topic_of(kafka, name), tmp_path / "shop.toml"
    mapping.write_text(SEGMENT)
    early, late = clicks(600, 1), clicks(300, 2, begin_ms=START_MS + 3_600_000)
    producer = producer_of(kafka)

    def publish(rows: Iterable[Row], to: Producer = producer) -> None:
        for n, row in enumerate(rows):
            value = json.dumps(segment(row, n % 3 > 0), indent=2 if n % 2 else None, ensure_ascii=n % 5 > 0)
            to.produce(topic, value.encode(), f"s-{n % 50}".encode())

    publish(early)
    page = json.dumps({"userId": "u1", "event": "page", "timestamp": START_MS, "properties": {}}).encode()
    garbage = [b"no json", b"\xff\xfe\xfd", b"[1]", b"null", b"", b"\0\0\0\0\7avro", b'{"userId":"u1"', page]
    for n, value in enumerate(garbage):
        producer.produce(topic, value, b"s-1", partition=n % PARTITIONS)
    producer.produce(topic, None, b"u1")  # a tombstone: no request
    producer.produce(topic, None, b"u1", headers={"eddy-quiet": b'{"until_ms":0}'})
    assert producer.flush(30) == 0
    done = CliRunner().invoke(eddy, ["forget", "u3", "u4", "--broker", kafka, "--clicks-topic", topic])
    assert done.exit_code == 0, done.exception
    others = producer_of(kafka, **{"transactional.id": name})
    others.init_transactions(30)
    others.begin_transaction()
    publish(clicks(100, 3), others)
    others.flush(30)
    others.abort_transaction(30)
    others.begin_transaction()
    publish(late, others)
    others.commit_transaction(30)

    wanted = Counter([*(row for row in early if row[0] not in ("u3", "u4")), *late])
    assert any(row[0] == "u3" for row in late)
    out, admin = tmp_path / "events.jsonl", AdminClient({"bootstrap.servers": kafka})
    groups = {one.group_id for one in admin.list_consumer_groups().result().valid}
    found = recorded(out, "--topic", topic, "--broker", kafka, "--mapping", mapping)
    new = {one.group_id for one in admin.list_consumer_groups().result().valid} - groups
    assert not [group for group in new if name in group or not re.match("t[0-9a-f]{10}", group)]  # nor of other tests
    assert rows_of(out, mapping) == wanted
    left_out = {
        "not_json": 4, "wrong_fields": 2, "empty_value": 2, "no_value": 1, "request": 1 + 2 * PARTITIONS,
        "forgotten": sum(row[0] in ("u3", "u4") for row in early),
    }  # fmt: skip
    assert found.pop("left_out") == left_out
    assert found.pop("details").keys() == left_out.keys()
    assert (found.pop("deleted"), found.pop("unused")) == (0, [])
    assert found == {
        "topic": topic, "partitions": PARTITIONS, "file": str(out), "clicks": wanted.total(),
        "messages": wanted.total() + sum(left_out.values()), "bytes": out.stat().st_size,
        "first_ms": min(row[2] for row in wanted), "last_ms": max(row[2] for row in wanted),
    }  # fmt: skip
    assert out.read_text().count("\n") == wanted.total()

    packed = tmp_path / "events.jsonl.gz"
    found = recorded(packed, "--topic", topic, "--broker", kafka, "--mapping", mapping, "--limit", 50)
    few = rows_of(packed, mapping)
    assert (few.total(), few - wanted, found["clicks"]) == (50, Counter(), 50)


def test_a_topic_with_eddys_fields_is_read_from_a_time_on(kafka: str, name: str, tmp_path: Path) -> None:
    """The time is that of Kafka, and a partition may have no later message. What `eddy replay` publishes comes back."""
    topic, rows = topic_of(kafka, name), clicks(90, 4)
    producer = producer_of(kafka)
    for n, (user, item, ms, event, price) in enumerate(rows):
        click = {"user_id": user, "item_id": item, "timestamp": ms, "event_type": event, "price": price}
        key, partition = (b"somebody" if n == 80 else user.encode()), 2 if n < 40 else 0
        producer.produce(topic, json.dumps(click).encode(), key, partition, timestamp=START_MS + n)
    assert producer.flush(30) == 0
    from_40 = datetime.fromtimestamp((START_MS + 40) / 1000, UTC).isoformat()
    out, mapping = tmp_path / "late.jsonl", tmp_path / "own.toml"
    found = recorded(out, "--topic", topic, "--broker", kafka, "--from", from_40)
    assert (found["clicks"], found["left_out"]) == (49, {"key_is_not_user": 1})
    mapping.write_text("[fields]\n" + "".join(f'{f}="{f}"\n' for f in ("user_id", "item_id", "timestamp", "price")))
    mapping.write_text(mapping.read_text() + 'event_type="event_type"\n')
    assert rows_of(out, mapping) == Counter(rows[40:80] + rows[81:])
    assert [(c.user_id, c.timestamp) for c, _ in log_clicks(read_log(out))] == [
        (row[0], row[2]) for row in rows[40:80] + rows[81:]
    ]

    again = topic_of(kafka, f"{name}-again")
    words = ["replay", str(out), "--topic", again, "--broker", kafka, "--speed", "max"]
    assert CliRunner().invoke(eddy, words).exit_code == 0
    recorded(tmp_path / "again.jsonl", "--topic", again, "--broker", kafka)
    assert rows_of(tmp_path / "again.jsonl", mapping) == rows_of(out, mapping)


def test_the_end_is_that_of_the_start(kafka: str, name: str) -> None:
    """Messages that come while the topic is read are not read, nor those of a transaction that is open."""
    topic, producer = topic_of(kafka, name, 2), producer_of(kafka)

    def send(count: int, text: bytes) -> None:
        for n in range(count):
            producer.produce(topic, b"%s %d" % (text, n), b"k", partition=n % 2)
        assert producer.flush(30) == 0

    send(10, b"first")
    other = producer_of(kafka, **{"transactional.id": name})
    other.init_transactions(30)
    other.begin_transaction()
    other.produce(topic, b"open", b"k", partition=1)
    other.flush(30)
    span = span_of(kafka, topic)
    send(3_000, b"later")
    found = list(read_messages(kafka, topic, span=span))
    other.abort_transaction(30)
    values = [(message.value() or b"").partition(b" ")[0] for message in found]
    assert values == [b"first"] * 10

    def readable() -> list[Message]:
        return list(read_messages(kafka, topic))

    wait_until(lambda: len(readable()) == 3_010, "the aborted transaction keeps no message back")
    assert sum(map(len, span_of(kafka, topic).values())) >= 3_010
    assert list(read_messages(kafka, topic, span=span_of(kafka, topic, since_ms=4_000_000_000_000))) == []


def test_what_cannot_be_read_is_one_line(
    kafka: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty topic, none, no broker, no registry, no option for it. No file is left."""
    topic, out = topic_of(kafka, name), tmp_path / "clicks.jsonl"
    shop = tmp_path / "avro.toml"
    shop.write_text(SEGMENT + "[message]\nformat = 'avro'\n")
    away = f"127.0.0.1:{free_ports(1)[0]}"
    cases: list[tuple[str, tuple[object, ...]]] = [
        (f"topic {topic} has no messages", ("--topic", topic, "--broker", kafka)),
        (f"topic {topic} has no messages since the time", ("--topic", topic, "--broker", kafka, "--from", "7d")),
        (f"has no topic '{name}-none'", ("--topic", f"{name}-none", "--broker", kafka)),
        (f"broker {away} cannot be reached", ("--topic", topic, "--broker", away)),
        ("give --schema-registry", ("--topic", topic, "--broker", kafka, "--mapping", shop)),
        (
            f"the Schema Registry at http://{away} does not answer",
            ("--topic", topic, "--broker", kafka, "--mapping", shop, "--schema-registry", f"http://{away}"),
        ),
    ]
    for line, words in cases:
        monkeypatch.setattr("stream.access.publish.CONNECT_S", 1.0 if away in words else 10.0)
        error = run(out, *words).exception
        assert isinstance(error, ConfigError), (line, error)
        assert line in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["avro.toml"]


def test_the_commands_that_read_a_topic_take_it_from_the_settings(kafka: str, name: str, tmp_path: Path) -> None:
    """Broker and clicks topic: the file, before it a variable, before that the option. A file of clicks precedes both.

    The topics are empty, which the error of each command says with the topic's name.
    """
    of_file, of_variable, of_option = (topic_of(kafka, f"{name}-{source}", 1) for source in ("file", "var", "opt"))
    settings = tmp_path / "eddy.toml"
    settings.write_text(f"broker = '{kafka}'\nclicks_topic = '{of_file}'\n")
    variables = {"EDDY_CLICKS_TOPIC": of_variable}
    commands = ["init", "--out", str(tmp_path / "m.toml")], ["record", str(tmp_path / "c.jsonl")], ["paths"]
    cases: list[tuple[str, list[str], dict[str, str]]] = [
        (of_file, [], {}),
        (of_variable, [], variables),
        (of_option, ["--topic", of_option], variables),
    ]
    for topic, words, environ in cases:
        for command in commands:
            done = CliRunner().invoke(eddy, [*command, "--settings", str(settings), *words], env=environ)
            assert isinstance(done.exception, ConfigError), (command, topic, done.output)
            assert str(done.exception).startswith((f"topic {topic} has no messages", f"topic {topic} has no events"))

    log = ROOT / "docs" / "examples" / "retailrocket.csv"
    columns = ["--user-col", "visitorid", "--item-col", "itemid", "--event-col", "event"]
    for words in (["init", "--file", str(log), "--out", str(tmp_path / "m.toml")], ["paths", str(log), *columns]):
        assert CliRunner().invoke(eddy, [*words, "--settings", str(settings)], env=variables).exit_code == 0
        done = CliRunner().invoke(eddy, [*words, "--topic", of_option])
        assert str(done.exception).startswith("give either"), done.exception


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "it has no value"),
        (b'[{"user_id": "u"}]', "Expected `object`, got `array`"),
        (b"\x1f\x8b\x08 gzip", "JSON is malformed"),
        (b"u1,i1,1700000000000", "JSON is malformed"),
    ],
)
def test_init_says_why_no_message_of_a_topic_can_be_decoded(
    kafka: str, name: str, tmp_path: Path, value: bytes | None, why: str
) -> None:
    topic = topic_of(kafka, name, 1)
    producer = Producer({"bootstrap.servers": kafka})
    for _ in range(2):
        producer.produce(topic, value, b"u1")
    assert producer.flush(10) == 0
    done = CliRunner().invoke(eddy, ["init", "--topic", topic, "--broker", kafka, "--out", str(tmp_path / "shop.toml")])
    wanted = f"topic {topic} has no events to look at: 2 messages that cannot be decoded. Of the last one: "
    assert str(done.exception).startswith(wanted)
    assert why in str(done.exception)


def test_a_topic_in_avro_becomes_json_lines(lane: Lane, registry: Running, tmp_path: Path) -> None:
    """The mapping's paths lead to the same values in them; a decimal and a time of the schema are numbers.

    `eddy paths` counts the same of the topic as of the lines.
    """
    topic, mapping = lane.topics.clicks, tmp_path / "shop.toml"
    mapping.write_text(
        '[message]\nformat = "avro"\n[fields]\nuser_id = "userId"\nitem_id = "product.product_id"\n'
        'timestamp = "eventTime"\nevent_type = "event"\nprice = "product.price"\n[event_types]\nremove = "view"\n'
    )
    assert parse_mapping(mapping.read_text(), "").format == "avro"
    page = {"name": "page", "type": ["null", "string"], "default": None}
    messages = avro(registry, topic, CLICKS[:300]) + avro(registry, topic, CLICKS[300:], page)
    lane.produce([*messages, (b"u", b"\0\0\0\xff\xff?"), (b"u", b"no avro")])
    out = tmp_path / "events.jsonl"
    words = ("--topic", topic, "--broker", lane.broker, "--mapping", mapping, "--schema-registry", registry.url)
    found = recorded(out, *words)
    assert found["left_out"] == {"unknown_schema": 1, "no_schema_id": 1}
    log = read_log(out, mapping=read_mapping(mapping))
    assert as_decided([click for click, _ in log_clicks(log)]) == as_decided(CLICKS)
    first = json.loads(out.read_text().splitlines()[0])
    assert first.keys() - {"page"} == {"userId", "product", "eventTime", "event"}
    assert first["eventTime"] > 10**15  # in us, as the schema has it
    of_topic, of_log = (paths_of(*more) for more in (words, (out, "--mapping", mapping)))
    assert of_topic.pop("left_out") == found["left_out"]
    assert (of_topic["clicks"], of_topic["funnel"]) == (len(CLICKS), of_log["funnel"])


def test_a_topic_in_protobuf_becomes_json_lines(lane: Lane, registry: Running, tmp_path: Path) -> None:
    """A message in it is an object, a Timestamp is text, and the first name of an enum is there, though no byte has it.

    The keys are sessions, and half of the messages has a schema that was registered as text. The event types of the log
    are those of the topic, also `view`, which Protobuf leaves out.
    """
    topic, mapping = lane.topics.clicks, tmp_path / "shop.toml"
    mapping.write_text(
        '[message]\nformat = "protobuf"\n[fields]\nuser_id = "userId"\nitem_id = "product.product_id"\n'
        'timestamp = "eventTime"\nevent_type = "event"\n[key]\nholds = "other"\nrekey = true\n'
    )
    messages = proto(registry, topic, CLICKS)
    messages[450:] = as_text(registry, lane, messages[450:])
    cut = messages[0][1][:-2]
    lane.produce([*messages, (b"s", b"\0\0\0\xff\xff?"), (b"s", b"no protobuf"), (b"s", cut)])
    out = tmp_path / "events.jsonl"
    words = ("--topic", topic, "--broker", lane.broker, "--mapping", mapping, "--schema-registry", registry.url)
    found = recorded(out, *words)
    assert found["left_out"] == {"unknown_schema": 1, "no_schema_id": 1, "not_of_schema": 1}
    log = [click for click, _ in log_clicks(read_log(out, mapping=read_mapping(mapping)))]
    assert as_decided(log) == as_decided(CLICKS)
    assert Counter(click.event_type for click in log) == Counter(map(kind, CLICKS))
    first = json.loads(out.read_text().splitlines()[0])
    assert first.keys() == {"userId", "product", "eventTime", "event"}
    assert first["product"]["product_id"] in {click.item_id for click in CLICKS}
    assert datetime.fromisoformat(first["eventTime"]).tzinfo is not None
    of_topic, of_log = (paths_of(*more) for more in (words, (out, "--mapping", mapping)))
    assert of_topic.pop("left_out") == found["left_out"]
    assert (of_topic["clicks"], of_topic["funnel"]) == (len(CLICKS), of_log["funnel"])
