"""Requests about a user at their place among the clicks.

One to forget ends the user's row, so clicks after it are those of a new user. One for quiet keeps alerts back.
"""

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.detect.statistics import STATISTICS
from stream.engine.engine import Cycle, Engine
from stream.engine.requests import Request
from stream.events import Click, Origin, Partition
from stream.model.runtime import Model, load_model
from stream.population.quiet import Quiet
from stream.worker.served import anomalies, open_engine, recommendations
from tests.decide import NOW_MS
from tests.oracle import Expected, Oracle

ONE = Partition("clicks", 0)
START_MS = 1_700_000_000_000
DAY_MS = 86_400_000


class Hush(NamedTuple):
    """A request to keep alerts on a user back."""

    user: str
    until_ms: int
    statistics: list[str]


Message = Click | str | Hush
"""A click, the id of a user who is to be forgotten, or a request for quiet."""


class Done(NamedTuple):
    """A cycle with its decisions and its alerts."""

    cycle: Cycle
    decisions: list[dict[str, object]]
    alerts: list[dict[str, object]]


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


@pytest.fixture
def engine(model: Model, model_dir: Path) -> Engine:
    return open_engine(model, model_dir, 5, 1, 0.05)


def click(user: str, item: str = "i1", event_id: str | None = None, day: int = 0) -> Click:
    return Click(user, item, START_MS + day * DAY_MS, event_id=event_id)


def run(engine: Engine, messages: list[Message], start: int = 0) -> Done:
    """Decide on messages at consecutive offsets and commit their rows; check the totals that the mark would have."""
    clicks: list[Click] = []
    origins: list[Origin] = []
    requests: list[Request] = []
    for offset, one in enumerate(messages, start):
        if isinstance(one, str):
            requests.append(Request(len(clicks), (ONE, one.encode())))
        elif isinstance(one, Hush):
            requests.append(Request(len(clicks), (ONE, one.user.encode()), Quiet.of(one.until_ms, one.statistics)))
        else:
            clicks.append(one)
            origins.append(Origin("clicks", 0, offset))
    cycle = engine.process(engine.encoder.columns(clicks, origins, requests), NOW_MS)
    engine.commit(cycle)
    assert cycle.staged.totals.get(ONE, engine.arena.totals(ONE)) == engine.arena.totals(ONE)
    made = recommendations(engine, clicks, origins, cycle), anomalies(engine, clicks, origins, cycle)
    return Done(cycle, *([json.loads(msgspec.json.encode(one)) for one in events] for events in made))


CLICKS = {
    "user": st.sampled_from(["a", "b", "c"]),
    "item": st.sampled_from(["i1", "i2", "i3", "never seen"]),
    "event_id": st.none() | st.sampled_from(["x", "y"]),
}
HUSHES = st.builds(
    Hush,
    user=st.sampled_from(["a", "b", "c"]),
    until_ms=st.sampled_from([0, START_MS + 1000, START_MS + 20 * DAY_MS, START_MS + 60 * DAY_MS]),
    statistics=st.sampled_from([[], ["rate"], ["one item", "twins", "clicks"]]),
)
MESSAGES = st.lists(st.sampled_from(["a", "b", "c"]) | st.builds(click, **CLICKS) | HUSHES, max_size=30) | st.lists(
    # A user with one click is forgotten after 30 days. There is no request to forget: it may set the clock back.
    st.builds(click, day=st.sampled_from([0, 0, 0, 1, 40]), **CLICKS) | HUSHES,
    max_size=30,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(messages=MESSAGES, cuts=st.lists(st.integers(0, 30), max_size=4))
def test_requests_do_not_depend_on_the_batches(
    model: Model, model_dir: Path, messages: list[Message], cuts: list[int]
) -> None:
    """However the stream is cut, decisions, alerts and rows are those of a loop that applies each request when it
    comes."""
    engine, oracle = open_engine(model, model_dir, 5, 1, 0.5), Oracle(model_dir, 5, 1, 0.5)
    expected: list[Expected | None] = []
    for offset, one in enumerate(messages):
        if isinstance(one, str):
            oracle.forget(0, one)
            expected.append(None)
        elif isinstance(one, Hush):
            oracle.quiet(0, *one)
            expected.append(None)
        else:
            expected.append(oracle.decide("clicks", 0, offset, one.user_id.encode(), msgspec.json.encode(one)))
    edges = sorted({0, len(messages), *(cut for cut in cuts if cut < len(messages))})
    for a, b in itertools.pairwise(edges):
        done, want = run(engine, messages[a:b], a), [one for one in expected[a:b] if one is not None]
        assert done.decisions == [one.decision for one in want]
        assert done.alerts == [one.alert for one in want if one.alert is not None]
    assert engine.arena.rows(ONE) == {key: row for _, key, row, _ in oracle.rows(engine.arena.model)}


def test_the_row_is_a_tombstone_only_where_there_was_one(engine: Engine) -> None:
    """A request goes to every partition, so it must not write the id where the user has no row."""
    run(engine, [click("a"), click("b")])
    assert run(engine, ["a", "nobody"], 2)[0].staged.changelog == [(ONE, b"a", None)]
    assert run(engine, ["a"], 4)[0].staged.changelog == []
    assert run(engine, [click("c"), "c"], 5)[0].staged.changelog == []


def test_a_user_who_comes_back_in_the_same_batch_has_a_new_row(engine: Engine) -> None:
    """One row is written for the user, that of the clicks after the last request."""
    cycle, decisions, _ = run(engine, [click("a"), "a", click("a"), click("b"), "a", click("a", "i2")])
    assert len(decisions) == 4
    assert [key for _, key, _ in cycle.staged.changelog] == [b"b", b"a"]
    assert engine.arena.gather(engine.arena.find([(ONE, b"a")]).slots)["clicks"].tolist() == [1]


BOT: list[Message] = [Click("bot", "i1", START_MS + 1000 * n) for n in range(12)]


def test_a_quiet_user_has_p_values_and_no_alert(model: Model, model_dir: Path) -> None:
    """Alerts come again with the first unusual click after the time. The p-values are those of a user who is not
    quiet."""
    loud = run(open_engine(model, model_dir, 5, 1, 0.05), BOT)
    quiet = run(open_engine(model, model_dir, 5, 1, 0.05), [BOT[0], Hush("bot", START_MS + 9_000, []), *BOT[1:]])
    assert [one["p_value"] for one in quiet.decisions] == [one["p_value"] for one in loud.decisions]
    assert loud.alerts
    assert loud.alerts[0]["timestamp"] < START_MS + 9_000
    assert [one["timestamp"] for one in quiet.alerts][:1] == [START_MS + 9_000]


def test_only_the_named_statistics_are_quiet(model: Model, model_dir: Path) -> None:
    """An alert whose strongest statistic has another name is raised as ever."""
    loud = run(open_engine(model, model_dir, 5, 1, 0.05), BOT).alerts
    strongest = [next(iter(one["statistics"])) for one in loud]
    for names in ({*strongest}, {*STATISTICS} - {*strongest}):
        hush = Hush("bot", START_MS + DAY_MS, sorted(names))
        found = run(open_engine(model, model_dir, 5, 1, 0.05), [BOT[0], hush, *BOT[1:]]).alerts
        assert [one["timestamp"] for one in found] == ([] if strongest[0] in names else [o["timestamp"] for o in loud])


def test_a_request_for_quiet_writes_no_row_of_its_own(engine: Engine) -> None:
    """It goes to every partition, and only that with the user's row changes. It is there also if it comes alone."""
    run(engine, [click("a")])
    done = run(engine, [Hush("a", START_MS + DAY_MS, []), Hush("nobody", START_MS + DAY_MS, [])], 1)
    assert [key for _, key, _ in done.cycle.staged.changelog] == [b"a"]
    row = engine.arena.gather(engine.arena.find([(ONE, b"a")]).slots)
    assert row["quiet_until_s"].tolist() == [(START_MS + DAY_MS) // 1000]


def test_a_user_who_is_forgotten_after_a_request_for_quiet_is_quiet_no_longer(engine: Engine) -> None:
    """Also if the request, the one to forget and the next click are in one batch."""
    run(engine, [click("a")])
    run(engine, [Hush("a", START_MS + DAY_MS, []), "a", click("a")], 1)
    row = engine.arena.gather(engine.arena.find([(ONE, b"a")]).slots)
    assert (row["clicks"].tolist(), row["quiet_until_s"].tolist()) == ([1], [0])
