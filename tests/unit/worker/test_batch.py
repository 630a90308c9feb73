"""The records of the transaction of a batch."""

import gc
import weakref
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from stream.events import Partition
from stream.kafka.changelog import POSITION_KEY
from stream.kafka.consumer.fetch import Chunk
from stream.kafka.delivery import Record
from stream.model.runtime import load_model
from stream.settings import Topics
from stream.wire.json import JsonCodec
from stream.worker.served import open_engine
from tests.decide import batched
from tests.unit.engine.test_isolate import poison
from tests.unit.engine.test_not_finite import spoil

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000


class Weak(SimpleNamespace):
    """A record that a weak reference can point to."""


def message(offset: int, user: str, item: str, time_ms: int = NOW_MS) -> SimpleNamespace:
    value = msgspec.json.encode({"user_id": user, "item_id": item, "timestamp": time_ms})
    return SimpleNamespace(offset=offset, key=user.encode(), value=value, timestamp=NOW_MS, headers=())


def sweep_all_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cycle looks for forgotten users in all slots."""
    monkeypatch.setattr("stream.state.blocks.BLOCK_SLOTS", 256)
    monkeypatch.setattr("stream.state.evict.CLICKS_PER_SWEEP", 1)
    monkeypatch.setattr("stream.state.evict.SLOTS_PER_CLICK", 256)


def test_a_click_on_which_the_model_fails_is_a_dead_letter_and_the_stream_goes_on(
    model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each click has a decision or a dead letter; no row has NaN; one log line reports it."""
    directory = spoil(model_dir, tmp_path / "spoiled" / "1", "state")
    engine = open_engine(load_model(directory, "cpu"), directory, 5, 1, 0.001)
    read = [message(0, "a", "i1"), message(1, "b", "i7"), message(2, "b", "i2")]
    topics = Topics()
    limits = dict.fromkeys(msgspec.structs.astuple(topics), 1_000_000)
    clicks_0 = Partition("clicks", 0)
    chunks = [Chunk(clicks_0, 1, 0, 3, 0, read, 300)]
    batch = batched(engine, JsonCodec(65_536, 1000), topics, limits, chunks, {clicks_0: 0}, NOW_MS)
    assert Counter(record.topic for record in batch.records) == {
        topics.recommendations: 2,
        topics.sessions: 2,
        topics.dead_letters: 1,
        topics.changelog: 3,
    }
    letter = next(msgspec.json.decode(r.value) for r in batch.records if r.topic == topics.dead_letters)
    assert (letter["reason"], letter["offset"]) == ("model_failed", 1)
    assert all(np.isfinite(batch.cycle.staged.rows[tensor.name]).all() for tensor in engine.model.manifest.state)
    assert [r.message for r in caplog.records if "clicks=1 first=clicks-0-1 item=i7" in r.message]


def test_a_click_on_which_the_engine_raises_an_error_is_a_dead_letter(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The letter names the error; the other clicks are decided, and the offset moves over all of them."""
    monkeypatch.setattr("stream.engine.isolate.batch_invariant", lambda model, k: True)
    directory = poison(model_dir, tmp_path / "poison" / "1", 49)
    engine = open_engine(load_model(directory, "cpu"), directory, 5, 1, 0.001)
    read = [message(0, "a", "i1"), message(1, "b", "i49"), message(2, "b", "i2")]
    topics, clicks_0 = Topics(), Partition("clicks", 0)
    limits = dict.fromkeys(msgspec.structs.astuple(topics), 1_000_000)
    batch = batched(
        engine, JsonCodec(65_536, 1000), topics, limits, [Chunk(clicks_0, 1, 0, 3, 0, read, 300)], {clicks_0: 0}, NOW_MS
    )
    [letter] = [msgspec.json.decode(r.value) for r in batch.records if r.topic == topics.dead_letters]
    assert (letter["reason"], letter["offset"], batch.offsets) == ("engine_failed", 1, {clicks_0: 3})
    assert "Gather" in letter["detail"]
    assert [r.key for r in batch.records if r.topic == topics.recommendations] == [b"a", b"b"]
    assert [r.message for r in caplog.records if "clicks=1 first=clicks-0-1 item=i49" in r.message]


def test_a_batch_with_refused_messages_is_freed_with_its_last_reference(model_dir: Path) -> None:
    """A refused message has no reference to the batch, so its megabytes are freed without the garbage collector."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 5, 1, 0.001)
    topics = Topics()
    limits = dict.fromkeys(msgspec.structs.astuple(topics), 1_000_000)
    record = Weak(offset=0, key=b"a", value=b'{"user_id": "a"}', timestamp=NOW_MS, headers=())
    clicks_0 = Partition("clicks", 0)
    chunk, alive = Chunk(clicks_0, 1, 0, 1, 0, [record], 10), weakref.ref(record)
    gc.collect()
    gc.disable()
    try:
        batch = batched(engine, JsonCodec(65_536, 1000), topics, limits, [chunk], {clicks_0: 0}, NOW_MS)
        assert [letter.why.reason for letter in batch.refused] == ["wrong_fields"]
        del batch, chunk, record
        assert alive() is None
    finally:
        gc.enable()


def test_a_click_before_the_begin_of_its_chunk_is_not_decided_again(
    model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Kafka sends whole batches of records, and the fetcher drops those before its position. If it does not, the user's
    row shows that the click was applied."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 5, 1, 0.001)
    topics = Topics()
    limits = dict.fromkeys(msgspec.structs.astuple(topics), 1_000_000)
    clicks_0 = Partition("clicks", 0)
    read = [message(0, "a", "i1"), message(1, "a", "i2")]
    written: list[Record] = []
    for begin, records in ((0, read[:1]), (1, read)):
        chunk = Chunk(clicks_0, 1, begin, begin + 1, 0, records, 100)
        batch = batched(engine, JsonCodec(65_536, 1000), topics, limits, [chunk], {clicks_0: begin}, NOW_MS)
        engine.commit(batch.cycle)
        written += [record for record in batch.records if record.topic == topics.recommendations]
    assert [msgspec.json.decode(record.value or b"")["id"] for record in written] == [
        "clicks-0-0@tiny/1",
        "clicks-0-1@tiny/1",
    ]
    assert "repeated clicks skipped" in caplog.text


@pytest.mark.parametrize(
    ("stamp_h", "click_h", "refused"), [(0, 2, 1), (2, 2, 0), (2, 3.5, 1), (24, 24, 0), (26, 26, 1), (-30, 0, 0)]
)
def test_a_worker_whose_clock_is_behind_judges_by_the_messages_stamp(
    model_dir: Path, stamp_h: float, click_h: float, refused: int
) -> None:
    """A click may be an hour ahead of clock or Kafka's timestamp, the later one; that counts up to a day ahead."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 5, 1, 0.001)
    limits = dict.fromkeys(msgspec.structs.astuple(Topics()), 1_000_000)
    record = message(0, "a", "i1", NOW_MS + int(click_h * HOUR_MS))
    record.timestamp = NOW_MS + int(stamp_h * HOUR_MS)
    clicks_0 = Partition("clicks", 0)
    chunks = [Chunk(clicks_0, 1, 0, 1, 0, [record], 10)]
    batch = batched(engine, JsonCodec(65_536, HOUR_MS), Topics(), limits, chunks, {clicks_0: 0}, NOW_MS)
    assert [letter.why.reason for letter in batch.refused] == ["future_timestamp"] * refused


def test_a_forgotten_user_is_a_tombstone_in_the_changelog(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record has the user's key, no value and the row's partition, so compaction removes the row."""
    sweep_all_slots(monkeypatch)
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 5, 1, 0.001, forget_after_days=3)
    topics = Topics()
    limits = dict.fromkeys(msgspec.structs.astuple(topics), 1_000_000)
    found: list[Record] = []
    third = Partition("clicks", 3)
    for offset in range(6):
        user, time_ms = ("gone" if offset == 0 else "here"), NOW_MS + 20 * HOUR_MS * offset
        chunks = [Chunk(third, 1, offset, offset + 1, 0, [message(offset, user, "i1", time_ms)], 100)]
        batch = batched(engine, JsonCodec(65_536, 1000), topics, limits, chunks, {third: offset}, time_ms)
        engine.commit(batch.cycle)
        found += [record for record in batch.records if record.value is None]
    assert found == [Record(topics.changelog, b"gone", None, 3)]


def test_a_tombstone_is_never_without_the_mark_of_its_partition(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forgotten user's row goes with a batch that has clicks of the row's partition, because only that writes its
    mark."""
    sweep_all_slots(monkeypatch)
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 5, 1, 0.001, forget_after_days=3)
    topics = Topics()
    limits = dict.fromkeys(msgspec.structs.astuple(topics), 1_000_000)
    third, fifth = Partition("clicks", 3), Partition("clicks", 5)
    reached = {third: 0, fifth: 0}
    gone_at: list[Partition] = []
    arrivals = [(third, "gone", 0), (third, "here", 90), (fifth, "other", 0), (fifth, "other", 1), (third, "here", 91)]
    for partition, user, hours in arrivals:
        offset, time_ms = reached[partition], NOW_MS + hours * HOUR_MS
        chunks = [Chunk(partition, 1, offset, offset + 1, 0, [message(offset, user, "i1", time_ms)], 100)]
        batch = batched(engine, JsonCodec(65_536, 1000), topics, limits, chunks, reached, time_ms)
        engine.commit(batch.cycle)
        reached |= batch.offsets
        changed = [record for record in batch.records if record.topic == topics.changelog]
        marked = {record.partition for record in changed if record.key == POSITION_KEY}
        assert {record.partition for record in changed} == marked
        gone_at += [partition for record in changed if record.value is None]
    assert gone_at == [third]
