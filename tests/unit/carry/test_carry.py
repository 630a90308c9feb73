"""The state of an anonymous id becomes that of the user who logs in, whatever the batches, crashes and partitions."""

import json
import random
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stream.carry.messages import Way
from stream.engine.engine import Engine
from stream.events import Partition
from stream.kafka.consumer.fetch import Chunk
from stream.kafka.delivery import Record
from stream.model.runtime import Model, load_model
from stream.settings import Topics
from stream.state.checksum import with_head
from stream.state.row import NO_OFFSET, Head
from stream.triggers.rules import Rule
from stream.wire.json import JsonCodec
from stream.wire.requests import CARRIED_HEADER, FORGET_HEADER, JOIN_HEADER, Carried, encode_carried
from stream.worker.cycles.batch import Batch
from stream.worker.served import open_engine
from tests.decide import batched
from tests.oracle import Moved, Oracle, event_name

START_MS = 1_700_000_000_000
MINUTE_MS, DAY_MS = 60_000, 86_400_000
TOPICS = Topics(behaviour="behaviour")
LIMITS = dict.fromkeys(msgspec.structs.astuple(TOPICS), 1_000_000)
PARTITIONS = Partition("clicks", 0), Partition("clicks", 1)
HOME = {"a": 0, "b": 1, "u": 0, "v": 1}
"""Id -> number of its partition; a and b are anonymous."""


class Sent(NamedTuple):
    """A message of the copies' topic.

    key   whose messages it is among
    user  of a click; None = a request to forget the key's user; "" = no valid click
    step  minutes since the message before it
    late  minutes by which it is late
    """

    key: str
    user: str | None
    item: str = "i1"
    step: int = 0
    late: float = 0


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


class Kafka:
    """The copies' topic with two partitions, and one worker of a group.

    kill  how often it is killed before a commit
    """

    def __init__(self, engine: Engine, new: Any, group: str = "shop", rng: random.Random | None = None) -> None:
        self.engine, self._new, self._rng = engine, new, rng or random.Random(0)
        self._way = Way(group, TOPICS.clicks, LIMITS[TOPICS.clicks]) if group else None
        self.logs: dict[Partition, list[Any]] = {partition: [] for partition in PARTITIONS}
        self.next = dict.fromkeys(PARTITIONS, 0)
        self.written: list[Record] = []
        self.batches: list[Batch] = []
        self.kill = 0.2
        self._now_ms = START_MS

    def send(self, one: Sent) -> None:
        """A message as the re-keying writes it."""
        self._now_ms += one.step * MINUTE_MS
        click = {"user_id": one.user, "item_id": one.item, "timestamp": round(self._now_ms - one.late * MINUTE_MS)}
        if one.item != "i1":
            click["category"] = f"of {one.item}"
        value, headers = (
            msgspec.json.encode(click | ({"consent": True} if one.item == "i2" and self.engine.triggers.rules else {})),
            [],
        )
        if one.user is None:
            value, headers = None, [(FORGET_HEADER, b"")]
        elif one.user != one.key:
            value = value if one.user else b"{" + value  # no JSON, and unlike the others
            headers = [("trace", b"1"), (JOIN_HEADER, (one.user or "u").encode())]
        self.append(PARTITIONS[HOME[one.key]], one.key.encode(), value, headers)

    def append(self, partition: Partition, key: bytes, value: bytes | None, headers: Any) -> None:
        offset = len(self.logs[partition]) * 2  # between two messages of a transaction there may be a marker
        self.logs[partition].append(
            SimpleNamespace(offset=offset, key=key, value=value, headers=tuple(headers), timestamp=START_MS)
        )

    def chunk(self, partition: Partition, count: int) -> Chunk:
        begin = self.next[partition]
        records = self.logs[partition][begin // 2 :][:count]
        return Chunk(partition, 1, begin, begin + 2 * len(records), 0, records, 0)

    def decide(self, chunks: list[Chunk], sends: bool = True) -> None:
        """One cycle, or several where a batch ends early."""
        now_ms = START_MS + 1_000 * DAY_MS
        batch = batched(self.engine, JsonCodec(65_536, 1000), TOPICS, LIMITS, chunks, self.next, now_ms, self._way)
        if self._rng.random() < self.kill:  # killed before the commit, and started again
            self.restart()
            return
        self.engine.commit(batch.cycle)
        for partition in PARTITIONS:
            totals = batch.cycle.staged.totals.get(partition)
            assert totals is None or totals == self.engine.arena.totals(partition)
        self.next |= batch.offsets
        self.written += batch.records
        self.batches.append(batch)
        for record in batch.records:
            if record.topic == TOPICS.clicks and sends:
                self.append(PARTITIONS[HOME[record.key.decode()]], record.key, record.value, record.headers)
        if batch.rest:
            self.decide(list(batch.rest), sends)

    def restart(self) -> None:
        before, self.engine = self.engine, self._new()
        for partition in PARTITIONS:
            self.engine.arena.hold(partition)
            assert self.engine.arena.load(partition, before.arena.rows(partition)) == []
            self.engine.arena.kept[partition] = before.arena.kept.get(partition, b"")
            self.engine.arena.advance(partition, before.arena.newest_ms(partition))

    def drain(self, most: int, sends: bool = True) -> None:
        while any(self.next[p] < 2 * len(self.logs[p]) for p in PARTITIONS):
            which = self._rng.choice([PARTITIONS, PARTITIONS[:1], PARTITIONS[1:]])
            self.decide([self.chunk(p, self._rng.randint(1, most)) for p in which], sends)

    def rows(self) -> dict[Partition, dict[bytes, bytes]]:
        return {partition: self.engine.arena.rows(partition) for partition in PARTITIONS}

    def events(self, *topics: str) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = defaultdict(list)
        for record in self.written:
            if record.topic in topics:
                found[record.topic].append(record.value)
        return {topic: sorted(values) for topic, values in found.items()}


def ran(kafka: Kafka, sent: list[Sent], most: int, rng: random.Random) -> Kafka:
    """Send and decide in turns."""
    for one in sent:
        kafka.send(one)
        if rng.random() < 0.3:
            kafka.decide([kafka.chunk(p, rng.randint(1, most)) for p in PARTITIONS])
    kafka.drain(most)
    return kafka


def by_definition(oracle: Oracle, kafka: Kafka) -> tuple[list[Any], list[Any], list[str]]:
    """Decisions and alerts, and what became of the states, by a loop over the messages of both partitions."""
    reached, on_the_way = dict.fromkeys(PARTITIONS, 0), list[tuple[bytes, bytes, Moved | None]]()
    decisions, alerts, outcomes = [], [], []
    while any(reached[p] < len(kafka.logs[p]) for p in PARTITIONS):
        moved_on = False
        for partition in PARTITIONS:
            for record in kafka.logs[partition][reached[partition] :]:
                headers, number, value = dict(record.headers), partition.number, record.value
                name = record.key.decode()
                if FORGET_HEADER in headers:
                    oracle.forget(number, name)
                elif JOIN_HEADER in headers:
                    on_the_way.append((headers[JOIN_HEADER], value, oracle.leave(number, name)))
                elif CARRIED_HEADER in headers:
                    value = msgspec.msgpack.decode(headers[CARRIED_HEADER])[1]
                    at = next((i for i, one in enumerate(on_the_way) if one[:2] == (record.key, value)), None)
                    if at is None:
                        break
                    moved = on_the_way.pop(at)[2]
                    if moved is not None:
                        known = (number, name) in oracle.users
                        oracle.arrive("clicks", number, record.offset, name, moved)
                        outcomes.append("taken" if oracle.users[number, name] is moved.user else "not_needed")
                        assert known or outcomes[-1] == "taken"
                expected = oracle.decide("clicks", number, record.offset, record.key, value)
                if expected is not None:
                    decisions.append(expected.decision)
                    alerts += [] if expected.alert is None else [expected.alert]
                reached[partition] += 1
                moved_on = True
        assert moved_on, "a state was carried that had never left"
    assert not on_the_way, "a click did not arrive"
    return decisions, alerts, outcomes


USERS = st.builds(
    Sent,
    key=st.sampled_from(["a", "a", "a", "b", "u", "v"]),
    user=st.none() | st.sampled_from(["key", "key", "key", "u", "u", "v", ""]),
    item=st.sampled_from(["i1", "i2", "i3", "never seen"]),
    step=st.sampled_from([0, 1, 5, 20, 31, 70, 14 * 1440, 40 * 1440, 95 * 1440]),
    late=st.sampled_from([0, 0, 0, 3, 40, 2000]),
)


def plausible(one: Sent) -> Sent:
    """Clicks of users who are logged in have no other id here."""
    return one._replace(user=one.key) if one.user == "key" or (one.key in "uv" and one.user is not None) else one


SENT = st.lists(USERS.map(plausible), max_size=24) | st.lists(
    USERS.map(plausible).filter(lambda one: one.step < 100 and one.user is not None), max_size=40
)


def unlike(sent: list[Sent]) -> list[Sent]:
    """Each with a time of its own, so that messages can be told apart."""
    return [one._replace(late=one.late + n / 60_000) for n, one in enumerate(sent)]  # ms


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(sent=SENT, most=st.sampled_from([1, 3, 100]), seed=st.integers(0, 2**16))
@example([Sent("a", "a"), Sent("a", "a", "i2", 1), Sent("a", "u", "i3", 1), Sent("u", "u", "i1", 1)], 100, 3)
@example([Sent("a", "a"), Sent("a", "u", step=40), Sent("u", "u", step=31), Sent("b", "v", step=31)], 100, 3)
@example([Sent("a", "a"), Sent("u", "u", step=31), Sent("a", "v")], 1, 0)
@example([Sent("u", "u"), Sent("a", "a", step=95 * 1440), Sent("a", "u", "i2", 1), Sent("u", None)], 100, 3)
@example([Sent("u", "u"), Sent("a", "a", step=95 * 1440), Sent("a", "u", "i2", 1)], 1, 0)
@example([Sent("a", "a"), Sent("u", "u", step=95 * 1440), Sent("a", "v")], 1, 0)
@example([Sent("a", "a"), Sent("a", "v", step=40)], 1, 0)
@example([Sent("a", "a"), Sent("a", "")], 1, 0)
@example([*[Sent("a", None)] * 9, Sent("a", ""), Sent("b", "b"), Sent("b", "")], 1, 0)
def test_states_go_over_as_in_a_loop_over_the_messages(
    model: Model, model_dir: Path, sent: list[Sent], most: int, seed: int
) -> None:
    """Decisions, alerts, sessions and rows; each click with both ids has exactly one decision."""
    rng = random.Random(seed)

    def new() -> Engine:
        return open_engine(model, model_dir, 5, 1, 0.3)

    kafka = ran(Kafka(new(), new, rng=rng), unlike(sent), most, rng)
    oracle = Oracle(model_dir, 5, 1, 0.3)
    decisions, alerts, outcomes = by_definition(oracle, kafka)
    topics = TOPICS.recommendations, TOPICS.sessions, TOPICS.anomalies
    found = {topic: list(map(json.loads, values)) for topic, values in kafka.events(*topics).items()}
    for topic, wanted in (
        (TOPICS.recommendations, decisions),
        (TOPICS.sessions, oracle.session_events()),
        (TOPICS.anomalies, [*alerts, *oracle.end_alerts()]),
    ):
        events = {event_name(one): one for one in found.get(topic, [])}
        assert len(events) == len(found.get(topic, []))
        assert events.keys() == {event_name(one) for one in wanted}
        for one in wanted:
            assert {name: events[event_name(one)][name] for name in one} == one
    counts = [batch.carried for batch in kafka.batches]
    assert sum(one["taken"] for one in counts) == outcomes.count("taken")
    assert sum(one["not_needed"] for one in counts) == outcomes.count("not_needed")
    expected = {(p, key): (row, gone) for p, key, row, gone in oracle.rows(kafka.engine.arena.model)}
    for partition, rows in kafka.rows().items():
        for key, row in rows.items():
            assert expected.pop((partition.number, key))[0] == row
    assert all(may_be_gone for _, may_be_gone in expected.values())


RULES = (
    Rule("cart", "abandoned", has=("view",), cooldown_ms=DAY_MS),
    Rule("gone", "away", after_ms=2 * DAY_MS, consent=True),
    Rule("viewed", "after", events=("view",), cooldown_ms=40 * MINUTE_MS),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(sent=SENT, most=st.sampled_from([3, 100]), seed=st.integers(0, 2**16))
def test_triggers_and_hours_do_not_depend_on_the_batches(
    model: Model, model_dir: Path, sent: list[Sent], most: int, seed: int
) -> None:
    """A second worker reads the same messages one by one, and writes the same, also the states on their way."""
    rng = random.Random(seed)

    def new() -> Engine:
        return open_engine(model, model_dir, 5, 1, 0.3, triggers=RULES, hours=True)

    first = ran(Kafka(new(), new, rng=rng), unlike(sent), most, rng)
    second = Kafka(new(), new, rng=rng)
    second.logs = first.logs
    second.drain(1, sends=False)
    topics = TOPICS.triggers, TOPICS.behaviour, TOPICS.sessions, TOPICS.recommendations, TOPICS.dead_letters
    assert second.events(*topics) == first.events(*topics)
    sent_on = [[(r.key, r.headers) for r in one.written if r.topic == TOPICS.clicks] for one in (first, second)]
    assert sorted(sent_on[0]) == sorted(sent_on[1])
    assert second.rows() == first.rows()


def logged_in(model: Model, model_dir: Path, **changed: Any) -> tuple[Kafka, Kafka]:
    """A worker whose user has logged in, up to the message with the state; and a new one, to which only this comes.

    changed  fields of this message that are other ones
    """
    engine = open_engine(model, model_dir, 5, 1, 0.3)
    first, second = (
        Kafka(one, None, rng=random.Random(5)) for one in (engine, open_engine(model, model_dir, 5, 1, 0.3))
    )
    first.kill = second.kill = 0.0
    for one in (Sent("a", "a"), Sent("a", "u", "i2", 1)):
        first.send(one)
    first.decide([first.chunk(PARTITIONS[0], 2)])
    [message] = first.logs[PARTITIONS[0]][2:]
    fields = msgspec.msgpack.decode(dict(message.headers)[CARRIED_HEADER])
    found = dict(zip(("group", "value", "row"), fields, strict=True)) | changed
    second.append(PARTITIONS[0], message.key, None, [(CARRIED_HEADER, encode_carried(Carried(**found)))])
    second.decide([second.chunk(PARTITIONS[0], 1)])
    return first, second


def outcome(kafka: Kafka) -> tuple[int, dict[str, int]]:
    """Number of decided clicks, and what became of the states."""
    [batch] = kafka.batches[-1:]
    return len(batch.cycle.decided), {name: n for name, n in batch.carried.items() if n}


def test_the_state_leaves_with_the_click_and_arrives_before_it(model: Model, model_dir: Path) -> None:
    """The click is decided once, where the user's clicks are."""
    first, second = logged_in(model, model_dir)
    assert first.rows()[PARTITIONS[0]] == {}
    [message] = [record for record in first.written if record.topic == TOPICS.clicks]
    assert message.timestamp == START_MS
    _, _, carried = msgspec.msgpack.decode(dict(message.headers or ())[CARRIED_HEADER])
    assert Head.of(carried).source_offset == NO_OFFSET
    assert outcome(second) == (1, {"taken": 1})
    row = second.engine.arena.gather(second.engine.arena.find([(PARTITIONS[0], b"u")]).slots)
    assert row["clicks"].tolist() == [2]
    assert outcome(logged_in(model, model_dir, row=None)[1]) == (1, {})


def test_a_state_that_is_broken_or_foreign_is_refused_and_the_click_decided(model: Model, model_dir: Path) -> None:
    """Bytes that were changed, cut off or added; one of another model; one for another user."""
    first, _ = logged_in(model, model_dir)
    good = msgspec.msgpack.decode(dict(first.logs[PARTITIONS[0]][2].headers)[CARRIED_HEADER])[2]
    other = with_head(b"u", good, model=1)
    foreign = with_head(b"v", good)
    for row in (
        b"",
        b"x",
        good[:-8],
        good + b"x" * 8,
        good[:100] + bytes([good[100] ^ 1]) + good[101:],
        other,
        foreign,
    ):
        _, second = logged_in(model, model_dir, row=row)
        assert outcome(second) == (1, {"refused": 1})


def test_the_states_of_another_group_are_skipped(model: Model, model_dir: Path) -> None:
    """With their clicks: this group has a message of its own."""
    _, second = logged_in(model, model_dir, group="other")
    assert outcome(second) == (0, {})
    assert second.next[PARTITIONS[0]] == 2


@pytest.mark.parametrize(
    "header", [None, b"", b"x", b"\x90", b"\x93\xa4shop\x01\xc0", msgspec.msgpack.encode(["shop"])]
)
def test_what_only_looks_like_a_message_with_a_state_is_a_dead_letter(
    model: Model, model_dir: Path, header: bytes | None
) -> None:
    """The stream goes on."""
    kafka = Kafka(open_engine(model, model_dir, 5, 1, 0.3), None)
    kafka.kill = 0.0
    kafka.append(PARTITIONS[0], b"u", None, [(CARRIED_HEADER, header)])
    kafka.append(PARTITIONS[0], b"u", b"{}", [(CARRIED_HEADER, header)])
    kafka.append(PARTITIONS[0], b"", b"{}", [(JOIN_HEADER, b"u")])
    kafka.append(PARTITIONS[0], b"a", b"{}", [(JOIN_HEADER, b"")])
    kafka.send(Sent("u", "u"))
    kafka.decide([kafka.chunk(PARTITIONS[0], 5)])
    assert outcome(kafka) == (1, {})
    assert len(kafka.batches[0].refused) == 4


@pytest.mark.parametrize(
    ("most_bytes", "traced", "whole"), [(60_000, True, True), (42_000, False, True), (30_000, False, False)]
)
def test_a_second_message_fits_its_topic(
    model: Model, model_dir: Path, most_bytes: int, traced: bool, whole: bool
) -> None:
    """Kafka would refuse the transaction again and again. The headers go first; of a click that another worker has
    copied, and that is too long for this one, the rest too."""
    kafka = Kafka(open_engine(model, model_dir, 5, 1, 0.3), None)
    assert kafka._way is not None
    kafka.kill, kafka._way = 0.0, kafka._way._replace(most_bytes=most_bytes)
    kafka.send(Sent("a", "a"))
    value = b'{"user_id": "u", "item_id": "i1", "timestamp": %d, "x": "%s"}' % (START_MS, b"x" * 40_000)
    kafka.append(PARTITIONS[0], b"a", value, [("trace", b"1" * 10_000), (JOIN_HEADER, b"u")])
    kafka.decide([kafka.chunk(PARTITIONS[0], 2)])
    [message] = kafka.logs[PARTITIONS[0]][2:]
    assert len(message.key) + sum(len(name) + len(data) + 8 for name, data in message.headers) <= most_bytes
    _, sent, row = msgspec.msgpack.decode(dict(message.headers)[CARRIED_HEADER])
    assert ("trace" in dict(message.headers)) is traced
    assert (sent == value, row is not None) == (whole, whole)
    assert value.startswith(sent)


def test_a_worker_without_such_a_mapping_takes_no_state(model: Model, model_dir: Path) -> None:
    """It makes dead letters of the messages: they are not for it."""
    first, _ = logged_in(model, model_dir)
    kafka = Kafka(open_engine(model, model_dir, 5, 1, 0.3), None, group="")
    kafka.kill, kafka.logs = 0.0, first.logs
    kafka.decide([kafka.chunk(PARTITIONS[0], 3)])
    assert [letter.why.reason for letter in kafka.batches[0].refused] == ["key_is_not_user", "empty_value"]
