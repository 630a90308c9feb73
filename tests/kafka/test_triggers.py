"""Triggers, and what users do by the hour, on a real Kafka: each one once, also where a worker is killed."""

import json
import signal
from collections import defaultdict
from operator import itemgetter

import msgspec
from click.testing import CliRunner
from confluent_kafka import Message

from stream.kafka.topics import create_topics
from stream.manifest import read_manifest
from stream.uplift.command import triggers as commands
from tests.kafka.lane import DAY_MS, NOW_MS, Lane, assert_valid
from tests.oracle_hours import Hours
from tests.oracle_triggers import Event, Triggers

FILE = """
[[trigger]]
name = "cart"
kind = "abandoned"
has = ["cart"]
without = ["purchase"]
cooldown = "3h"
consent = true
control = 0.3

[[trigger]]
name = "back"
kind = "away"
after = "5h"
cooldown = "1d"

[[trigger]]
name = "more"
kind = "after"
events = ["purchase"]
cooldown = "0s"

[[trigger]]
name = "cheaper"
kind = "price_drop"
over = "1d"
least = 1
cooldown = "6h"
"""
H = 3_600_000
RULES = [
    {
        "name": "cart", "kind": "abandoned", "has": ["cart"], "without": ["purchase"], "cooldown": 3 * H,
        "consent": True, "control": 0.3,
    },
    {"name": "back", "kind": "away", "after": 5 * H, "cooldown": 24 * H, "consent": False, "control": 0.0},
    {"name": "more", "kind": "after", "events": ["purchase"], "cooldown": 0, "consent": False, "control": 0.0},
    {
        "name": "cheaper", "kind": "price_drop", "drop": 0.05, "over": 24 * H, "least": 1, "events": [], "without": [],
        "most": 10_000, "cooldown": 6 * H, "consent": False, "control": 0.0,
    },
]  # fmt: skip


def events(count: int) -> list[Event]:
    """Clicks of 60 users over two days. Half of them are away twice for half a day."""
    found = []
    for n in range(count):
        user = (n * 7 + n // 60) % (60 if 4 * n // count % 2 == 0 else 30)
        event = {
            "user_id": f"user{user}",
            "item_id": f"i{n * 11 % 320}",
            "event_type": ("view", "cart", "view", "view", "view", "purchase")[(n + n // 13) % 6],
            "timestamp": NOW_MS + n * (2 * DAY_MS // count),
            "price": (89.9, 79.95, 69.9)[8 * n // count % 3],
        }
        found.append(event | ({"consent": n % 5 > 0} if n % 3 == 0 else {}))
    return found


def _assert_hours(messages: list[Message], loops: list[Hours]) -> None:
    """Those of a plain loop over the clicks of each partition, each once."""
    assert_valid("behaviour", messages)
    found = [json.loads(message.value()) for message in messages]
    assert [message.key() for message in messages] == [one["id"].encode() for one in found]
    expected = [one for loop in loops for one in loop.messages()]
    assert len(expected) > 20 * len(loops)
    assert sorted(found, key=itemgetter("id")) == sorted(expected, key=itemgetter("id"))


def test_each_trigger_and_each_hour_is_there_once_after_a_worker_was_killed(lane: Lane) -> None:
    """Those of a plain loop over the clicks of each partition, in its order: the cooldowns and the counts of the open
    hour were in the changelog."""
    file = lane.directory / "triggers.toml"
    file.write_text(FILE)
    sent = events(3_000)
    lane.produce([(one["user_id"].encode(), msgspec.json.encode(one)) for one in sent])
    hours = f"{lane.name}-hours"
    create_topics(lane.broker, msgspec.structs.replace(lane.topics, behaviour=hours), lane.partitions, 1)
    options = {"triggers": file, "behaviour_topic": hours, "worker_id": 0, "max_cycle_clicks": 50}
    killed = lane.start(**options)
    lane.wait_for_clicks(0.3)
    killed.end(signal.SIGKILL)
    lane.start(**options)
    lane.wait_for_clicks()

    loops: dict[int, Triggers] = {}
    manifest = read_manifest(lane.model)
    types = list(manifest.event_types)
    counted: dict[int, Hours] = {}
    for message in sorted(lane.read(lane.topics.clicks), key=lambda m: (m.partition(), m.offset())):
        prefix = f"{message.topic()}-{message.partition()}-"
        loop = loops.setdefault(message.partition(), Triggers(prefix, RULES, 90 * DAY_MS))
        one = json.loads(message.value())
        item = one["item_id"] if int(one["item_id"][1:]) < 300 else "unknown"
        told = None, one.get("consent"), one["price"]
        loop.click(one["user_id"], message.offset(), one["timestamp"], one["event_type"], item, *told)
        of_hour = Hours(f"{message.topic()}-{message.partition()}", types, manifest.label, 90 * DAY_MS)
        counted.setdefault(message.partition(), of_hour).click(one["user_id"], one["timestamp"], one["event_type"])
    _assert_hours(lane.read(hours), list(counted.values()))
    messages = lane.read(lane.topics.triggers)
    assert_valid("triggers", messages)
    found: dict[str, list[Event]] = defaultdict(list)
    for message in messages:
        one = json.loads(message.value())
        assert message.key() == one["user_id"].encode()
        found[one["user_id"]].append(one)
    wanted: dict[str, list[Event]] = defaultdict(list)
    for loop in loops.values():
        for one in loop.events:
            wanted[one["user_id"]].append(one)
    assert {rule for of_user in wanted.values() for rule in (one["rule"] for one in of_user)} == {
        "cart",
        "back",
        "more",
        "cheaper",
    }
    for user in {*found, *wanted}:
        assert [one["id"] for one in found[user]] == [one["id"] for one in wanted[user]]
        for one, expected in zip(found[user], wanted[user], strict=True):
            assert {name: one[name] for name in expected if name != "reason"} == {
                name: value for name, value in expected.items() if name not in ("reason",)
            }

    names = ["--triggers-topic", lane.topics.triggers, "--sessions-topic", lane.topics.sessions, "--json"]
    done = CliRunner().invoke(commands, ["report", "--broker", lane.broker, "--triggers", str(file), *names])
    assert done.exit_code == 0, done.output
    report = json.loads(done.output.splitlines()[-1])
    for rule, found_of in report.items():
        users = {one["user_id"] for of_user in wanted.values() for one in of_user if one["rule"] == rule}
        assert found_of["treated"] + found_of["control"] + found_of["waiting"] == len(users)
    assert set(report) == {"cart", "back", "more", "cheaper"}
