"""What a worker makes of messages that a mapping reads, leaves out or refuses."""

import json
from base64 import b64decode
from collections.abc import Sequence
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from stream.engine.engine import Engine
from stream.events import DeadLetter, Partition, Recommendation
from stream.kafka.changelog import POSITION_KEY, Mark
from stream.kafka.consumer.fetch import Chunk
from stream.log_lines import hashed
from stream.mapping.mapping import ClickMapping
from stream.mapping.parse import parse_mapping
from stream.mapping.shape import message_shape
from stream.meter import Meter, Snapshot
from stream.model.runtime import load_model
from stream.settings import Topics
from stream.web.health import Health
from stream.web.metrics import exposition, registry
from stream.wire.codec import Codec
from stream.wire.json import JsonCodec
from stream.wire.pseudonym import PseudonymousCodec, Pseudonyms
from stream.worker.cycles.batch import Batch
from stream.worker.observe import Observed
from stream.worker.served import open_engine
from stream.worker.status import status_line
from tests.decide import batched

NOW_MS = 1_700_000_000_000
CLICKS_0 = Partition("clicks", 0)
TOPICS = Topics()
MAPPING = """
[fields]
user_id = ["userId", "anonymousId"]
item_id = "product.id"
timestamp = "time"
event_type = "event"
[event_types]
"Product Viewed" = "view"
[events]
drop = ["identify"]
drop_without = ["item_id"]
"""


@pytest.fixture
def mapping() -> ClickMapping:
    return parse_mapping(MAPPING, "shop.toml")


@pytest.fixture
def engine(model_dir: Any) -> Engine:
    return open_engine(load_model(model_dir, "cpu"), model_dir, 5, 1, 0.001)


def event(user: str | None, item: str | None, kind: str = "Product Viewed", **more: Any) -> tuple[bytes | None, bytes]:
    fields = {"userId": user, "event": kind, "time": NOW_MS, "product": {"id": item}, **more}
    return None if user is None else user.encode(), json.dumps(fields).encode()


MESSAGES = [
    event("u1", "i1"),
    event(None, None, "page"),
    event("u2", None, "page"),
    event("u2", "i2", "identify"),
    event("u2", "i2", time="later"),
    (None, event("u2", "i2", "page")[1]),
    event("u2", "i2"),
    event("u1", None),
]
"""Two clicks, four messages that the mapping leaves out, a time that is none, and a click without a key."""


def worked(
    engine: Engine, codec: Codec, messages: list[tuple[bytes | None, bytes]], headers: Sequence[Any] = ()
) -> tuple[list[Chunk], Batch]:
    """headers: of each message; none = no message has one"""
    records = [
        SimpleNamespace(offset=n, key=key, value=value, timestamp=NOW_MS, headers=pairs)
        for n, ((key, value), pairs) in enumerate(zip_longest(messages, headers, fillvalue=()))
    ]
    chunks = [Chunk(CLICKS_0, 1, 0, len(records), 0, records, 0)]
    limits = dict.fromkeys(msgspec.structs.astuple(TOPICS), 1_000_000)
    return chunks, batched(engine, codec, TOPICS, limits, chunks, {CLICKS_0: 0}, NOW_MS)


@pytest.mark.parametrize("pseudonymous", [False, True])
def test_what_the_mapping_leaves_out_moves_the_offset_and_leaves_nothing(
    engine: Engine, mapping: ClickMapping, pseudonymous: bool
) -> None:
    """No decision, no dead letter and no row; the mark of the partition is that of its clicks."""
    codec: Codec = JsonCodec(65_536, 0, message_shape(mapping.of_topic()))
    if pseudonymous:
        codec = PseudonymousCodec(codec, Pseudonyms(b"0123456789abcdef"))
    _, batch = worked(engine, codec, MESSAGES)
    by_topic: dict[str, list[Any]] = {}
    for record in batch.records:
        by_topic.setdefault(record.topic, []).append(record)
    decisions = [msgspec.json.decode(record.value, type=Recommendation) for record in by_topic[TOPICS.recommendations]]
    letters = [msgspec.json.decode(record.value, type=DeadLetter) for record in by_topic[TOPICS.dead_letters]]
    assert [(decision.id, decision.item_id) for decision in decisions] == [
        ("clicks-0-0@tiny/1", "i1"),
        ("clicks-0-6@tiny/1", "i2"),
    ]
    assert [(letter.id, letter.reason) for letter in letters] == [
        ("clicks-0-4", "bad_timestamp"), ("clicks-0-5", "empty_key"),
    ]  # fmt: skip
    assert batch.offsets == {CLICKS_0: 8}
    rows = {record.key: record.value for record in by_topic[TOPICS.changelog]}
    mark = Mark.decode(rows.pop(POSITION_KEY), CLICKS_0)
    assert (mark.next, mark.users, len(rows)) == (8, 2, 2)
    assert {origin.offset: why for origin, why in batch.dropped.items()} == {
        1: "no_value", 2: "no_value", 3: "event_type", 7: "no_value",
    }  # fmt: skip


HEADERS = MAPPING.replace('event_type = "event"', 'event_type = "$headers.ce_type"')
VIEW = (("ce_type", b"Product Viewed"), ("trace", b"1"))


@pytest.mark.parametrize("pseudonymous", [False, True])
def test_values_in_headers_are_read_and_stay_with_a_dead_letter(engine: Engine, pseudonymous: bool) -> None:
    """So a dead letter that is published again is the click that it was meant to be."""
    shape = message_shape(parse_mapping(HEADERS, "shop.toml").of_topic())
    codec: Codec = JsonCodec(65_536, 0, shape)
    if pseudonymous:
        codec = PseudonymousCodec(codec, Pseudonyms(b"0123456789abcdef"))
    messages = [event("u1", "i1"), event("u2", "i2"), event("u2", "i2", time="later")]
    _, batch = worked(engine, codec, messages, [VIEW, (("ce_type", b"identify"),), VIEW])
    records = {record.topic: record.value for record in batch.records if record.topic != TOPICS.changelog}
    decision = msgspec.json.decode(records[TOPICS.recommendations] or b"", type=Recommendation)
    assert (decision.id, decision.item_id) == ("clicks-0-0@tiny/1", "i1")
    assert {origin.offset: why for origin, why in batch.dropped.items()} == {1: "event_type"}
    letter = msgspec.json.decode(records[TOPICS.dead_letters] or b"", type=DeadLetter)
    assert (letter.id, letter.reason) == ("clicks-0-2", "bad_timestamp")
    if not pseudonymous:
        assert letter.value is not None
        again = json.loads(b64decode(letter.value))
        assert again == json.loads(messages[2][1]) | {"$headers": {"ce_type": "Product Viewed"}}
        again["time"] = NOW_MS
        assert JsonCodec(65_536, 0, shape).decode(None, json.dumps(again).encode(), NOW_MS).event_type == "view"


def test_a_batch_of_which_nothing_is_a_click_is_committed(engine: Engine, mapping: ClickMapping) -> None:
    """Else a topic of mostly other events would stop at such a batch."""
    codec = JsonCodec(65_536, 0, message_shape(mapping.of_topic()))
    _, batch = worked(engine, codec, MESSAGES[1:4])
    assert batch.offsets == {CLICKS_0: 3}
    assert [record.key for record in batch.records] == [POSITION_KEY]


def test_what_is_left_out_is_counted_and_in_the_status_line(engine: Engine, mapping: ClickMapping) -> None:
    """By reason in the metrics, and as one number in the line. Its keys are no keys of users."""
    reading = mapping.of_topic()
    chunks, batch = worked(engine, JsonCodec(65_536, 0, message_shape(reading)), MESSAGES)
    observed = Observed(Meter(), engine.model, engine.arena, 1, reading.users, lambda: NOW_MS)
    observed.committed(chunks, batch)
    figures = observed.meter.snapshot()
    assert figures.counts_by("dropped", "reason") == {"no_value": 3, "event_type": 1}
    assert " dropped=4 dead_letters=2 " in status_line(30.0, Snapshot({}, {}, {}), figures)
    assert (figures.count("messages"), figures.count("clicks")) == (8, 2)
    metrics = exposition(registry(observed.meter, Health())).decode()
    assert '\neddy_dropped_total{reason="no_value"} 3.0\n' in metrics
    assert '\neddy_dropped_total{reason="event_type"} 1.0\n' in metrics
    crowd = [*MESSAGES[:1], *(event(f"p{n}", None, "page") for n in range(60))]
    other = Observed(Meter(), engine.model, engine.arena, 8, reading.users, lambda: NOW_MS)
    other.committed(*worked(engine, JsonCodec(65_536, 0, message_shape(reading)), crowd))
    assert other.key_sample.verdict().keys <= 1


def test_a_warning_has_no_user_id_of_a_mapped_field(engine: Engine, mapping: ClickMapping) -> None:
    """The detail of a dead letter names the user; in the log the user is hashed, wherever the mapping reads it."""
    reading = mapping.of_topic()
    messages = [(b"someone", event(None, "i1", anonymousId="anna@example.com")[1])]
    observed = Observed(Meter(), engine.model, engine.arena, 1, reading.users, lambda: NOW_MS)
    observed.committed(*worked(engine, JsonCodec(65_536, 0, message_shape(reading)), messages))
    detail = observed.examples["key_is_not_user"].detail
    assert "anna" not in detail
    assert hashed(b"anna@example.com") in detail


@pytest.mark.parametrize("user", [4711.0, "4711.0"])
def test_a_warning_has_no_user_id_in_another_form(engine: Engine, mapping: ClickMapping, user: object) -> None:
    """The detail has a whole float as the integer that it is read as."""
    reading = mapping.of_topic()
    messages = [(b"someone", event(None, "i1", userId=user)[1])]
    observed = Observed(Meter(), engine.model, engine.arena, 1, reading.users, lambda: NOW_MS)
    observed.committed(*worked(engine, JsonCodec(65_536, 0, message_shape(reading)), messages))
    detail = observed.examples["key_is_not_user"].detail
    assert "4711" not in detail
    assert hashed(b"4711") in detail
