"""Sessions: when they begin and end, and what is written of them."""

import dataclasses
import itertools
import json
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stream.engine.columns import Encoder
from stream.engine.engine import Cycle, Engine
from stream.events import Click, Origin, Partition
from stream.manifest import Ahead
from stream.model.runtime import Model, load_model
from stream.sessions.summary import Clicks, Running
from stream.settings import Rules
from stream.worker.served import anomalies, open_engine, sessions
from tests.decide import NOW_MS, at_rest, parted
from tests.oracle_sessions import Event, Sessions

MINUTE_MS = 60_000
START_MS = 1_700_000_000_000 // MINUTE_MS * MINUTE_MS


class Sent(NamedTuple):
    """A click of a user so many seconds after START_MS; without a type, a request to forget the user."""

    partition: int
    user: str
    second: float
    event_type: str = "view"
    event_id: str | None = None
    item: str = "i1"
    price: float | None = None
    quantity: float | None = None
    category: str | None = None

    @property
    def click(self) -> Click:
        at_ms = START_MS + int(self.second * 1000)
        more = {"price": self.price, "quantity": self.quantity, "category": self.category}
        return Click(self.user, self.item, at_ms, self.event_type, event_id=self.event_id, **more)


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


def new_engine(model: Model, model_dir: Path) -> Engine:
    return open_engine(model, model_dir, 3, 1, 0.001)


def events(engine: Engine, sent: list[tuple[int, Sent]], commit: bool = True) -> list[Event]:
    """Decide on one batch, (offset, what was sent) each. Returns what is written on the topic of the sessions."""
    clicks, origins, requests = parted(sent)
    cycle = engine.process(engine.encoder.columns(clicks, origins, requests), NOW_MS)
    found = written(engine, clicks, origins, cycle)
    if commit:
        engine.commit(cycle)
    return found


def written(engine: Engine, clicks: list[Click], origins: list[Origin], cycle: Cycle) -> list[Event]:
    return [json.loads(msgspec.json.encode(one)) for one in sessions(engine, clicks, origins, cycle)]


USERS = st.sampled_from(["a", "b", "c", "d"])
SENT = st.builds(
    Sent,
    partition=st.sampled_from([0, 0, 1]),
    user=USERS,
    # whole sessions, their ends to the second, and clicks that come late
    second=st.integers(0, 240).map(lambda n: n * 60.0) | st.integers(0, 8).map(lambda n: n * 1800.0 - 0.001),
    event_type=st.sampled_from(["view", "view", "cart", "purchase", "wish", ""]),
    event_id=st.none() | st.sampled_from(["x", "y"]),
    item=st.sampled_from(["i1", "i2", "new"]),
    price=st.none() | st.sampled_from([0.0, 19.99, 1e300]),
    quantity=st.none() | st.sampled_from([0.0, 3.0, 1e300]),
    category=st.none() | st.sampled_from(["shoes", "boots", "Schuhe/Größe 40"]),
)
IN_ONE_SESSION = st.builds(
    Sent,
    partition=st.just(0),
    user=st.sampled_from(["a", "a", "b"]),
    second=st.integers(0, 1799).map(float),
    event_type=st.sampled_from(["view", "cart", "purchase", "wish"]),
    event_id=st.none(),
    item=st.integers(0, 30).map("item {}".format),
    price=st.none() | st.floats(0, 1e6),
    quantity=st.none() | st.floats(0, 100),
    category=st.none() | st.integers(0, 12).map("category {}".format),
)


def gone(found: list[Event]) -> dict[str, list[Event]]:
    parts: dict[str, list[Event]] = defaultdict(list)
    for event in found:
        parts[event["id"].split("-")[1]].append(event)
    return parts


class Loop:
    """The sessions of a partition from a plain loop, and what decides whether a click counts and starts one."""

    def __init__(self, number: int, model: Model) -> None:
        types = list(model.manifest.event_types)
        self.sessions, self._types = Sessions(f"clicks-{number}-", types, model.manifest.label), types
        self._last_ms: dict[str, int] = {}
        self._ids: dict[str, list[str]] = {}
        self._now_ms = 0

    def send(self, offset: int, one: Sent) -> None:
        if not one.event_type:
            for of in (self.sessions.of, self._last_ms, self._ids):
                of.pop(one.user, None)
            return
        at_ms = START_MS + int(one.second * 1000)
        self._now_ms = max(self._now_ms, at_ms)
        self.sessions.time(self._now_ms)
        before_ms = self._last_ms.get(one.user)
        self._last_ms[one.user] = max(at_ms, before_ms or 0)
        ids = self._ids.setdefault(one.user, [])
        if one.event_id in ids:
            return
        ids += [one.event_id] if one.event_id else []
        starts = before_ms is None or at_ms - before_ms >= 1_800_000
        known = self._types.index(one.event_type) if one.event_type in self._types else len(self._types)
        click = {"event_type": "view"} | msgspec.to_builtins(one.click)
        self.sessions.click(one.user, starts, known, click, self._now_ms, offset)

    def rest(self) -> None:
        if self.sessions.is_open:
            self._now_ms = (self._now_ms // MINUTE_MS + 31) * MINUTE_MS
            self.sessions.time(self._now_ms)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    sent=st.lists(SENT, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    rests=st.sets(st.integers(0, 40), max_size=4),
    in_order=st.booleans(),
)
@example(  # the first click after the end of a session is late: it goes on with the session
    sent=[Sent(0, "a", 0), Sent(0, "b", 1800), Sent(0, "a", 60), Sent(0, "b", 3700)],
    cuts=[],
    rests=set(),
    in_order=False,
)
@example(  # a session ends by the time, before its user is forgotten in the same batch and begins again
    sent=[Sent(0, "a", 0), Sent(0, "b", 3600), Sent(0, "a", 3600, ""), Sent(0, "a", 3660)],
    cuts=[1],
    rests=set(),
    in_order=True,
)
@example(  # a session goes on with a click of a later batch: it does not end by its time before that click
    sent=[Sent(0, "a", 0), Sent(0, "a", 600), Sent(0, "b", 1860)], cuts=[1, 2], rests=set(), in_order=True
)
@example(  # sessions of one minute end in the order in which they began, and not in that of the users' rows
    sent=[Sent(0, "a", 0), Sent(0, "b", 1860), Sent(0, "a", 1860), Sent(0, "c", 7200)],
    cuts=[1, 3],
    rests=set(),
    in_order=True,
)
@example(  # the same sessions do not end again: the time of a partition at rest has moved on
    sent=[Sent(0, "a", 0), Sent(0, "b", 60), Sent(0, "a", 1800)], cuts=[1, 2], rests={1, 2, 3}, in_order=True
)
def test_sessions_are_those_of_a_plain_loop_in_any_batches(
    model: Model, model_dir: Path, sent: list[Sent], cuts: list[int], rests: set[int], in_order: bool
) -> None:
    """Begins and ends, and what the rows keep: with late clicks, repeated ones, users who are forgotten, and
    partitions that rest before the clicks `rests`."""
    if in_order:
        sent = sorted(sent, key=lambda one: one.second)
    compare(model, model_dir, sent, cuts, rests)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    sent=st.lists(IN_ONE_SESSION, min_size=10, max_size=60),
    cuts=st.lists(st.integers(0, 60), max_size=10),
    rests=st.sets(st.integers(0, 60), max_size=2),
)
def test_summaries_of_long_sessions_are_those_of_a_plain_loop(
    model: Model, model_dir: Path, sent: list[Sent], cuts: list[int], rests: set[int]
) -> None:
    """Paths with more runs than are kept, items beyond the exact ones, sums of prices, and late clicks, which can be
    before the first one or after the end."""
    compare(model, model_dir, [*sent, Sent(0, "b", 9000), Sent(0, "a", 18000)], cuts, rests)


def compare(model: Model, model_dir: Path, sent: list[Sent], cuts: list[int], rests: set[int]) -> None:
    """Decide on the clicks in batches that end at `cuts`; before the clicks `rests` all partitions rest."""
    engine, loops = new_engine(model, model_dir), [Loop(number, model) for number in (0, 1)]
    for offset, one in enumerate(sent):
        if offset in rests:
            for loop in loops:
                loop.rest()
        loops[one.partition].send(offset, one)
    found: list[Event] = []
    edges = [0, *sorted(cut for cut in {*cuts, *rests} if cut < len(sent)), len(sent)]
    for begin, end in itertools.pairwise(edges):
        if begin in rests and begin < end:
            cycle = at_rest(engine, [Partition("clicks", number) for number in (0, 1)])
            found += written(engine, [], [], cycle)
            engine.commit(cycle)
        batch = list(enumerate(sent))[begin:end]
        dropped = events(engine, batch, commit=False) if begin % 3 == 0 else None
        now = events(engine, batch)
        assert dropped in (None, now)
        found += now
    for number, loop in enumerate(loops):
        partition = Partition("clicks", number)
        mine = [e for e in found if e["id"].startswith(f"{partition}-")]
        assert [{k: v for k, v in e.items() if k != "alerts"} for e in mine] == loop.sessions.events
        users = list(loop.sessions.of)
        rows = engine.arena.gather(engine.arena.find([(partition, user.encode()) for user in users]).slots)
        kept = [
            (one.seen_ms, one.offset, one.start_ms, one.last_ms, one.revision, one.types)
            for one in loop.sessions.of.values()
        ]
        names = ("seen_ms", "session_offset", "session_start_ms", "session_last_ms", "session_revision")
        assert kept == list(zip(*(rows[n].tolist() for n in (*names, "session_types")), strict=True))
        for of_user, row in zip(loop.sessions.of.values(), rows, strict=True):
            now = {name: row[name].tolist() for name in of_user.kept}
            assert of_user.kept | {"session_alerts": now["session_alerts"]} == now


def test_a_session_counts_the_alerts_that_began_in_it(model: Model, model_dir: Path) -> None:
    """As many as there are alerts on its clicks that opened an episode."""
    engine, rng = open_engine(model, model_dir, 3, 1, 0.3), random.Random(3)
    sent = [
        Sent(0, f"u{n % 5}", n * 60.0 + (n // 200) * 3600, rng.choice(["view", "cart"]), item=f"i{rng.randrange(50)}")
        for n in range(1_000)
    ]
    clicks, origins = [one.click for one in sent], [Origin("clicks", 0, n) for n in range(1_000)]
    opened, found = Counter[str](), dict[str, Event]()
    for start in range(0, 1_000, 90):
        some, of = clicks[start : start + 90], origins[start : start + 90]
        cycle = engine.process(engine.encoder.columns(some, of), NOW_MS)
        opened.update(one.user_id for one in anomalies(engine, some, of, cycle) if one.id == one.episode)
        found |= {one["id"]: one for one in written(engine, some, of, cycle)}
        engine.commit(cycle)
    found |= {one["id"]: one for one in written(engine, [], [], at_rest(engine, [Partition("clicks", 0)]))}
    counted = Counter[str]()
    for one in found.values():
        counted[one["user_id"]] += one.get("alerts", 0)
    assert len(found) == 25
    assert counted == opened
    assert min(opened.values()) >= 5


def test_many_items_of_a_session_are_estimated(model: Model, model_dir: Path) -> None:
    """Exactly up to 16 clicks; beyond, the estimate is within three standard errors."""
    engine = new_engine(model, model_dir)
    counts = {"few": 16, "some": 50, "many": 200}
    sent = [Sent(0, user, n, item=f"{user} {n}") for user, count in counts.items() for n in range(count)]
    sent += [Sent(0, user, count, item=f"{user} 0") for user, count in counts.items() if user != "few"]
    events(engine, list(enumerate(sent)))
    found = {one["user_id"]: one["items"] for one in events(engine, [(len(sent), Sent(0, "clock", 9000))])[:3]}
    assert found["few"] == 16
    assert abs(found["some"] - 50) <= 3 * 0.07 * 50
    assert abs(found["many"] - 200) <= 3 * 0.08 * 200


VISITED = ["shoes", None, "boots", "shoes", "hats", None]


@pytest.mark.parametrize("largest", [1, 2, 100])
@pytest.mark.parametrize("end", ["next click", "time", "rest"])
def test_the_categories_of_a_session_are_counted(model: Model, model_dir: Path, end: str, largest: int) -> None:
    """Those of its own clicks, each once, however it ends and in any batches. A click without a category counts for
    none. A late click adds its own: the session ends again, and has one category more."""
    engine = new_engine(model, model_dir)
    sent = [Sent(0, "a", n, category=name) for n, name in enumerate(VISITED)]
    sent += [Sent(0, "none", 30.0)] if end == "rest" else [Sent(0, "none", 30.0), Sent(0, "clock", 1900.0)]
    if end == "next click":
        sent[-1] = Sent(0, "a", 1806.0, category="gloves")
    numbered, found = list(enumerate(sent)), list[Event]()
    for start in range(0, len(sent), largest):
        found += events(engine, numbered[start : start + largest])
    if end == "rest":
        cycle = at_rest(engine, [Partition("clicks", 0)])
        found += written(engine, [], [], cycle)
        engine.commit(cycle)
    of_a, of_none = ([one for one in found if one["user_id"] == name] for name in ("a", "none"))
    assert [one.get("categories") for one in of_a] == [None, 3, *([None] if end == "next click" else [])]
    assert [one.get("categories") for one in of_none] == [None] * len(of_none)
    if end != "next click":
        late = Sent(0, "a", 3.0, category="gloves"), Sent(0, "clock", 20_000.0)
        again = [one for one in events(engine, list(enumerate(late, len(sent)))) if one["user_id"] == "a"]
        assert [(one["revision"], one["categories"]) for one in again] == [(1, 4)]


def test_a_run_of_very_many_clicks_is_cut(model: Model, model_dir: Path) -> None:
    """Over several batches, so that the number in the row does not begin again at 0."""
    engine = new_engine(model, model_dir)
    events(engine, [(0, Sent(0, "a", 0))])
    rows = engine.arena.gather(engine.arena.find([(Partition("clicks", 0), b"a")]).slots)
    rows["session_path_clicks"][:, 0] = 65_534
    before = {name: rows[name] for name in rows.dtype.names or ()}
    for _ in range(3):
        zeros, same = np.zeros(3, np.int64), np.zeros(3, np.uint64)
        clicks = Clicks(zeros, zeros, same, same > 0, None, None, same > 0)
        running = Running(clicks, np.zeros(3, np.intp), np.ones(3, np.bool_), np.zeros(3, np.intp), before)
        found = running.after(np.array([2]), np.zeros(1, np.int64))
        (count, *others), runs = found.path_clicks[0].tolist(), found.runs.tolist()
        assert (count, {*others}, runs) == (65_535, {0}, [1])
        before["session_path_clicks"][:, 0] = count


@pytest.mark.parametrize(("intent", "worth"), [("cart", 5.0), (None, 14.0)])
def test_the_value_is_that_of_the_type_of_the_intent(
    model: Model, model_dir: Path, intent: str | None, worth: float
) -> None:
    """Of purchases, if the model predicts no intent. A click without a quantity counts once; without a price, not."""
    ahead = Ahead(returns=False, clicks=0, weights={}, intent=intent)
    manifest = msgspec.structs.replace(model.manifest, ahead=ahead)
    engine = new_engine(model, model_dir)
    engine.encoder = Encoder(dataclasses.replace(model, manifest=manifest), Rules(), None)
    bought = [("cart", 5.0, None), ("purchase", 3.5, 4.0), ("purchase", None, 2.0), ("view", 7.0, 1.0)]
    sent = [Sent(0, "a", n, kind, price=price, quantity=count) for n, (kind, price, count) in enumerate(bought)]
    events(engine, list(enumerate(sent)))
    (closed, _) = events(engine, [(4, Sent(0, "clock", 9000))])
    assert closed["value"] == worth
