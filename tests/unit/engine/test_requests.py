"""A request to forget a user ends the user's row: clicks before it count, clicks after it are those of a new user."""

import itertools
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.engine.engine import Cycle, Engine
from stream.engine.requests import Request
from stream.events import Click, Origin, Partition
from stream.model.runtime import Model, load_model
from stream.worker.served import open_engine, recommendations
from tests.decide import NOW_MS
from tests.oracle import Oracle

ONE = Partition("clicks", 0)
START_MS = 1_700_000_000_000
Message = Click | str
"""A click, or the id of a user who is to be forgotten."""


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


@pytest.fixture
def engine(model: Model, model_dir: Path) -> Engine:
    return open_engine(model, model_dir, 5, 1, 0.05)


def click(user: str, item: str = "i1", event_id: str | None = None) -> Click:
    return Click(user, item, START_MS, event_id=event_id)


def run(engine: Engine, messages: list[Message], start: int = 0) -> tuple[Cycle, list[dict[str, object]]]:
    """Decide on messages at consecutive offsets and commit their rows; check the totals that the mark would have."""
    clicks: list[Click] = []
    origins: list[Origin] = []
    requests: list[Request] = []
    for offset, one in enumerate(messages, start):
        if isinstance(one, str):
            requests.append(Request(len(clicks), (ONE, one.encode())))
        else:
            clicks.append(one)
            origins.append(Origin("clicks", 0, offset))
    cycle = engine.process(engine.encoder.columns(clicks, origins, requests), NOW_MS)
    engine.commit(cycle)
    assert cycle.staged.totals.get(ONE, engine.arena.totals(ONE)) == engine.arena.totals(ONE)
    return cycle, [msgspec.to_builtins(one) for one in recommendations(engine, clicks, origins, cycle)]


MESSAGES = st.lists(
    st.sampled_from(["a", "b", "c"])
    | st.builds(
        click,
        user=st.sampled_from(["a", "b", "c"]),
        item=st.sampled_from(["i1", "i2", "i3", "never seen"]),
        event_id=st.none() | st.sampled_from(["x", "y"]),
    ),
    max_size=30,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=80)
@given(messages=MESSAGES, cuts=st.lists(st.integers(0, 30), max_size=4))
def test_requests_do_not_depend_on_the_batches(
    model: Model, model_dir: Path, messages: list[Message], cuts: list[int]
) -> None:
    """However the stream is cut, decisions and rows are those of a loop that deletes the user at the request."""
    engine, oracle = open_engine(model, model_dir, 5, 1, 0.05), Oracle(model_dir, 5, 1, 0.05)
    expected: list[dict[str, object] | None] = []
    for offset, one in enumerate(messages):
        if isinstance(one, str):
            oracle.users.pop((0, one), None)
            expected.append(None)
        else:
            found = oracle.decide("clicks", 0, offset, one.user_id.encode(), msgspec.json.encode(one))
            expected.append(found and found.decision)
    edges = sorted({0, len(messages), *(cut for cut in cuts if cut < len(messages))})
    for a, b in itertools.pairwise(edges):
        assert run(engine, messages[a:b], a)[1] == [one for one in expected[a:b] if one is not None]
    assert engine.arena.rows(ONE) == {key: row for _, key, row, _ in oracle.rows(engine.arena.model)}


def test_the_row_is_a_tombstone_only_where_there_was_one(engine: Engine) -> None:
    """A request goes to every partition, so it must not write the id where the user has no row."""
    run(engine, [click("a"), click("b")])
    assert run(engine, ["a", "nobody"], 2)[0].staged.changelog == [(ONE, b"a", None)]
    assert run(engine, ["a"], 4)[0].staged.changelog == []
    assert run(engine, [click("c"), "c"], 5)[0].staged.changelog == []


def test_a_user_who_comes_back_in_the_same_batch_has_a_new_row(engine: Engine) -> None:
    """One row is written for the user, that of the clicks after the last request."""
    cycle, decisions = run(engine, [click("a"), "a", click("a"), click("b"), "a", click("a", "i2")])
    assert len(decisions) == 4
    assert [key for _, key, _ in cycle.staged.changelog] == [b"b", b"a"]
    assert engine.arena.gather(engine.arena.find([(ONE, b"a")]).slots)["clicks"].tolist() == [1]
