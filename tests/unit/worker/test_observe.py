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
from stream.kafka.consumer.fetch import Chunk
from stream.kafka.partitioners import MOST_KEYS, murmur2
from stream.lists.hits import Hits
from stream.mapping.decoding import user_ids
from stream.meter import Meter, Name
from stream.model.runtime import load_model
from stream.settings import Topics
from stream.wire.json import JsonCodec
from stream.wire.requests import FORGET_HEADER
from stream.worker.observe import KEYS_PER_BATCH, Observed
from stream.worker.served import open_engine
from tests.decide import batched
from tests.unit.engine.test_not_finite import spoil

NOW_MS = 1_760_000_000_000
PARTITIONS = 4
FORGET = ((FORGET_HEADER, b""),)
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
    batch = batched(engine, codec, Topics(), LIMITS, chunks, dict.fromkeys(placed, 0), NOW_MS)
    engine.commit(batch.cycle)
    observed = Observed(Meter(), engine.model, engine.arena, PARTITIONS, user_ids, lambda: NOW_MS, 0.001)
    observed.committed(chunks, batch)
    return observed


def test_the_messages_of_a_batch_are_counted_by_their_result(engine: Engine) -> None:
    """Messages, clicks, dead letters by reason, unknown items and event types, users and alerts."""
    good = [click("ann"), click("ben", "new"), click("ann", event_type="wish"), click("cleo")]
    bad = [click("dan", item_id=None), (b"eve", b"{"), (b"eve", b"}"), (None, click("dan")[1])]
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
    observed = observe(engine, *crowd)
    seen = observed.meter.snapshot()
    assert seen.count("system_alerts") == PARTITIONS
    assert {one.get("sign") for one in observed._alerts.latest(100) if "sign" in one} == {"unknown event types"}
    lines = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert len(lines) == PARTITIONS
    for line in lines:
        assert re.match(r"many users at once: id=clicks-\d-\d+ sign='unknown event types'; \d+ of \d+ users sent", line)


def test_alerts_on_many_users_are_0_for_every_sign_from_the_start(engine: Engine) -> None:
    """Also for the drift, which no click shows: Prometheus sees no increase in a count that begins with 1."""
    counts = observe(engine, click("ann")).meter.snapshot().counts_by("system_alerts", "sign")
    assert {"unknown event types", "unknown items", "twins", "alerts: rate", "drift"} < counts.keys()
    assert set(counts.values()) == {0}


def test_decisions_are_counted_by_what_they_mean(engine: Engine) -> None:
    """Ann has two sessions with a pause of an hour, and Ben one; the metronome has one episode with one alert or more,
    and each stage of the cycle and the size of the batch are measured."""
    times = [
        click("ann", f"i{n}", timestamp=NOW_MS - 7_200_000 + minute * 60_000) for n, minute in enumerate((0, 1, 61))
    ]
    bot = [click("bot", "i7", timestamp=NOW_MS - 3_600_000 + 1_000 * n) for n in range(40)]
    observed = observe(engine, *times, click("ben"), *bot)
    seen = observed.meter.snapshot()
    kept = observed._alerts.latest(100)
    assert {alert["user_id"] for alert in kept} == {"bot"}
    assert len(kept) == seen.count("alerts")
    assert seen.count("sessions") == 4
    assert seen.count("episodes") == 1
    statistics = seen.counts_by("alerts", "statistic")
    assert len(statistics) == 10  # also those without an alert: a rate needs a 0 to begin with
    assert {name for name, n in statistics.items() if n} <= {
        "regular gaps",
        "one item",
        "rate",
        "clicks",
        "twins",
        "none",
    }
    assert seen.count("alerts") >= 1
    assert 1 <= seen.count("unusual_clicks") < 44
    assert seen.level("alpha") == 0.001
    messages = seen.histogram("cycle_messages")
    assert messages is not None
    assert messages.total == 44
    stages = {dict(key.labels)["stage"] for key in seen.histograms if key.name == "stage"}
    assert stages == {"decode", "engine", "encode"}


def test_lists_are_judged_by_the_clicks_of_the_sampled_users(engine: Engine) -> None:
    """With a sample of all users: the second and third click of a session judge the list before them, unless the group
    has had a rebalance meanwhile."""
    observed = Observed(Meter(), engine.model, engine.arena, PARTITIONS, lambda: NOW_MS)
    observed._hits = Hits(every=1)
    codec, partition = JsonCodec(65_536, 3_600_000), Partition("clicks", 0)
    judged = []
    for offset, generation in enumerate((1, 1, 1, 2, 2)):
        key, value = click("ann", "i5", timestamp=NOW_MS + offset)
        record = SimpleNamespace(offset=offset, key=key, value=value, timestamp=NOW_MS, headers=())
        chunks = [Chunk(partition, generation, offset, offset + 1, 0, [record], 0)]
        batch = batched(engine, codec, Topics(), LIMITS, chunks, {partition: offset}, NOW_MS)
        engine.commit(batch.cycle)
        observed.committed(chunks, batch)
        judged.append(observed.meter.snapshot().count("lists_judged"))
    assert judged == [0, 1, 2, 2, 3]
    assert observed.meter.snapshot().count("list_hits") == 0  # the list leaves out the item of the click before it


def test_forgotten_users_are_counted_by_the_cause(engine: Engine) -> None:
    """A request for a user with a state counts, one for an unknown user does not."""
    observed = Observed(Meter(), engine.model, engine.arena, PARTITIONS, lambda: NOW_MS)
    codec, partition, offset = JsonCodec(65_536, 3_600_000), Partition("clicks", 0), 0
    for messages in ([click("ann"), click("ben")], [(b"ann", None), (b"nobody", None)]):
        records = [
            SimpleNamespace(
                offset=offset + n, key=key, value=value, timestamp=NOW_MS, headers=FORGET if not value else ()
            )
            for n, (key, value) in enumerate(messages)
        ]
        chunks = [Chunk(partition, 1, offset, offset + len(records), 0, records, 0)]
        batch = batched(engine, codec, Topics(), LIMITS, chunks, {partition: offset}, NOW_MS)
        engine.commit(batch.cycle)
        observed.committed(chunks, batch)
        offset += len(records)
    seen = observed.meter.snapshot()
    assert seen.counts_by("forgotten", "cause") == {"request": 1, "idle": 0}
    assert seen.level("users") == 1


def test_lag_is_of_the_partitions_that_the_worker_has(engine: Engine) -> None:
    """A partition without a known end has none, and one that has gone is not shown any more."""
    observed = Observed(Meter(), engine.model, engine.arena, PARTITIONS, lambda: NOW_MS)
    first, second = Partition("clicks", 0), Partition("clicks", 1)
    assert observed.standing({first: 5, second: 7}, {first: 9}) == 4
    assert observed.meter.snapshot().levels[Name("partition_lag", (("partition", "0"),))] == 4
    assert observed.standing({second: 7}, {first: 9, second: 10}) == 3
    seen = observed.meter.snapshot()
    assert [value for key, value in seen.levels.items() if key.name == "partition_lag"] == [3]
    assert seen.level("partitions") == 1


def test_a_worker_without_partitions_has_no_users(engine: Engine) -> None:
    """Its rows stay in memory until it gets partitions again; they are those of other workers now."""
    observed = observe(engine, click("ann"), click("ben"))
    observed.standing({Partition("clicks", 0): 1}, {})
    assert observed.meter.snapshot().level("users") == 2
    observed.standing({}, {})
    assert observed.meter.snapshot().level("users") == 0


def test_every_reason_that_is_counted_has_an_example(engine: Engine) -> None:
    """Also one of a single letter among hundreds of others: the warning of the log names the commonest reason of a
    minute, and that need not be the commonest of any batch."""
    rare = [click("dan", item_id=None), (None, click("dan")[1]), click("ben", timestamp=-1)]
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
    batch = batched(engine, JsonCodec(65_536, 1), Topics(), {}, chunks, {clicks_0: 0}, NOW_MS)
    observed = Observed(Meter(), engine.model, engine.arena, PARTITIONS, user_ids, lambda: NOW_MS)
    observed.committed(chunks, batch)
    assert observed.meter.snapshot().count("clicks_lost") == 25


def test_latency_is_the_age_of_the_records_at_the_commit(engine: Engine) -> None:
    """Each message counts with the time from its Kafka timestamp; a message from a clock that is ahead counts as 0."""
    messages = [click(f"u{n}") for n in range(100)]
    timing = observe(engine, *messages, ages_ms=[-50, 40, 40, 40, 900]).meter.snapshot().histogram("latency")
    assert timing is not None
    assert timing.buckets.sum() == 100
    assert timing.quantile(0.5) == pytest.approx(0.04, rel=0.1)
    assert timing.quantile(0.99) == pytest.approx(0.9, rel=0.1)


def test_an_example_shows_detail_and_fields_but_no_user(engine: Engine) -> None:
    """The fields of a refused message are named; the user is hashed everywhere in the detail."""
    example = observe(engine, (b"somebody", click("ann@shop.example", extra=1)[1])).examples["key_is_not_user"]
    assert example.fields == ("event_type", "extra", "item_id", "timestamp", "user_id")
    assert "somebody" not in example.detail
    assert "ann@shop.example" not in example.detail
    for user in (b"somebody", b"ann@shop.example"):
        assert hashlib.sha256(user).hexdigest()[:12] in example.detail


def test_a_user_named_like_a_word_leaves_the_sentence_as_it_is(engine: Engine) -> None:
    """A user called `a` is hashed where the value is, and the article stays an article."""
    example = observe(engine, (b"a", click("a", item_id=["tee"])[1])).examples["wrong_fields"]
    assert example.detail == "item_id ['tee'] is neither text nor a whole number"


@pytest.mark.parametrize("user", [4711.0, "4711.0", 4711])
def test_an_example_shows_no_user_in_another_form(engine: Engine, user: object) -> None:
    """The detail has a whole float as the integer that it is read as."""
    example = observe(engine, (b"somebody", click("x", user_id=user)[1])).examples["key_is_not_user"]
    assert "4711" not in example.detail
    assert hashlib.sha256(b"4711").hexdigest()[:12] in example.detail


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
