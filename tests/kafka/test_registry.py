"""Topics in Avro and Protobuf with a real Schema Registry: from `eddy init` to recommendations.

The producers are those of confluent-kafka, with its serializers, which register the schemas themselves.
"""

import json
import shlex
import shutil
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import fastavro
import msgspec
import pytest
from confluent_kafka.schema_registry import Schema
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pool, message_factory

from export.log.log import log_clicks, read_log
from stream.demo.shop import build_shop
from stream.demo.simulate import simulate_clean
from stream.errors import ConfigError
from stream.events import Click, DeadLetter, Recommendation
from stream.kafka_config import read_kafka_config
from stream.manifest import Manifest, read_manifest, sha256, write_manifest
from stream.mapping.parse import parse_mapping, read_mapping
from stream.registry.client import Registry
from stream.registry.protobuf import MAIN, _compiled
from stream.settings import variable
from tests.docs.blocks import ROOT, blocks
from tests.kafka.apicurio import Running
from tests.kafka.lane import Lane
from tests.kafka.test_mapping import START_MS, eddy
from tests.kafka.test_rekey import RekeyedLane

PAGE = ROOT / "docs" / "mapping.md"
CLICKS = [simulated.click for simulated in islice(simulate_clean(build_shop(), 40, 1, START_MS), 900)]
SILENT, BACK = "the Schema Registry does not answer", "the Schema Registry answers again"


def at(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


# -- Avro -------------------------------------------------------------------------------------------------------------

AVRO: dict[str, Any] = {
    "type": "record",
    "name": "ShopEvent",
    "namespace": "shop",
    "fields": [
        {"name": "userId", "type": "string"},
        {
            "name": "product",
            "type": {
                "type": "record",
                "name": "Product",
                "fields": [
                    {"name": "product_id", "type": "string"},
                    {"name": "price", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9}]},
                ],
            },
        },
        {"name": "eventTime", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "event", "type": {"type": "enum", "name": "Kind", "symbols": ["view", "cart", "purchase", "remove"]}},
    ],
}
KINDS = ("view", "cart", "purchase")


def kind(click: Click) -> str:
    return click.event_type if click.event_type in KINDS else "remove"


def avro_event(click: Click) -> dict[str, Any]:
    product = {"product_id": click.item_id, "price": None}
    return {"userId": click.user_id, "product": product, "eventTime": at(click.timestamp), "event": kind(click)}


def avro(registry: Running, topic: str, clicks: list[Click], *more: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """Messages with the schema AVRO and more fields."""
    schema = json.dumps(AVRO | {"fields": [*AVRO["fields"], *more]})
    serialize = AvroSerializer(registry.client(), schema)
    context = SerializationContext(topic, MessageField.VALUE)
    return [(click.user_id.encode(), serialize(avro_event(click), context)) for click in clicks]


def decided(lane: Lane) -> Counter[tuple[str, str, int]]:
    found = [msgspec.json.decode(m.value(), type=Recommendation) for m in lane.read(lane.topics.recommendations)]
    assert all(decision.items for decision in found)
    return Counter((d.user_id, d.item_id, d.timestamp) for d in found)


def as_decided(clicks: list[Click]) -> Counter[tuple[str, str, int]]:
    return Counter((click.user_id, click.item_id, click.timestamp) for click in clicks)


def reasons(lane: Lane) -> Counter[str]:
    return Counter(msgspec.json.decode(m.value(), type=DeadLetter).reason for m in lane.read(lane.topics.dead_letters))


def test_a_topic_in_avro_gets_recommendations_whatever_happens_to_the_registry(
    lane: Lane, registry: Running, tmp_path: Path
) -> None:
    """`eddy init`, a log with this mapping, and a worker; a new schema; a registry that is away when one more comes.

    No click is lost, repeated or refused. A worker that waits for the registry can be stopped, and one that starts
    waits for it too. Messages that are no Avro of a known schema are dead letters. `eddy replay` writes the newest
    schema, which has more fields than the mapping reads.
    """
    topic, first = lane.topics.clicks, CLICKS[:500]
    lane.produce(avro(registry, topic, first))
    where = ("--topic", topic, "--broker", lane.broker)
    found = json.loads(
        eddy(tmp_path, "init", *where, "--schema-registry", registry.url, "--out", "shop.toml", "--json")
    )
    assert (found["events"], found["clicks"], found["dead_letters"]) == (500, 500, {})
    assert found["mapping"]["format"] == "avro"
    with (tmp_path / "events.avro").open("wb") as file:
        fastavro.writer(file, AVRO, map(avro_event, CLICKS))
    log = read_log(tmp_path / "events.avro", mapping=read_mapping(tmp_path / "shop.toml"))
    assert as_decided([click for click, _ in log_clicks(log)]) == as_decided(CLICKS)

    model = with_mapping(lane.model, (tmp_path / "shop.toml").read_text(), tmp_path / "mine" / "1")
    worker = lane.start(model=model, schema_registry=registry.by_proxy)
    lane.wait_until_decided()
    assert decided(lane) == as_decided(first)

    page = {"name": "page", "type": ["null", "string"], "default": None}
    lane.produce(avro(registry, topic, CLICKS[500:600], page))
    lane.wait_until_decided()
    assert decided(lane) == as_decided(CLICKS[:600])

    registry.proxy.close()
    campaign = {"name": "campaign", "type": "int", "default": 0}
    lane.produce(avro(registry, topic, CLICKS[600:700], page, campaign))
    worker.wait_for(SILENT)
    assert worker.end(signal.SIGTERM) == 0
    worker = lane.start(model=model, schema_registry=registry.by_proxy)
    worker.wait_for(SILENT)
    registry.proxy.listen()
    worker.wait_for(BACK)
    lane.wait_until_decided()
    assert decided(lane) == as_decided(CLICKS[:700])
    assert lane.read(lane.topics.dead_letters) == []

    [(key, value)] = avro(registry, topic, CLICKS[700:701])
    other = registry.client().register_schema(f"{lane.name}-other", Schema('{"type": "string"}', "AVRO"))
    bad = {
        "no_schema_id": json.dumps({"userId": key.decode()}).encode(),
        "unknown_schema": b"\0\x7f\xff\xff\xff" + value[5:],
        "not_of_schema": value[:-2],
        "wrong_fields": b"\0" + other.to_bytes(4, "big") + b"\x02x",
    }
    lane.produce([*((key, message) for message in bad.values()), (key, value)])
    lane.wait_until_decided()
    assert reasons(lane) == Counter(dict.fromkeys(bad, 1))
    assert decided(lane) == as_decided(CLICKS[:701])

    with (tmp_path / "later.avro").open("wb") as file:
        fastavro.writer(file, AVRO, map(avro_event, CLICKS[701:]))
    words = ("replay", "later.avro", "--mapping", "shop.toml", "--speed", "max", *where)
    assert "published 199 clicks" in eddy(tmp_path, *words, "--schema-registry", registry.url)
    lane.wait_until_decided()
    assert decided(lane) == as_decided(CLICKS)
    assert reasons(lane) == Counter(dict.fromkeys(bad, 1))


def test_the_commands_of_the_page_make_recommendations_of_a_topic_in_avro(
    lane: Lane, registry: Running, tmp_path: Path
) -> None:
    """`eddy init`, `record`, `train` and `worker` as docs/mapping.md has them; settings name the test's topics.

    No code and no file but those that the commands have written.
    """
    topics = {f"{name}_topic": topic for name, topic in msgspec.structs.asdict(lane.topics).items()}
    settings = {"group": lane.name, **topics}
    environment = {variable(name): str(value) for name, value in settings.items()}
    lane.produce(avro(registry, lane.topics.clicks, CLICKS[:500]))
    [block] = [block for block in blocks(PAGE) if block.language == "sh" and "--schema-registry" in block.text]
    places = {"shop-events": lane.topics.clicks, "localhost:9092": lane.broker, "http://localhost:8081": registry.url}
    text = block.text.replace("eddy train", "eddy train --hidden 8 --epochs 1")
    for shown, here in places.items():
        text = text.replace(shown, here)
    *commands, endless = (shlex.split(line)[1:] for line in text.splitlines())
    assert [words[0] for words in (*commands, endless)] == ["init", "record", "train", "worker"]
    for words in commands:
        eddy(tmp_path, *words, variables=environment)
    manifest = read_manifest(tmp_path / "models" / "mine" / "1")
    assert manifest.mapping == read_mapping(tmp_path / "shop.toml").mapping.hash

    started = lane.start_command(endless, tmp_path, environment)
    started.wait_for("worker ready to join")
    lane.produce(avro(registry, lane.topics.clicks, CLICKS[500:600]))
    lane.wait_until_decided()
    assert decided(lane) == as_decided(CLICKS[:600])
    assert lane.read(lane.topics.dead_letters) == []


# -- Protobuf ---------------------------------------------------------------------------------------------------------

PROTO = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
message Product { string product_id = 1; double price = 2; }
enum Kind { view = 0; cart = 1; purchase = 2; remove = 3; }
message ShopEvent {
  string userId = 1;
  Product product = 2;
  google.protobuf.Timestamp eventTime = 3;
  Kind event = 4;
}
"""


def proto(registry: Running, topic: str, clicks: list[Click]) -> list[tuple[bytes, bytes]]:
    """Messages whose key is a session."""
    pool = descriptor_pool.DescriptorPool()
    for file in _compiled({MAIN: PROTO}):
        pool.Add(file)
    make = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.ShopEvent"))
    serialize = ProtobufSerializer(make, registry.client())
    context = SerializationContext(topic, MessageField.VALUE)
    kinds = (*KINDS, "remove")
    messages = []
    for n, click in enumerate(clicks):
        event = make(userId=click.user_id, product={"product_id": click.item_id}, event=kinds.index(kind(click)))
        event.eventTime.FromMilliseconds(click.timestamp)
        messages.append((f"session {n % 7}".encode(), serialize(event, context)))
    return messages


def as_text(registry: Running, lane: Lane, messages: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The messages by another schema, which was registered as the text of a .proto file, as Java's producers do."""
    schema = registry.client().register_schema(f"{lane.name}-text", Schema(PROTO, "PROTOBUF"))
    return [(key, b"\0" + schema.to_bytes(4, "big") + value[5:]) for key, value in messages]


def with_mapping(model: Path, text: str, directory: Path) -> Path:
    """A copy of a model that was trained with this mapping."""
    shutil.copytree(model, directory)
    manifest = read_manifest(model)
    (directory / "mapping.toml").write_text(text)
    fields = {name: getattr(manifest, name) for name in manifest.__struct_fields__}
    fields["files"] = {**manifest.files, "mapping.toml": sha256(directory / "mapping.toml")}
    write_manifest(directory, Manifest(**{**fields, "mapping": parse_mapping(text, "test").hash}))
    return directory


def test_a_topic_in_protobuf_with_other_keys_is_rekeyed_and_gets_recommendations(
    lane: Lane, registry: Running, tmp_path: Path
) -> None:
    """One half of the messages has a schema that was registered as a descriptor, the other half one as text.

    The re-keying waits for the registry as the worker does. `eddy replay` writes the same format.
    """
    clicks = CLICKS[:300]
    messages = proto(registry, lane.topics.clicks, clicks)
    lane.produce([*messages[:150], *as_text(registry, lane, messages[150:])])
    where = ("--topic", lane.topics.clicks, "--broker", lane.broker)
    found = json.loads(
        eddy(tmp_path, "init", *where, "--schema-registry", registry.url, "--out", "shop.toml", "--json")
    )
    assert (found["clicks"], found["dead_letters"]) == (300, {})
    assert (found["mapping"]["format"], found["mapping"]["rekey"]) == ("protobuf", True)
    worked = RekeyedLane(lane.broker, lane.name, lane.model, lane.directory, workers=lane.workers)
    names = msgspec.structs.asdict(lane.topics).items()
    flags = [word for name, topic in names for word in (f"--{name.replace('_', '-')}-topic", topic)]
    eddy(tmp_path, "topics", "create", "--broker", lane.broker, "--mapping", "shop.toml", *flags)

    model = with_mapping(lane.model, (tmp_path / "shop.toml").read_text(), tmp_path / "mine" / "1")
    worker = worked.start(model=model, schema_registry=registry.by_proxy)
    worker.wait_for("worker ready to join")
    registry.proxy.close()
    worker.wait_for("worker ready")
    registry.proxy.listen()
    worked.wait_until_decided()
    assert decided(lane) == as_decided(clicks)

    later = [{**avro_event(click), "eventTime": click.timestamp} for click in CLICKS[300:400]]
    (tmp_path / "later.jsonl").write_text("".join(json.dumps(event) + "\n" for event in later))
    words = ("replay", "later.jsonl", "--mapping", "shop.toml", "--speed", "max", *where)
    assert "published 100 clicks" in eddy(tmp_path, *words, "--schema-registry", registry.url)
    worked.wait_until_decided()
    assert decided(lane) == as_decided(CLICKS[:400])
    assert lane.read(lane.topics.dead_letters) == []


def test_a_worker_without_a_usable_registry_says_what_to_do(lane: Lane, registry: Running, tmp_path: Path) -> None:
    """No --schema-registry, or an address at which there is none."""
    text = '[fields]\nuser_id = "u"\nitem_id = "i"\ntimestamp = "t"\n[message]\nformat = "avro"\n'
    model = with_mapping(lane.model, text, tmp_path / "mine" / "1")
    nowhere = registry.url.replace("/apis", "/nowhere")
    workers = [lane.start(model=model), lane.start(model=model, schema_registry=nowhere)]
    for worker, why in zip(workers, ("give --schema-registry", "is no Schema Registry"), strict=True):
        assert worker.process.wait(timeout=60) == 2
        assert why in worker.log.strip().splitlines()[-1]


def test_a_registry_with_tls_needs_the_authority_that_signed_its_certificate(
    registry: Running, certificates: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With another one, and with that of the system, the error is one line with the property to set."""
    path = tmp_path / "client.properties"
    number = registry.client().register_schema("tls", Schema('"string"', "AVRO"))
    path.write_text(f"schema.registry.ssl.ca.location={certificates / 'ca.pem'}")
    trusted = Registry(registry.tls, read_kafka_config(str(path), {}))
    trusted.check()
    assert json.loads(trusted.schema(number).text) == "string"
    assert trusted.register("tls", '"string"') == number
    for text in (f"schema.registry.ssl.ca.location={certificates / 'other.pem'}", ""):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"not trusted \(.*\); check schema.registry.ssl.ca.location") as refusal:
            Registry(registry.tls, read_kafka_config(str(path), {})).check()
        assert "\n" not in str(refusal.value)
    assert caplog.text == ""
