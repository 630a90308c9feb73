"""Which clicks of the session a user's intent comes from."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.ahead.reasons import intent_without
from stream.answers.asked import Asked
from stream.answers.users import Users
from stream.engine.engine import Engine
from stream.events import Click, Partition
from stream.model.runtime import Model, load_model
from stream.past.because import Because
from stream.past.clicks import past_of
from stream.worker.served import open_engine
from tests.decide import run

PARTITION = Partition("clicks", 0)
START_MS = 1_700_000_000_000


class Sent(NamedTuple):
    """A click so many ms after the one before."""

    gap_ms: int
    event_type: str
    item: str


@pytest.fixture(scope="module")
def model(ahead_dir: Path) -> Model:
    return load_model(ahead_dir, "cpu")


def intent_after(model: Model, directory: Path, clicks: list[Click]) -> tuple[Engine, float]:
    """The engine after the clicks of a new user, and the intent that the last decision has."""
    engine = open_engine(model, directory, 3, 0, 0.01)
    forecast = run(engine, clicks).cycle.forecast
    assert forecast is not None
    return engine, float(forecast.intent[-1])


SENT = st.builds(
    Sent,
    gap_ms=st.integers(0, 14 * 60_000),  # without a click in the middle the session is still one
    event_type=st.sampled_from(["view", "view", "cart", "purchase", "wish"]),
    item=st.sampled_from(["i1", "i2", "unknown", "also unknown"]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(earlier=st.lists(SENT, max_size=3), session=st.lists(SENT, min_size=1, max_size=12))
def test_the_intent_without_a_click_is_that_of_a_user_who_has_not_made_it(
    model: Model, ahead_dir: Path, earlier: list[Sent], session: list[Sent]
) -> None:
    """For each click of the session, also its first and its last one, after earlier sessions or none."""
    at_ms, clicks = START_MS, []
    for one in [*earlier, *session]:
        at_ms += one.gap_ms + (24 * 3_600_000 if one is session[0] else 0)
        clicks.append(Click("a", one.item, at_ms, one.event_type))
    engine, whole = intent_after(model, ahead_dir, clicks)
    [row] = engine.arena.gather(engine.arena.find([(PARTITION, b"a")]).slots)
    graph = model.ahead
    assert graph is not None
    intent, without = intent_without(graph, row, Because(model).known(past_of(row)))
    assert intent == pytest.approx(whole, abs=1e-4)
    assert len(without) == (len(session) if len(session) > 1 else 0)
    for at, found in enumerate(without, start=len(earlier)):
        _, expected = intent_after(model, ahead_dir, clicks[:at] + clicks[at + 1 :])
        assert found == pytest.approx(expected, abs=1e-3), at


def test_in_a_long_session_the_last_sixteen_clicks_are_left_out(model: Model, ahead_dir: Path) -> None:
    """The row knows no others. One of two carts is among them; without it the intent is another one."""
    clicks = [Click("a", f"i{n}", START_MS + n * 60_000, "cart" if n in (2, 25) else "view") for n in range(30)]
    engine, whole = intent_after(model, ahead_dir, clicks)
    [row] = engine.arena.gather(engine.arena.find([(PARTITION, b"a")]).slots)
    assert model.ahead is not None
    intent, without = intent_without(model.ahead, row, Because(model).known(past_of(row)))
    assert (intent, len(without)) == (pytest.approx(whole, abs=1e-4), 16)
    _, no_cart = intent_after(model, ahead_dir, clicks[:25] + clicks[26:])
    assert without[11] == pytest.approx(no_cart, abs=1e-3)
    assert np.abs(without[:11] - without[11]).min() > 1e-4

    found = Users(engine, lambda: {PARTITION: 0}).recommendations(b"a", Asked(2, because=16), None)
    assert found.because is not None
    said = found.because()
    assert said["intent"] == pytest.approx(intent, abs=1e-5)
    fallen = sorted(value for value in without.tolist() if value < intent)
    assert [reason["without"] for reason in said["intent_because"]] == pytest.approx(fallen, abs=1e-5)
    for reason in said["intent_because"]:
        assert reason["item_id"] == f"i{29 - reason['clicks_ago']}"
        assert reason["without"] == pytest.approx(float(without[15 - reason["clicks_ago"]]), abs=1e-5)
