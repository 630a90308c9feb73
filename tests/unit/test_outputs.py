"""The published JSON Schemas and Avro schemas are those of this version."""

import json
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import jsonschema
import msgspec
import pytest
from click.testing import CliRunner
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from stream.behaviour import Behaviour
from stream.events import Anomaly, DeadLetter, Recommendation, Session, SystemAlert
from stream.feedback import Feedback
from stream.outputs import IN_AVRO, OUTPUTS, avro_schema, columns, flat_avro_schema, flat_values, json_schema
from stream.places import parquet, postgres, redis
from stream.sinks.command import schema as schema_command
from stream.sinks.command import sink
from stream.trigger import Trigger
from tests.docs.blocks import ROOT

PUBLISHED = ROOT / "docs" / "schemas"


@pytest.mark.parametrize("name", OUTPUTS)
def test_the_published_schema_is_current(name: str) -> None:
    """`eddy schema NAME > docs/schemas/NAME.json` writes it again."""
    printed = CliRunner().invoke(schema_command, [name]).output
    assert (PUBLISHED / f"{name}.json").read_text() == printed
    jsonschema.Draft202012Validator.check_schema(json.loads(printed))


@pytest.mark.parametrize("name", IN_AVRO)
def test_the_published_avro_schema_is_current(name: str) -> None:
    """`eddy schema --avro NAME > docs/schemas/NAME.avsc` writes it again."""
    printed = CliRunner().invoke(schema_command, ["--avro", name]).output
    assert (PUBLISHED / f"{name}.avsc").read_text() == printed
    parse_schema(json.loads(printed))


def test_there_are_no_others() -> None:
    """A schema of each output, and none that is left of an earlier version."""
    published = {f"{name}.json" for name in OUTPUTS} | {f"{name}.avsc" for name in IN_AVRO}
    assert {path.name for path in PUBLISHED.iterdir()} == published
    of_workers = [Recommendation, Anomaly, SystemAlert, Session, DeadLetter, Feedback, Trigger, Behaviour]
    assert list(OUTPUTS.values()) == of_workers
    assert json.loads(CliRunner().invoke(schema_command, []).output) == {name: json_schema(name) for name in OUTPUTS}
    assert json.loads(CliRunner().invoke(schema_command, ["--avro"]).output) == {
        name: avro_schema(name) for name in IN_AVRO
    }
    refused = CliRunner().invoke(schema_command, ["--avro", "dead-letters"])
    assert "dead-letters has no Avro schema" in refused.output


@pytest.mark.parametrize(
    "change", [{"user_id": None}, {"timestamp": "now"}, {"items": [1]}, {"p_value": "small"}], ids=str
)
def test_a_schema_refuses_what_is_no_output(change: dict[str, object]) -> None:
    """Of the wrong type, or missing."""
    good = {
        "id": "c-0-1", "user_id": "u", "item_id": "i", "timestamp": 1, "items": [], "log_probs": [], "surprise": 1.0,
        "p_value": 1.0, "model": "m/1", "of_a_later_version": True,
    }  # fmt: skip
    validator = jsonschema.Draft202012Validator(json_schema("recommendations"))
    assert validator.is_valid(good)
    assert not validator.is_valid(good | change)
    assert not validator.is_valid({name: value for name, value in good.items() if name not in change})


DECISION: dict[str, Any] = {
    "id": "c-0-1", "user_id": "ü", "item_id": "i", "timestamp": 1_735_689_602_600, "items": ["a", "b"],
    "log_probs": [-1.5, -2.0], "surprise": 1.25, "p_value": 1.0, "model": "m/1",
}  # fmt: skip
ALERT: dict[str, Any] = {
    "id": "c-0-1", "user_id": "ü", "item_id": "i", "event_type": "view", "timestamp": 1_735_689_602_600,
    "episode": "c-0-0", "reason": "many", "surprise": 9.5, "p_value": 1e-5, "score": 5.0, "threshold": 1e-4,
    "statistics": {"twins": 1e-5}, "pool": "4 clicks", "pool_size": 900,
    "expected": [{"item_id": "i2", "probability": 0.5}], "model": "m/1",
}  # fmt: skip
SYSTEM_ALERT: dict[str, Any] = {
    "id": "c-0-1", "episode": "c-0-1", "phase": "closed", "partition": 0, "sign": "drift", "timestamp": 1,
    "reason": "over", "users": 7, "usual_share": 0.25, "model": "m/1",
}  # fmt: skip
SESSION: dict[str, Any] = {
    "id": "c-0-1", "user_id": "u", "phase": "closed", "timestamp": 3, "started": 1, "clicks": 2,
    "events": {"view": 2}, "model": "m/1", "path": [{"event_type": "view", "clicks": 2}], "reached_ms": {"view": 0},
    "items": 1, "categories": 1,
}  # fmt: skip
TRIGGER: dict[str, Any] = {
    "id": "c-0-1:cart", "user_id": "u", "rule": "cart", "kind": "after", "timestamp": 1, "group": "treated",
    "items": ["a"], "reason": "cart of a", "model": "m/1", "not_before": 1_735_689_602_600,
}  # fmt: skip
HOUR: dict[str, Any] = {
    "id": "c-0/1735689600000", "partition": 0, "hour": 1_735_689_600_000, "clicks": 3, "users": 1, "opened": 1,
    "closed": 0, "events": {"view": 3}, "reached": {"view": 1},
    "transitions": {"(start)": {"view": 1}, "view": {"view": 2}}, "model": "m/1",
}  # fmt: skip
MISSING: dict[str, dict[str, Any]] = {
    "recommendations": {
        "propensities": None, "explored": None, "items_cut": 0, "superseded_by": None, "next": None, "leaves": None,
        "returns_7d": None, "intent": None,
    },
    "anomalies": {"expected_cut": 0, "part_of": None},
    "system-alerts": dict.fromkeys(("of_users", "p_value", "item_id", "event_type", "alerts")),
    "sessions": {
        "revision": 0, "unknown_events": 0, "p_value": None, "intent_first": None, "intent_highest": None,
        "intent_last": None, "returns_7d": None, "path_cut": 0, "value": None, "alerts": 0,
    },
    "triggers": {},
    "behaviour": {},
}  # fmt: skip


MESSAGES = {
    "recommendations": DECISION,
    "anomalies": ALERT,
    "system-alerts": SYSTEM_ALERT,
    "sessions": SESSION,
    "triggers": TRIGGER,
    "behaviour": HOUR,
}


def test_every_place_has_room_for_what_is_copied() -> None:
    """Redis a key, PostgreSQL a primary key, and PostgreSQL and Parquet a type for each column."""
    assert set(IN_AVRO) == redis.WORDS.keys() == postgres.PRIMARY.keys()
    for name in IN_AVRO:
        kinds = {column.kind for column in columns(OUTPUTS[name])}
        assert kinds <= postgres.TYPES.keys()
        assert kinds <= parquet.TYPES.keys()


@pytest.mark.parametrize("name", IN_AVRO)
def test_a_message_is_the_same_in_avro(name: str) -> None:
    """What the message does not have is the default of the schema, so that a reader has a value of each field."""
    message = MESSAGES[name]
    event = msgspec.convert(message, OUTPUTS[name])
    parsed, out = parse_schema(avro_schema(name)), BytesIO()
    schemaless_writer(out, parsed, msgspec.to_builtins(event))
    out.seek(0)
    found = schemaless_reader(out, parsed, None)
    times = {field: at(message[field]) for field in ("timestamp", "started", "not_before", "hour") if field in message}
    assert found == message | MISSING[name] | times


IN_A_COLUMN = ("string", "long", "double", "boolean", {"type": "long", "logicalType": "timestamp-millis"})
"""The types that a connector which writes rows takes, each of them also with null."""


@pytest.mark.parametrize("name", IN_AVRO)
def test_a_flat_message_has_a_column_type_for_each_field(name: str) -> None:
    """What is nested is a text with its JSON. The fields and what is missing are as in the other schema."""
    schema = flat_avro_schema(name)
    assert [field["name"] for field in schema["fields"]] == [field["name"] for field in avro_schema(name)["fields"]]
    for field in schema["fields"]:
        kind = field["type"]
        assert (kind[1] if isinstance(kind, list) and kind[0] == "null" else kind) in IN_A_COLUMN, field["name"]
    message, parsed, out = MESSAGES[name], parse_schema(schema), BytesIO()
    schemaless_writer(out, parsed, flat_values(msgspec.convert(message, OUTPUTS[name])))
    out.seek(0)
    found = schemaless_reader(out, parsed, None)
    times = {field: at(message[field]) for field in ("timestamp", "started", "not_before", "hour") if field in message}
    nested = {field for field, value in message.items() if isinstance(value, list | dict)}
    unpacked = {field: json.loads(value) if field in nested else value for field, value in found.items()}
    assert unpacked == message | MISSING[name] | times
    printed = CliRunner().invoke(schema_command, ["--avro", "--flat", name]).output
    assert json.loads(printed) == schema


def test_only_avro_is_flat() -> None:
    """The messages in JSON are as they are."""
    assert "--flat is for --avro" in CliRunner().invoke(schema_command, ["--flat", "anomalies"]).output


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


def test_an_output_without_a_topic_is_copied_only_with_its_name() -> None:
    """Only the workers' --behaviour-topic has it, and no default."""
    to = ("avro", "--schema-registry", "http://localhost:1", "--topics", "behaviour")
    refused = CliRunner().invoke(sink, to)
    assert str(refused.exception) == "the topic of behaviour has no name; give --behaviour-topic as the workers have it"
