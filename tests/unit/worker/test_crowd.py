"""Very many sessions end with one click: in several transactions, and as they would in one."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stream.engine.engine import Engine
from stream.events import Partition
from stream.kafka.changelog import POSITION_KEY
from stream.kafka.consumer.fetch import Chunk
from stream.kafka.delivery import Record
from stream.model.runtime import Model, load_model
from stream.settings import Topics
from stream.triggers.rules import Rule
from stream.wire.json import JsonCodec
from stream.worker.cycles.batch import Batch, decide, encode_all
from stream.worker.served import open_engine

START_MS, MINUTE_MS = 1_700_000_000_000, 60_000
TOPICS = Topics(behaviour="behaviour")
RULES = [
    Rule("left", "abandoned", has=("view",), cooldown_ms=7_200_000, control=0.1),
    Rule("gone", "away", after_ms=7_200_000, cooldown_ms=7_200_000),
]
LIMITS: dict[str, int] = dict.fromkeys(msgspec.structs.astuple(TOPICS), 1_000_000)


class Sent(NamedTuple):
    """A click, its time in minutes after the start. Without a user, a message that is no click."""

    partition: int
    user: str
    minute: float


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


@contextmanager
def most(sessions: int) -> Iterator[None]:
    """So many sessions end at once."""
    with patch("stream.sessions.ends.MOST", sessions), patch("stream.worker.cycles.crowd.MOST", sessions):
        yield


def batches(engine: Engine, sent: Sequence[Sent], cuts: Sequence[int]) -> Iterator[Batch]:
    """The batches of a worker that fetches the clicks up to each of the cuts."""
    codec, expected = JsonCodec(65_536, 1_000), {Partition("clicks", number): 0 for number in (0, 1)}
    offsets = dict(expected)
    for begin, end in itertools.pairwise([0, *sorted({cut for cut in cuts if cut < len(sent)}), len(sent)]):
        chunks: Sequence[Chunk] = []
        for partition in expected:
            records = []
            for one in sent[begin:end]:
                if one.partition == partition.number:
                    time_ms = START_MS + int(one.minute * MINUTE_MS)
                    click = {"user_id": one.user, "item_id": "i1", "event_type": "view", "timestamp": time_ms}
                    value = msgspec.json.encode(click) if one.user else b"{"
                    key, offset = one.user.encode(), offsets[partition]
                    records.append(SimpleNamespace(offset=offset, key=key, value=value, timestamp=time_ms, headers=()))
                    offsets[partition] += 1
            if records:
                first, last = records[0].offset, offsets[partition]
                some: Any = records
                chunks = [*chunks, Chunk(partition, 1, first, last, 0, some, 0)]
        while chunks:
            batch = encode_all(engine, TOPICS, LIMITS, decide(engine, codec, TOPICS, chunks, expected, 2 * START_MS))
            engine.commit(batch.cycle)
            expected |= batch.offsets
            chunks = batch.rest
            yield batch
    assert expected == offsets


def written(records: Sequence[Record]) -> dict[tuple[str, int], list[bytes]]:
    """What the topics have, in the order of each partition's clicks; of the changelog the last rows and marks."""
    found: dict[tuple[str, int], list[bytes]] = {}
    rows: dict[tuple[Any, bytes], bytes] = {}
    for record in records:
        if record.topic == TOPICS.changelog:
            rows[record.partition, record.key or b""] = record.value or b""
        else:
            value = msgspec.json.decode(record.value or b"{}")
            place = str(value.get("partition") or value.get("id"))  # a number, clicks-1, or clicks-1-7
            number = 1 if place.startswith(("1", "clicks-1")) else 0
            value.pop("superseded_by", None)  # the user's later clicks of the same batch
            found.setdefault((record.topic, number), []).append(msgspec.json.encode(value))
    return found | {(str(name), 2): [row] for name, row in rows.items() if name[1] != POSITION_KEY}


def few(batch: Batch, most: int) -> bool:
    """Whether no more sessions end than may end at once, or only those of one minute; not with clicks of their users"""
    own = {(origin.partition, click.user_id.encode()) for click, origin in zip(*batch.taken, strict=True)}
    ended = zip(batch.cycle.ended.owners, batch.cycle.ended.minute.tolist(), strict=True)
    others = [(owner[0], minute) for owner, minute in ended if (owner[0].number, owner[1]) not in own]
    return len(others) <= most or len(set(others)) == 1


CLICKS = st.builds(
    Sent, st.integers(0, 1), st.sampled_from(["a", "b", "c", "d", "e", ""]), st.integers(0, 700).map(lambda n: n / 2)
)


EACH = [Sent(number, name, minute) for minute, name in enumerate("abcde") for number in (0, 1)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    sent=st.lists(CLICKS, max_size=30),
    cuts=st.lists(st.integers(1, 30), max_size=6),
    other_cuts=st.lists(st.integers(1, 30), max_size=6),
    at_once=st.integers(1, 3),
    in_order=st.booleans(),
)
@example(  # with a click in the middle of a fetch, and after it a late one and clicks of another partition
    sent=[*EACH, Sent(0, "a", 5), Sent(0, "b", 50), Sent(0, "f", 300), Sent(0, "c", 1), Sent(1, "a", 5)],
    cuts=[len(EACH)],
    other_cuts=[],
    at_once=1,
    in_order=False,
)
@example(  # with the first click of each partition
    sent=[*EACH, Sent(1, "a", 99), Sent(0, "a", 99)], cuts=[len(EACH)], other_cuts=[], at_once=1, in_order=True
)
@example(  # in each of two partitions as many as may end, and together more
    sent=[*EACH, Sent(1, "f", 99), Sent(0, "f", 99)], cuts=[len(EACH)], other_cuts=[], at_once=5, in_order=True
)
@example(  # the sessions of one minute end together, and the click goes on with one that is not due yet
    sent=[Sent(0, "a", 0), Sent(0, "b", 0), Sent(0, "c", 0), Sent(0, "a", 20), Sent(0, "a", 45)],
    cuts=[],
    other_cuts=[4],
    at_once=1,
    in_order=True,
)
def test_sessions_end_in_several_transactions_as_in_one(
    model: Model,
    model_dir: Path,
    sent: list[Sent],
    cuts: list[int],
    other_cuts: list[int],
    at_once: int,
    in_order: bool,
) -> None:
    """All that is written is the same, but for the transactions: decisions, ends of sessions, triggers, hours, rows. So
    it is in any batches, and no transaction ends more sessions than it may, but for those of one minute."""
    if in_order:
        sent = sorted(sent, key=lambda one: one.minute)
    results = []
    for largest, at in ((20_000, cuts), (at_once, cuts), (at_once, other_cuts)):
        engine = open_engine(model, model_dir, 3, 1, 0.1, triggers=RULES, hours=True)
        records: list[Record] = []
        with most(largest):
            for batch in batches(engine, sent, at):
                records += batch.records
                assert few(batch, largest)
        rows = [engine.arena.rows(Partition("clicks", number)) for number in (0, 1)]
        results.append((written(records), rows))
    assert results[1] == results[0]
    assert results[2] == results[0]
