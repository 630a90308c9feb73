"""Sessions: when they begin and end, and what is written of them."""

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stream.engine.engine import Cycle, Engine
from stream.engine.requests import Request
from stream.events import Click, Origin, Partition
from stream.model.runtime import Model, load_model
from stream.worker.served import open_engine, sessions
from tests.decide import NOW_MS
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


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


def new_engine(model: Model, model_dir: Path) -> Engine:
    return open_engine(model, model_dir, 3, 1, 0.001)


def events(engine: Engine, sent: list[tuple[int, Sent]], commit: bool = True) -> list[Event]:
    """Decide on one batch, (offset, what was sent) each. Returns what is written on the topic of the sessions."""
    clicks: list[Click] = []
    origins: list[Origin] = []
    requests: list[Request] = []
    for offset, one in sent:
        if not one.event_type:
            requests.append(Request(len(clicks), (Partition("clicks", one.partition), one.user.encode())))
            continue
        at_ms = START_MS + int(one.second * 1000)
        clicks.append(Click(one.user, "i1", at_ms, one.event_type, event_id=one.event_id))
        origins.append(Origin("clicks", one.partition, offset))
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
    event_type=st.sampled_from(["view", "view", "cart", "wish", ""]),
    event_id=st.none() | st.sampled_from(["x", "y"]),
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
        self.sessions.click(one.user, starts, known, at_ms, self._now_ms, offset)

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
            cycle = engine.rest([Partition("clicks", number) for number in (0, 1)])
            found += written(engine, [], [], cycle)
            engine.commit(cycle)
        batch = list(enumerate(sent))[begin:end]
        dropped = events(engine, batch, commit=False) if begin % 3 == 0 else None
        now = events(engine, batch)
        assert dropped in (None, now)
        found += now
    for number, loop in enumerate(loops):
        partition = Partition("clicks", number)
        assert [e for e in found if e["id"].startswith(f"{partition}-")] == loop.sessions.events
        users = list(loop.sessions.of)
        rows = engine.arena.gather(engine.arena.find([(partition, user.encode()) for user in users]).slots)
        kept = [
            (one.seen_ms, one.offset, one.start_ms, one.last_ms, one.revision, one.types)
            for one in loop.sessions.of.values()
        ]
        names = ("seen_ms", "session_offset", "session_start_ms", "session_last_ms", "session_revision")
        assert kept == list(zip(*(rows[n].tolist() for n in (*names, "session_types")), strict=True))
