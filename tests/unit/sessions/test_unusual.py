"""The ends of sessions are scored: a session with unusual items raises an alert, however it ends."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stream.engine.engine import Cycle, Engine
from stream.engine.requests import Request
from stream.errors import ArtifactError
from stream.events import Anomaly, Click, Origin, Partition, Session, clicks_topic_of
from stream.model.runtime import Model, load_model
from stream.population.quiet import Quiet
from stream.sessions.unusual import EndCalibration, mixed
from stream.worker.served import anomalies, open_engine, sessions
from tests.changed_model import with_scored_ends
from tests.decide import NOW_MS, at_rest
from tests.oracle import Oracle
from tests.oracle_sessions import mix

ONE = Partition("clicks", 0)
START_MS = 1_700_000_040_000
USUAL = [[1, 2, 3], [1, 3], [2, 1, 2], [4]]
ALPHA = 0.01


class Sent(NamedTuple):
    """A click of a user on an item, so many seconds after START_MS; or a request: "forget", "quiet" or "quiet rate"."""

    user: str
    item: str
    second: int
    request: str = ""


@pytest.fixture(scope="module")
def scored(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for which sessions of the items of USUAL, in any order, are usual."""
    return with_scored_ends(model_dir, tmp_path_factory.mktemp("scored") / "tiny" / "1", USUAL)


LOADED: dict[Path, Model] = {}


def new_engine(model: Path, alpha: float = ALPHA) -> Engine:
    loaded = LOADED.get(model) or LOADED.setdefault(model, load_model(model, "cpu"))
    return open_engine(loaded, model, 3, 1, alpha)


def decide(engine: Engine, sent: Sequence[Sent], start: int = 0) -> list[Anomaly | Session]:
    """Decide on one batch at consecutive offsets and commit it. Returns the alerts and the ends of sessions."""
    clicks: list[Click] = []
    origins: list[Origin] = []
    requests: list[Request] = []
    for offset, one in enumerate(sent, start):
        if one.request:
            names = one.request.split()[1:]
            quiet = Quiet.of(START_MS + 5_000_000, names) if one.request.startswith("quiet") else None
            requests.append(Request(len(clicks), (ONE, one.user.encode()), quiet))
            continue
        clicks.append(Click(one.user, one.item, START_MS + one.second * 1000))
        origins.append(Origin(*ONE, offset))
    cycle = engine.process(engine.encoder.columns(clicks, origins, requests), NOW_MS)
    found = written(engine, clicks, origins, cycle)
    engine.commit(cycle)
    return found


def rest(engine: Engine) -> list[Anomaly | Session]:
    """End all sessions by the clock."""
    cycle = at_rest(engine, [ONE])
    found = written(engine, [], [], cycle)
    engine.commit(cycle)
    return found


def written(engine: Engine, clicks: list[Click], origins: list[Origin], cycle: Cycle) -> list[Anomaly | Session]:
    closed = [one for one in sessions(engine, clicks, origins, cycle) if one.phase == "closed"]
    return [*anomalies(engine, clicks, origins, cycle), *closed]


def of_ends(found: Sequence[Anomaly | Session]) -> list[Anomaly]:
    return [one for one in found if isinstance(one, Anomaly) and "end" in one.statistics]


def as_json(found: Sequence[Anomaly | Session]) -> list[dict[str, object]]:
    return [json.loads(msgspec.json.encode(one)) for one in found]


def walk(user: str, items: Sequence[int], second: int = 0) -> list[Sent]:
    """A session: a click a minute."""
    return [Sent(user, f"i{item}", second + 60 * n) for n, item in enumerate(items)]


def test_a_truncated_session_raises_one_alert_however_it_ends(scored: Path) -> None:
    """With the user's next click, by the time of the partition, and by the clock: byte for byte the same. A session
    with the items of a training session raises none, in any order of its clicks."""
    both = sorted(walk("whole", [3, 1, 2]) + walk("cut", [1, 2]), key=lambda one: one.second)
    ways = []
    for last in (Sent("cut", "i4", 60 + 1_800), Sent("other", "i4", 9_000), None):
        engine = new_engine(scored)
        assert of_ends(decide(engine, both)) == []
        found = rest(engine) if last is None else decide(engine, [last], len(both))
        (alert,) = of_ends(found)
        (closed,) = [one for one in found if isinstance(one, Session) and one.user_id == "cut"]
        ways.append((msgspec.json.encode(alert), msgspec.json.encode(closed)))
        assert (alert.id, alert.episode, closed.id) == ("clicks-0-1-end", "clicks-0-1-end", "clicks-0-1")
        assert (alert.user_id, alert.item_id, alert.event_type) == ("cut", "i2", "session end")
        assert alert.timestamp == closed.timestamp == START_MS + 60_000
        assert alert.p_value == closed.p_value <= ALPHA
        usual = [one.p_value for one in found if isinstance(one, Session) and one.user_id == "whole"]
        assert usual in ([], [1.0])
    assert ways[0] == ways[1] == ways[2]


def test_a_model_without_scores_raises_none(model_dir: Path) -> None:
    """As all models that were trained before, and most shops: no alert, no p-value, no field in the rows."""
    engine = new_engine(model_dir)
    found = decide(engine, [*walk("cut", [1, 2]), Sent("other", "i4", 9_000)])
    assert of_ends(found) == []
    assert [one.p_value for one in found if isinstance(one, Session)] == [None]
    assert not {"session_vector", "end_nats"} & {*(engine.arena.dtype.names or ())}


def test_the_end_comes_before_the_alert_on_the_click_that_ends_it(scored: Path) -> None:
    """So the alerts on a user are in the order of what happened."""
    found = decide(new_engine(scored, 0.999), [*walk("cut", [1, 2]), Sent("cut", "i9", 5_000)])
    ids = [one.id for one in found if isinstance(one, Anomaly)]
    assert ids[-2:] == ["clicks-0-0-end", "clicks-0-2"]


def test_a_session_that_goes_on_and_ends_again_raises_another_alert(scored: Path) -> None:
    """A late click revises it: the alert has the revision in its id. The topic of the clicks can be read from an id."""
    sent = [*walk("cut", [1, 2]), Sent("other", "i4", 9_000), Sent("cut", "i5", 120), Sent("other", "i4", 19_000)]
    found = [one.id for one in of_ends(decide(new_engine(scored), sent)) if one.user_id == "cut"]
    assert found == ["clicks-0-0-end", "clicks-0-0-end-1"]
    for id_ in ("web-2-end-0-7", "web-2-end-0-7-end", "web-2-end-0-7-end-12"):
        assert clicks_topic_of(id_) == "web-2-end"


@pytest.mark.parametrize(("request_", "alerts"), [("quiet", 0), ("quiet end", 0), ("quiet rate", 1), ("", 1)])
def test_ends_can_be_quiet(scored: Path, request_: str, alerts: int) -> None:
    """Alone, or with all statistics. The p-value of the end stays."""
    first, *others = walk("cut", [1, 2])
    asked = [Sent("cut", "", 0, request_)] if request_ else []
    found = decide(new_engine(scored), [first, *asked, *others, Sent("other", "i4", 9_000)])
    assert len(of_ends(found)) == alerts
    assert [one.p_value <= ALPHA for one in found if isinstance(one, Session) and one.p_value] == [True]


SENT = st.builds(
    Sent,
    user=st.sampled_from(["a", "b", "c"]),
    item=st.sampled_from(["i1", "i2", "i3", "i4", "new"]),
    second=st.integers(0, 40).map(lambda n: n * 300),
    request=st.sampled_from([*[""] * 12, "forget", "quiet", "quiet end", "quiet rate"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=8)
@given(
    sent=st.lists(SENT, max_size=40),
    cuts=st.lists(st.integers(0, 30), max_size=5),
    alpha=st.sampled_from([0.01, 0.3]),
)
@example(
    sent=[Sent("a", "i1", 0), Sent("a", "i2", 300), Sent("b", "i4", 9_000), Sent("a", "i3", 900)], cuts=[1], alpha=0.01
)
@example(  # the largest surprise of a session is in an earlier batch
    sent=[Sent("a", "i1", 0), Sent("b", "new", 0), Sent("a", "new", 300), Sent("b", "i1", 300)], cuts=[2], alpha=0.3
)
def test_ends_are_scored_as_in_a_plain_loop_in_any_batches(
    scored: Path, sent: list[Sent], cuts: list[int], alpha: float
) -> None:
    """p-values of the ends, the alerts, and every byte of the rows. The sessions that are left end by the clock."""
    engine, oracle = new_engine(scored, alpha), Oracle(scored, 3, 1, alpha)
    expected = []
    for offset, one in enumerate(sent):
        if one.request == "forget":
            oracle.forget(0, one.user)
        elif one.request:
            oracle.quiet(0, one.user, START_MS + 5_000_000, one.request.split()[1:])
        else:
            click = Click(one.user, one.item, START_MS + one.second * 1000)
            due = oracle.decide(*ONE, offset, one.user.encode(), msgspec.json.encode(click))
            assert due is not None
            expected += [due.alert] if due.alert else []
    found: list[Anomaly | Session] = []
    for begin, end in itertools.pairwise(sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})):
        found += decide(engine, sent[begin:end], begin)
    assert engine.arena.rows(ONE) == {key: row for _, key, row, _ in oracle.rows(engine.arena.model)}
    found += rest(engine)
    oracle.rest()
    ends = of_ends(found)
    assert as_json(ends) == oracle.end_alerts()
    assert as_json([one for one in found if isinstance(one, Anomaly) and one not in ends]) == expected
    closed = [one for one in oracle.session_events() if one["phase"] == "closed"]
    assert as_json([one for one in found if isinstance(one, Session)]) == closed


def test_the_hash_of_an_item_is_that_of_older_models() -> None:
    """A model directory has sums of it."""
    assert mixed(np.array([0, 1, 10**6])).tolist() == [mix(0), mix(1), mix(10**6)]
    assert mix(0) == 0xE220A8397B1DCDAF  # the first number of splitmix64 with the seed 0


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("end_vectors", np.array([2, 1], np.uint64)),
        ("end_vectors", np.empty(0, np.uint64)),
        ("end_clicks", np.zeros(3, np.int64)),
        ("end_ends", np.full(50, 10**6)),
        ("end_scores", np.array([np.nan], np.float32)),
    ],
)
def test_a_damaged_calibration_is_refused(scored: Path, tmp_path: Path, name: str, values: object) -> None:
    """With an error that says what to do."""
    with np.load(scored / "calibration.npz") as file:
        arrays = {**file, name: values}
    np.savez(tmp_path / "calibration.npz", **arrays)
    engine = new_engine(scored)
    assert engine.ends is not None
    with pytest.raises(ArtifactError, match="train it again"):
        EndCalibration.load(tmp_path, 50, engine.ends.combined)
