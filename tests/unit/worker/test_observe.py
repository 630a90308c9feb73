"""The figures and examples that a committed batch adds."""

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from stream.engine.engine import Engine
from stream.events import Partition
from stream.kafka.fetch import Chunk
from stream.kafka.partitioners import MOST_KEYS, murmur2
from stream.meter import Meter
from stream.model.runtime import load_model
from stream.settings import Topics
from stream.wire.json import JsonCodec
from stream.worker.batch import process
from stream.worker.observe import KEYS_PER_BATCH, Observed
from stream.worker.served import open_engine, user_ids
from tests.unit.engine.test_not_finite import spoil

NOW_MS = 1_760_000_000_000
PARTITIONS = 4
LIMITS = dict.fromkeys(msgspec.structs.astuple(Topics()), 1_000_000)


@pytest.fixture
def engine(model_dir: Path) -> Engine:
    return open_engine(load_model(model_dir, "cpu"), model_dir, 20, 1, 0.001)


def click(user: str, item: str = "i1", **fields: Any) -> tuple[bytes, bytes]:
    event = {"user_id": user, "item_id": item, "timestamp": NOW_MS, "event_type": "view"} | fields
    return user.encode(), json.dumps({name: value for name, value in event.items() if value is not None}).encode()


def observe(engine: Engine, *messages: tuple[bytes | None, bytes | None], ages_ms: Sequence[int] = (0,)) -> Observed:
    """The figures after one batch of these messages, each in the Java client's partition."""
    placed: dict[Partition, list[Any]] = {}
    for n, (key, value) in enumerate(messages):
        records = placed.setdefault(Partition("clicks", murmur2(key or b"") % PARTITIONS), [])
        stamp = NOW_MS - ages_ms[n % len(ages_ms)]
        records.append(SimpleNamespace(offset=len(records), key=key, value=value, timestamp=stamp, headers=()))
    chunks = [Chunk(partition, 1, 0, len(records), 0, records, 0) for partition, records in placed.items()]
    codec = JsonCodec(65_536, 3_600_000)
    batch = process(engine, codec, Topics(), LIMITS, chunks, dict.fromkeys(placed, 0), NOW_MS)
    engine.commit(batch.cycle)
    observed = Observed(Meter(), engine.model, engine.arena, PARTITIONS, user_ids, lambda: NOW_MS)
    observed.committed(chunks, batch)
    return observed


def test_the_messages_of_a_batch_are_counted_by_their_result(engine: Engine) -> None:
    """Messages, clicks, dead letters by reason, unknown items and event types, users and alerts."""
    good = [click("ann"), click("ben", "new"), click("ann", event_type="wish"), click("cleo")]
    bad = [click("dan", item_id=None), (b"eve", b"{"), (b"eve", b"}"), (None, b"{}")]
    seen = observe(engine, *good, *bad).meter.snapshot()
    assert [seen.count(name) for name in ("messages", "clicks", "unknown_items", "unknown_event_types")] == [8, 4, 1, 1]
    assert seen.counts_by("dead_letters", "reason") == {"wrong_fields": 1, "not_json": 2, "empty_key": 1}
    assert seen.level("users") == 3
    assert seen.count("alerts") == 0


def test_alerts_on_many_users_are_counted_and_logged(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """The line says what the users have in common, how many they are and how many are usual."""
    crowd = [
        click(f"u{n}", event_type="view" if window < 7 else "veiw", timestamp=NOW_MS - 4_000_000 + 400_000 * window + n)
        for window in range(9)
        for n in range(300)
    ]
    caplog.set_level(logging.INFO)
    seen = observe(engine, *crowd).meter.snapshot()
    assert seen.count("system_alerts") == PARTITIONS
    lines = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(lines) == PARTITIONS
    for line in lines:
        assert re.match(r"many users at once: id=clicks-\d-\d+ sign='unknown event types'; \d+ of \d+ users sent", line)


def test_every_reason_that_is_counted_has_an_example(engine: Engine) -> None:
    """Also one of a single letter among hundreds of others: the warning of the log names the commonest reason of a
    minute, and that need not be the commonest of any batch."""
    rare = [click("dan", item_id=None), (None, b"{}"), click("ben", timestamp=-1)]
    observed = observe(engine, *rare, *[(b"eve", b"{")] * 500)
    reasons = observed.meter.snapshot().counts_by("dead_letters", "reason")
    assert len(reasons) == 4
    assert observed.examples.keys() == reasons.keys()


def test_omitted_fields_of_clicks_are_counted_by_field(engine: Engine) -> None:
    """A click with an unusable optional value is valid, but the value is counted by field."""
    seen = observe(
        engine, click("ann", price="cheap"), click("ben", price="49,99", category=[1]), click("cleo", price=5)
    )
    figures = seen.meter.snapshot()
    assert figures.count("clicks") == 3
    assert figures.counts_by("left_out", "field") == {"price": 2, "category": 1}


def test_a_click_on_which_the_model_fails_is_a_dead_letter(model_dir: Path, tmp_path: Path) -> None:
    """It counts as a dead letter with its reason and not as a click."""
    directory = spoil(model_dir, tmp_path / "spoiled" / "1", "state")
    engine = open_engine(load_model(directory, "cpu"), directory, 5, 1, 0.001)
    seen = observe(engine, click("ann", "i1"), click("ben", "i7")).meter.snapshot()
    assert (seen.count("messages"), seen.count("clicks")) == (2, 1)
    assert seen.counts_by("dead_letters", "reason") == {"model_failed": 1}


def test_offsets_that_kafka_deleted_unread_are_counted(engine: Engine) -> None:
    """The lost clicks of all chunks of a committed batch are summed."""
    clicks_0 = Partition("clicks", 0)
    chunks = [Chunk(clicks_0, 1, 0, 25, 25, [], 0), Chunk(clicks_0, 1, 25, 30, 0, [], 0)]
    batch = process(engine, JsonCodec(65_536, 1), Topics(), {}, chunks, {clicks_0: 0}, NOW_MS)
    observed = Observed(Meter(), engine.model, engine.arena, PARTITIONS, user_ids, lambda: NOW_MS)
    observed.committed(chunks, batch)
    assert observed.meter.snapshot().count("clicks_lost") == 25


def test_latency_is_the_age_of_the_records_at_the_commit(engine: Engine) -> None:
    """Each message counts with the time from its Kafka timestamp; a message from a clock that is ahead counts as 0."""
    messages = [click(f"u{n}") for n in range(100)]
    timing = observe(engine, *messages, ages_ms=[-50, 40, 40, 40, 900]).meter.snapshot().timing("latency")
    assert timing is not None
    assert timing.buckets.sum() == 100
    assert timing.quantile_s(0.5) == pytest.approx(0.04, rel=0.1)
    assert timing.quantile_s(0.99) == pytest.approx(0.9, rel=0.1)


def test_an_example_shows_detail_and_fields_but_no_user(engine: Engine) -> None:
    """The fields of a refused message are named; the user is hashed everywhere in the detail."""
    example = observe(engine, (b"somebody", click("ann@shop.example", extra=1)[1])).examples["key_is_not_user"]
    assert example.fields == ("event_type", "extra", "item_id", "timestamp", "user_id")
    assert "somebody" not in example.detail
    assert "ann@shop.example" not in example.detail
    for user in (b"somebody", b"ann@shop.example"):
        assert hashlib.sha256(user).hexdigest()[:12] in example.detail


@pytest.mark.parametrize("value", [b"\x00\x01\xfe", b"[1]", b"", None, b'{"a":' * 5_000, b"x" * 900_000, b'"\xff"'])
def test_an_example_of_no_json_object_has_no_fields(engine: Engine, value: bytes | None) -> None:
    """Any refused message can be an example without an error."""
    examples = observe(engine, (b"ann", value)).examples
    assert [example.fields for example in examples.values()] == [()]


def test_a_producers_text_cannot_break_the_log(engine: Engine) -> None:
    """Line breaks, control characters and very long field names do not get into the log."""
    value = json.dumps(
        {"user_id": "ann", "a\n2026-01-01 ERROR fake": 1, "b" * 5_000: 1} | {f"f{n}": 1 for n in range(99)}
    )
    example = observe(engine, (b"ann", value.encode())).examples["wrong_fields"]
    assert len(example.fields) <= 20
    assert all(len(name) <= 200 and name.isprintable() for name in (*example.fields, example.detail))


def test_keys_of_clicks_are_sampled_and_those_of_refused_messages_are_not(engine: Engine) -> None:
    """At most KEYS_PER_BATCH keys a batch, each with its partition and offset."""
    good = [click(f"u{n}") for n in range(40)]
    verdict = observe(engine, *good, *[click(f"bad{n}", item_id=None) for n in range(20)]).key_sample.verdict()
    assert (verdict.keys, verdict.found) == (40, ["murmur2"])
    many = observe(engine, *[click(f"u{n}") for n in range(1_000)]).key_sample.verdict()
    assert (many.keys, many.found) == (KEYS_PER_BATCH, ["murmur2"])
    assert KEYS_PER_BATCH < MOST_KEYS
