"""What becomes of states on their way does not depend on the batches, whatever else is among the clicks: event ids,
requests about users, and clicks on which the engine fails."""

import random
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stream.carry import leaving
from stream.carry.leaving import END, SESSION
from stream.detect.episodes import OPENED, UNUSUAL_MS
from stream.engine.columns import Columns
from stream.engine.engine import Engine
from stream.events import elsewhere
from stream.model.runtime import Model, load_model
from stream.population.watch import ROW_FIELDS
from stream.state.row import Head
from stream.wire.json import JsonCodec
from stream.wire.pseudonym import PseudonymousCodec, Pseudonyms
from stream.wire.requests import CARRIED_HEADER, FORGET_HEADER, JOIN_HEADER, QUIET_HEADER, Carried, encode_carried
from stream.worker.served import open_engine
from tests.unit.carry import test_carry
from tests.unit.carry.test_carry import HOME, MINUTE_MS, PARTITIONS, START_MS, TOPICS, Kafka

BREAKS = "i5"
"""The engine fails on clicks on this item."""

QUIET_DAYS = 2


class Sent(NamedTuple):
    """A message of the copies' topic.

    key       whose messages it is among
    what      the user of a click, who may be the key; or a request about the key, "forget" or "quiet"
    step      minutes since the message before it
    event_id  of the click
    """

    key: str
    what: str
    item: str = "i1"
    step: int = 0
    event_id: str | None = None


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


class Fragile(Kafka):
    """As Kafka, but its engine fails on some clicks."""

    def __init__(self, model: Model, model_dir: Path, rng: random.Random) -> None:
        def new() -> Engine:
            engine = open_engine(model, model_dir, 5, 1, 0.3)
            process, broken = engine.process, model.index[BREAKS]

            def fails(clicks: Columns, now_ms: int) -> Any:
                if (clicks.item == broken).any():
                    raise FloatingPointError("a click breaks the engine")
                return process(clicks, now_ms)

            engine.process = fails  # type: ignore[method-assign]
            return engine

        super().__init__(new(), new, rng=rng)

    def send(self, one: Sent) -> None:  # type: ignore[override]
        self._now_ms += one.step * MINUTE_MS
        user = one.key if one.what in ("forget", "quiet") else one.what
        click = {"user_id": user, "item_id": one.item, "timestamp": self._now_ms}
        value: bytes | None = msgspec.json.encode(click | ({"event_id": one.event_id} if one.event_id else {}))
        headers: list[tuple[str, bytes]] = []
        if one.what == "forget":
            value, headers = None, [(FORGET_HEADER, b"")]
        elif one.what == "quiet":
            until_ms = self._now_ms + QUIET_DAYS * 1440 * MINUTE_MS
            value, headers = None, [(QUIET_HEADER, msgspec.json.encode({"until_ms": until_ms}))]
        elif one.what != one.key:
            headers = [(JOIN_HEADER, one.what.encode())]
        self.append(PARTITIONS[HOME[one.key]], one.key.encode(), value, headers)


MESSAGES = st.lists(
    st.builds(
        Sent,
        key=st.sampled_from(["a", "a", "a", "b", "u", "v"]),
        what=st.sampled_from(["key", "key", "key", "u", "u", "v", "forget", "quiet"]),
        item=st.sampled_from(["i1", "i2", "i3", BREAKS]),
        step=st.sampled_from([0, 1, 5, 31, 40 * 1440]),
        event_id=st.sampled_from([None, None, "e1", "e2"]),
    ).map(
        lambda one: one._replace(what=one.key) if one.what == "key" or (one.key in "uv" and one.what in "uv") else one
    ),
    max_size=24,
).filter(lambda sent: sum(one.item == BREAKS for one in sent) <= 6)
"""With more of them in a batch, isolate takes the later clicks of a user, or the model, for broken."""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(sent=MESSAGES, most=st.sampled_from([3, 100]), seed=st.integers(0, 2**16))
@example([Sent("a", "a", event_id="e1"), Sent("a", "v", step=1), Sent("v", "v", event_id="e1")], 100, 0)
@example([Sent("a", "a"), Sent("a", "a", BREAKS), Sent("a", "u", BREAKS), Sent("u", "u")], 100, 0)
@example([Sent("a", "a"), Sent("u", "quiet"), Sent("a", "u"), Sent("u", "quiet"), Sent("u", "u")], 100, 0)
def test_states_on_their_way_do_not_depend_on_the_batches(
    model: Model, model_dir: Path, sent: list[Sent], most: int, seed: int
) -> None:
    """A second worker reads the same messages one by one, and writes the same, also the states on their way."""
    rng = random.Random(seed)
    first, second = Fragile(model, model_dir, rng), Fragile(model, model_dir, rng)
    for one in sent:
        first.send(one)
        if rng.random() < 0.3:
            first.decide([first.chunk(partition, rng.randint(1, most)) for partition in PARTITIONS])
    first.drain(most)
    second.logs = first.logs
    second.drain(1, sends=False)
    topics = TOPICS.recommendations, TOPICS.anomalies, TOPICS.sessions, TOPICS.dead_letters
    assert second.events(*topics) == first.events(*topics)
    sent_on = [[(r.key, r.headers) for r in one.written if r.topic == TOPICS.clicks] for one in (first, second)]
    assert sorted(sent_on[0]) == sorted(sent_on[1])
    assert second.rows() == first.rows()


@pytest.mark.parametrize("batches", [1, 2])
def test_the_event_ids_come_along_to_a_worker_whose_users_have_none(
    model: Model, model_dir: Path, batches: int
) -> None:
    """A click that the producer sends again after the login is a repeat there, in the batch of the state and later."""
    first, second = (Fragile(model, model_dir, random.Random(0)) for _ in range(2))
    first.kill = second.kill = 0.0
    for one in (Sent("a", "a", event_id="e1"), Sent("a", "v", step=1)):
        first.send(one)
    first.decide([first.chunk(PARTITIONS[0], 2)])
    second.logs = first.logs
    again = Sent("v", "v", event_id="e1", step=2)
    if batches == 1:
        second.send(again)
    second.decide([second.chunk(PARTITIONS[1], 2)])
    if batches == 2:
        second.send(again)
        second.decide([second.chunk(PARTITIONS[1], 1)])
    assert sum(len(batch.cycle.decided) for batch in second.batches) == 1
    assert sum(len(batch.cycle.repeated) for batch in second.batches) == 1


@pytest.mark.parametrize(
    ("known", "ends_early"),
    [
        ([], False),
        ([Sent("v", "v", step=-20 * 1440), Sent("v", "v")], False),
        ([Sent("v", "v", step=-80 * 1440), Sent("v", "v")], False),
        ([Sent("v", "v", step=-40 * 1440)], True),
        ([Sent("v", "v", step=-95 * 1440), Sent("v", "v")], True),
    ],
)
def test_a_batch_ends_early_only_for_a_user_who_has_a_row_that_is_forgotten(
    model: Model, model_dir: Path, known: list[Sent], ends_early: bool
) -> None:
    """In a backlog each such batch is a transaction, so users who log in must not end it, nor a click that is late."""
    kafka = Fragile(model, model_dir, random.Random(0))
    kafka.kill = 0.0
    now_ms = kafka._now_ms
    for one in known:
        kafka.send(one)
        kafka.decide([kafka.chunk(PARTITIONS[1], 1)])
    kafka._now_ms = now_ms
    for one in (Sent("a", "a"), Sent("a", "v"), Sent("b", "b", step=-100 * 1440), Sent("b", "b", step=100 * 1440)):
        kafka.send(one)
    kafka.decide([kafka.chunk(PARTITIONS[0], 2)])
    kafka.batches.clear()
    kafka.decide([kafka.chunk(PARTITIONS[1], 3)])
    assert [len(batch.clicks) for batch in kafka.batches] == ([2, 1] if ends_early else [3])


def test_a_batch_with_two_parts_of_a_partition_knows_who_clicked_in_the_first(model: Model, model_dir: Path) -> None:
    """There is a login in the part of the other partition between them. The user of the first part is forgotten in the
    second, so the state that comes for the user must begin a batch."""
    kafka = Fragile(model, model_dir, random.Random(0))
    kafka.kill = 0.0
    for one in (Sent("b", "b"), Sent("b", "u"), Sent("u", "u"), Sent("a", "a", step=95 * 1440)):
        kafka.send(one)
    kafka.decide([kafka.chunk(PARTITIONS[1], 2)])
    kafka.send(Sent("b", "v"))
    kafka.batches.clear()
    first, other = kafka.chunk(PARTITIONS[0], 1), kafka.chunk(PARTITIONS[1], 1)
    begin = kafka.next[PARTITIONS[0]]
    kafka.next[PARTITIONS[0]] = first.end
    second = kafka.chunk(PARTITIONS[0], 2)
    kafka.next[PARTITIONS[0]] = begin
    kafka.decide([first, other, second])
    assert [(len(batch.clicks), batch.carried["taken"]) for batch in kafka.batches] == [(2, 0), (1, 1)]


@pytest.mark.parametrize("newest_days", [0, 95])
def test_a_state_begins_a_batch_if_its_user_may_be_forgotten_since_a_click_in_it(
    model: Model, model_dir: Path, newest_days: int
) -> None:
    """By a click of another user after it, or as the click is so late."""
    kafka = Fragile(model, model_dir, random.Random(0))
    kafka.kill = 0.0
    now_ms = kafka._now_ms
    for one in (Sent("a", "a"), Sent("a", "v"), Sent("b", "b", step=newest_days * 1440)):
        kafka.send(one)
    kafka.decide([kafka.chunk(PARTITIONS[1], 1)])
    kafka._now_ms = now_ms
    for one in (Sent("v", "v"), Sent("b", "b", step=0 if newest_days else 95 * 1440)):
        kafka.send(one)
    kafka.decide([kafka.chunk(PARTITIONS[0], 2)])
    kafka.batches.clear()
    kafka.decide([kafka.chunk(PARTITIONS[1], 3)])
    assert [len(batch.clicks) for batch in kafka.batches] == [2, 1]


def test_a_state_may_leave_in_the_batch_in_which_it_has_arrived(model: Model, model_dir: Path) -> None:
    """If a user id is the anonymous id of a different person, too."""
    kafka = Fragile(model, model_dir, random.Random(0))
    kafka.kill = 0.0
    for one in (Sent("a", "a"), Sent("a", "u")):
        kafka.send(one)
    kafka.decide([kafka.chunk(PARTITIONS[0], 2)])
    [*_, carried] = kafka.logs[PARTITIONS[0]]
    carried.headers = tuple(
        (name, encode_carried(msgspec.structs.replace(msgspec.msgpack.decode(value, type=Carried), value=b"no click")))
        for name, value in carried.headers
    )
    kafka.send(Sent("u", "v"))
    kafka.decide([kafka.chunk(PARTITIONS[0], 2)])
    kafka.decide([kafka.chunk(PARTITIONS[1], 1)])
    assert [one.carried["taken"] for one in kafka.batches] == [0, 1, 1]
    assert [list(rows) for rows in kafka.rows().values()] == [[], [b"v"]]


def test_states_go_over_under_pseudonyms(model: Model, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the id, because the topic of the clicks has it; the row has the pseudonym of its new user."""
    names = Pseudonyms(b"k" * 32)
    monkeypatch.setattr(test_carry, "JsonCodec", lambda *limits: PseudonymousCodec(JsonCodec(*limits), names))
    kafka = Fragile(model, model_dir, random.Random(0))
    kafka.kill = 0.0
    for one in (Sent("a", "a"), Sent("a", "v")):
        kafka.send(one)
    kafka.decide([kafka.chunk(PARTITIONS[0], 2)])
    kafka.decide([kafka.chunk(PARTITIONS[1], 1)])
    assert [message.key for message in kafka.logs[PARTITIONS[1]]] == [b"v"]
    assert [one.carried["taken"] for one in kafka.batches] == [0, 1]
    assert [list(rows) for rows in kafka.rows().values()] == [[], [names.of("v").encode()]]


def test_a_click_that_breaks_the_engine_keeps_no_state_from_its_user(model: Model, model_dir: Path) -> None:
    """The batch is processed again without the click; then the state is at another place in it."""
    kafka = Fragile(model, model_dir, random.Random(0))
    kafka.kill = 0.0
    for one in (Sent("a", "a"), Sent("a", "v"), Sent("b", "b", BREAKS)):
        kafka.send(one)
    kafka.decide([kafka.chunk(PARTITIONS[0], 2)])
    kafka.send(Sent("v", "v"))
    kafka.decide([kafka.chunk(PARTITIONS[1], 3)])
    assert [one.carried["taken"] for one in kafka.batches] == [0, 1]
    assert [len(one.refused) for one in kafka.batches] == [0, 1]
    row = kafka.engine.arena.gather(kafka.engine.arena.find([(PARTITIONS[1], b"v")]).slots)
    assert row["clicks"].tolist() == [3]


def test_a_click_that_breaks_the_engine_changes_no_time_at_which_a_state_leaves(model: Model, model_dir: Path) -> None:
    """The id is not forgotten yet; by a later click of the batch it would be."""
    kafka = Fragile(model, model_dir, random.Random(0))
    kafka.kill = 0.0
    for one in (Sent("u", "u", BREAKS), Sent("a", "a"), Sent("a", "v"), Sent("u", "u", step=95 * 1440)):
        kafka.send(one)
    kafka.decide([kafka.chunk(PARTITIONS[0], 4)])
    kafka.decide([kafka.chunk(PARTITIONS[1], 1)])
    assert [one.carried["taken"] for one in kafka.batches] == [0, 1]


@pytest.mark.parametrize("ends", [False, True])
def test_what_is_of_the_partition_in_a_row_is_changed_when_it_leaves(model: Model, model_dir: Path, ends: bool) -> None:
    """Offsets keep the number of their partition, so that ids of sessions and episodes stay. The counts of the
    partition's users are not those of the next one. ends: the model scores ends of sessions, too"""
    layout = open_engine(model, model_dir, 5, 1, 0.3).arena.dtype.descr + ([(END, "<i8")] if ends else [])
    row, counts = np.zeros(1, np.dtype(layout)), [field.name for field in ROW_FIELDS]
    for name in (OPENED, UNUSUAL_MS, SESSION, *counts, *([END] if ends else [])):
        row[name] = 5
    sent = leaving._sealed(row, None, leaving.Leaving(0, (PARTITIONS[1], b"b"), 0, 0, b"u"), START_MS)
    [there] = np.frombuffer(sent, row.dtype)
    assert (there[OPENED], there[SESSION]) == (elsewhere(1, 5), elsewhere(1, 5))
    assert not ends or there[END] == 1 + elsewhere(1, 4)
    assert [int(there[name]) for name in counts] == [0] * len(counts)


def test_a_request_to_forget_parts_what_leaves_and_what_has_arrived(model: Model, model_dir: Path) -> None:
    """In one batch: only what came after the request leaves, and what arrived before the request is gone."""
    kafka = Fragile(model, model_dir, random.Random(0))
    kafka.kill = 0.0
    for one in (*[Sent("a", "a")] * 3, Sent("a", "forget"), Sent("a", "a"), Sent("a", "u"), Sent("u", "u")):
        kafka.send(one)
    late = kafka.logs[PARTITIONS[0]].pop()
    kafka.decide([kafka.chunk(PARTITIONS[0], 6)])
    [*_, carried] = kafka.logs[PARTITIONS[0]]
    [(name, value)] = [pair for pair in carried.headers if pair[0] == CARRIED_HEADER]
    found = msgspec.msgpack.decode(value, type=Carried)
    assert found.row is not None
    assert Head.of(found.row).clicks == 1
    carried.headers = ((name, encode_carried(msgspec.structs.replace(found, value=b"no click"))),)
    kafka.send(Sent("u", "forget"))
    kafka.append(PARTITIONS[0], late.key, late.value, late.headers)
    kafka.decide([kafka.chunk(PARTITIONS[0], 3)])
    assert len(kafka.batches) == 2
    row = kafka.engine.arena.gather(kafka.engine.arena.find([(PARTITIONS[0], b"u")]).slots)
    assert row["clicks"].tolist() == [1]


def test_a_request_for_quiet_before_a_state_is_not_for_it(model: Model, model_dir: Path) -> None:
    """The user had no row then. Whether both are in one batch changes nothing."""
    kafka = Fragile(model, model_dir, random.Random(0))
    kafka.kill = 0.0
    for one in (Sent("b", "b"), Sent("b", "u"), Sent("u", "quiet")):
        kafka.send(one)
    kafka.decide([kafka.chunk(PARTITIONS[1], 2)])
    kafka.decide([kafka.chunk(PARTITIONS[0], 2)])
    row = kafka.engine.arena.gather(kafka.engine.arena.find([(PARTITIONS[0], b"u")]).slots)
    assert (row["clicks"].tolist(), row["quiet_until_s"].tolist()) == ([2], [0])


def test_a_user_who_is_forgotten_gets_no_row_by_a_broken_click_and_a_request_for_quiet(
    model: Model, model_dir: Path
) -> None:
    """The request is for a row that is there, and the click makes none."""
    kafka = Fragile(model, model_dir, random.Random(0))
    kafka.kill = 0.0
    for one in (Sent("u", "u"), Sent("u", "forget"), Sent("u", "u", BREAKS), Sent("u", "quiet"), Sent("a", "a")):
        kafka.send(one)
    kafka.decide([kafka.chunk(PARTITIONS[0], 1)])
    kafka.decide([kafka.chunk(PARTITIONS[0], 4)])
    assert list(kafka.rows()[PARTITIONS[0]]) == [b"a"]
