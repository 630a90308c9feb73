"""An existing topic, unchanged: from `eddy init` to recommendations, by the commands that a user types."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import pytest

from stream.access.messages import read_messages
from stream.demo.shop import build_shop
from stream.demo.simulate import simulate_clean
from stream.events import Click, Recommendation
from stream.manifest import read_manifest
from stream.mapping.parse import read_mapping
from tests.changed_model import with_mapping
from tests.kafka.lane import Lane
from tests.kafka.test_rekey import RekeyedLane

CLICKS = 1_200
START_MS = 1_735_689_600_000


class Shape(NamedTuple):
    """How a shop writes its events.

    message  a click as the shop's message
    noise    what else is on the topic, by a number: no clicks
    log      writes the same events to a file of the shop, in a directory; None = `eddy record` writes one
    key      the key of a click's message; the topic is re-keyed if it is not the user
    headers  of a click's message
    """

    message: Callable[[Click], dict[str, Any]]
    noise: Callable[[int], tuple[bytes | None, dict[str, Any]]] | None
    log: Callable[[list[Click], Path], Path] | None
    key: Callable[[Click], bytes] = lambda click: click.user_id.encode()
    headers: Callable[[Click], dict[str, bytes]] = lambda click: {}


# -- RetailRocket: flat, other names, other types ---------------------------------------------------------------------

THEIRS = {"view": "view", "cart": "addtocart", "purchase": "transaction"}


def retailrocket(click: Click) -> dict[str, Any]:
    bought = int(click.timestamp % 10_000) if click.event_type == "purchase" else None
    return {
        "timestamp": click.timestamp,
        "visitorid": click.user_id,
        "event": THEIRS.get(click.event_type, click.event_type),
        "itemid": click.item_id,
        "transactionid": bought,
    }


def as_csv(clicks: list[Click], directory: Path) -> Path:
    path = directory / "events.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(retailrocket(clicks[0])))
        writer.writeheader()
        writer.writerows(map(retailrocket, clicks))
    return path


# -- Segment: nested, ISO 8601, an anonymous id until there is a user id ----------------------------------------------

NAMES = {"view": "Product Viewed", "cart": "Product Added", "purchase": "Order Completed"}


def segment(click: Click) -> dict[str, Any]:
    known = int(click.user_id.rpartition("-")[2]) % 3 > 0
    product = {"product_id": click.item_id, "category": click.category, "price": click.price}
    return {
        "type": "track",
        "userId": click.user_id if known else None,
        "anonymousId": f"anonymous {click.user_id}" if known else click.user_id,
        "event": NAMES.get(click.event_type, click.event_type),
        "messageId": f"m-{click.user_id}-{click.timestamp}",
        "properties": {name: value for name, value in product.items() if value is not None},
        "timestamp": iso(click.timestamp),
        "context": {"library": {"name": "analytics.js"}, "page": {"path": f"/p/{click.item_id}"}},
    }


def iso(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"


def page(n: int) -> tuple[bytes | None, dict[str, Any]]:
    """A view of a page without a product, without a key every second time."""
    event = {
        "type": "page",
        "userId": None,
        "anonymousId": f"visitor {n}",
        "messageId": f"p-{n}",
        "properties": {"path": "/", "title": "Home"},
        "timestamp": iso(START_MS + n),
    }
    return None if n % 2 else f"visitor {n}".encode(), event


def session(click: Click) -> bytes:
    """The id of a user's session of this hour."""
    return f"s-{click.timestamp // 3_600_000}-{click.user_id[::-1]}".encode()


def as_json(clicks: list[Click], directory: Path) -> Path:
    path = directory / "events.jsonl"
    events = [json.dumps(segment(click)) for click in clicks]
    events[10:10] = [json.dumps(page(n)[1]) for n in range(50)]
    path.write_text("\n".join(events) + "\n")
    return path


# -- CloudEvents in binary mode: type, time and id of the event are headers --------------------------------------------


def data(click: Click) -> dict[str, Any]:
    return {"userId": click.user_id, "productId": click.item_id, "price": click.price, "category": click.category}


def attributes(click: Click) -> dict[str, bytes]:
    found = {
        "specversion": "1.0",
        "id": f"{click.user_id}/{click.timestamp}",
        "source": "/web",
        "type": NAMES.get(click.event_type, click.event_type),
        "time": iso(click.timestamp),
    }
    others = {"content-type": b"application/json", "traceparent": b"00-0af7651916cd43dd-01", "raw": b"\xff"}
    return {f"ce_{name}": text.encode() for name, text in found.items()} | others | {"timestamp": b"1"}


SHAPES = {
    "retailrocket": Shape(retailrocket, None, as_csv),
    "segment": Shape(segment, page, as_json, session),
    "cloudevents": Shape(data, None, None, session, attributes),
    "cloudevents-by-user": Shape(data, None, None, headers=attributes),
}


def eddy(directory: Path, *words: object, variables: Mapping[str, str] = MappingProxyType({})) -> str:
    """What a command printed that must succeed. `variables` are all that it has of Eddy's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EDDY_")} | dict(variables)
    command = [sys.executable, "-m", "stream.ops.cli", *map(str, words)]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_last_messages_of_a_topic_are_read(lane: Lane) -> None:
    """As many of each partition as it has of all, up to its end; all of them if the topic is shorter."""
    lane.produce((b"user %d" % (n % 50), b"%d" % n) for n in range(2_000))
    ends = {message.partition(): message.offset() for message in lane.read(lane.topics.clicks)}
    found = list(read_messages(lane.broker, lane.topics.clicks, last=100))
    assert 100 <= len(found) < 100 + lane.partitions
    for partition, end in ends.items():
        offsets = [message.offset() for message in found if message.partition() == partition]
        assert offsets == list(range(end + 1 - len(offsets), end + 1))
        assert abs(len(offsets) - (end + 1) / 20) <= 1
    assert len(list(read_messages(lane.broker, lane.topics.clicks, last=5_000))) == 2_000
    assert list(read_messages(lane.broker, lane.topics.anomalies, last=5)) == []


@pytest.mark.parametrize("name", SHAPES)
def test_a_topic_of_another_shape_gets_recommendations(lane: Lane, tmp_path: Path, name: str) -> None:
    """`eddy init` on the topic, `eddy train` on a file of the same shape, and a worker without --mapping.

    Each click has one decision with items of the shop, nothing is a dead letter, and what is no click has no decision.
    Some topics are keyed by the user, the others by the session.
    The same file serves evaluate and replay, and another one is refused.
    """
    shape = SHAPES[name]
    clicks = [simulated.click for simulated in islice(simulate_clean(build_shop(), 40, 1, START_MS), CLICKS)]
    messages = [(shape.key(click), json.dumps(shape.message(click)).encode(), shape.headers(click)) for click in clicks]
    noise = (
        [] if shape.noise is None else [(key, json.dumps(event).encode()) for key, event in map(shape.noise, range(60))]
    )
    lane.produce([*messages[:500], *noise, *messages[500:]])

    printed = eddy(
        tmp_path, "init", "--topic", lane.topics.clicks, "--broker", lane.broker, "--out", "shop.toml", "--json"
    )
    found = json.loads(printed)
    assert (found["events"], found["clicks"], found["dead_letters"]) == (CLICKS + len(noise), CLICKS, {})
    assert sum(found["dropped"].values()) == len(noise)
    shown = eddy(tmp_path, "init", "--topic", lane.topics.clicks, "--broker", lane.broker, "--out", "again.toml")
    assert f"Next: eddy record events.jsonl --topic {lane.topics.clicks} --broker {lane.broker} " in shown
    rekeys = shape.key is session
    assert (found["mapping"]["key"], found["mapping"]["rekey"]) == (("other", True) if rekeys else ("user_id", False))
    worked: Lane = lane
    if rekeys:
        worked = RekeyedLane(lane.broker, lane.name, lane.model, lane.directory, workers=lane.workers)
        names = [
            (f"--{name.replace('_', '-')}-topic", topic) for name, topic in msgspec.structs.asdict(lane.topics).items()
        ]
        flags = [word for name in names for word in name]
        eddy(tmp_path, "topics", "create", "--broker", lane.broker, "--mapping", "shop.toml", *flags)

    if shape.log is not None:
        log = shape.log(clicks, tmp_path)
    else:
        log, topic = tmp_path / "recorded.jsonl", ("--topic", lane.topics.clicks, "--broker", lane.broker)
        eddy(tmp_path, "record", log, *topic, "--mapping", "shop.toml")
    small = ("--hidden", 8, "--epochs", 1)
    eddy(tmp_path, "train", log, "--mapping", "shop.toml", "--out", "models/mine/1", *small)
    model = tmp_path / "models" / "mine" / "1"
    mapping = read_mapping(tmp_path / "shop.toml").mapping
    manifest = read_manifest(model)
    assert manifest.mapping == mapping.hash
    assert set(manifest.event_types) <= {"view", "cart", "purchase", *{click.event_type for click in clicks}}
    figures = json.loads(eddy(tmp_path, "evaluate", model, log, "--json"))
    assert figures["clicks"] == CLICKS

    worker = worked.start(model=model)
    worked.wait_until_decided()
    assert f"mapping={model / 'mapping.toml'}" in worker.log
    decisions = [msgspec.json.decode(m.value(), type=Recommendation) for m in lane.read(lane.topics.recommendations)]
    assert sorted((d.user_id, d.item_id, d.timestamp) for d in decisions) == sorted(
        (click.user_id, click.item_id, click.timestamp) for click in clicks
    )
    shop = {click.item_id for click in clicks}
    assert all(decision.items and set(decision.items) <= shop for decision in decisions)
    assert lane.read(lane.topics.dead_letters) == []

    broker = ("--broker", lane.broker, "--topic", lane.topics.clicks, "--speed", "max")
    sent = json.loads(eddy(tmp_path, "replay", log, "--mapping", "shop.toml", *broker, "--json"))
    assert (sent["clicks"], sent["left_out"]) == (CLICKS, {})
    worked.wait_until_decided()
    assert len(lane.read(lane.topics.recommendations)) == 2 * CLICKS
    assert lane.read(lane.topics.dead_letters) == []

    other = tmp_path / "other.toml"
    other.write_text((tmp_path / "shop.toml").read_text() + "\n[defaults]\nquantity = 1\n")
    refused = lane.start(model=model, mapping=other)
    assert refused.process.wait(timeout=60) == 2
    [line] = refused.log.strip().splitlines()
    assert f"mapping {other} is not the one that model mine/1 was trained with" in line


MISTYPED = """
[fields]
user_id = "who.id"
item_id = "properties.product_id"
timestamp = "at"
category = "properties.categry"
"""


def test_a_mistyped_path_is_reported_once_and_a_dead_letter_names_the_path(lane: Lane, tmp_path: Path) -> None:
    """Who writes the messages knows nothing of Eddy's names. The path of an optional field has no dead letters."""

    def message(n: int, **product: str) -> tuple[bytes, bytes]:
        user, properties = f"u{n % 50}", {**product, "category": "boots"}
        event = {"who": {"id": user}, "properties": properties, "at": START_MS + n * 1_000}
        return user.encode(), json.dumps(event).encode()

    lane.produce([*(message(n, product_id=f"i{n % 300}") for n in range(1_100)), message(1_100)])
    model = with_mapping(lane.model, tmp_path / "random" / "1", MISTYPED)
    worker = lane.start(model=model, max_cycle_clicks=50)
    lane.wait_for_clicks()
    [letter] = [msgspec.json.decode(m.value()) for m in lane.read(lane.topics.dead_letters)]
    assert letter["detail"] == "item_id (properties.product_id) is missing or empty"
    found = "paths: category at properties.categry (the nearest path with values: properties.category); if a path"
    worker.wait_for(found)
    lane.produce(message(n, product_id=f"i{n % 300}") for n in range(1_101, 2_500))
    lane.wait_for_clicks()
    assert worker.log.count("no click has a value") == 1
