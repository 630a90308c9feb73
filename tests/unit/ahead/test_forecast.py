"""What a user does next: as a plain loop predicts it, however the clicks come in batches."""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, save
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor, make_tensor_value_info

from export.ahead.counters import counters_of
from stream.ahead.counters import EARLIER, counters
from stream.engine.engine import Cycle, Engine
from stream.engine.requests import Request
from stream.events import Click, Origin, Partition
from stream.model.ahead import AheadGraph
from stream.model.runtime import Model, load_model
from stream.worker.served import open_engine, recommendations, sessions
from tests.decide import NOW_MS, at_rest, run
from tests.oracle import Oracle

PARTITION = Partition("clicks", 0)
START_MS = 1_700_000_000_000 // 60_000 * 60_000
FORGET_DAYS = 0.2
"""A user is forgotten after almost five hours, one with a single click after an hour and a half."""

Event = dict[str, Any]


class Sent(NamedTuple):
    """A click of a user so many minutes after START_MS; without a type, a request to forget the user."""

    user: str
    minute: float
    event_type: str = "view"
    item: str = "i1"
    event_id: str | None = None

    @property
    def click(self) -> Click:
        at_ms = START_MS + int(self.minute * 60_000)
        return Click(self.user, self.item, at_ms, self.event_type, event_id=self.event_id)


@pytest.fixture(scope="module")
def model(ahead_dir: Path) -> Model:
    return load_model(ahead_dir, "cpu")


SENT = st.builds(
    Sent,
    user=st.sampled_from(["a", "b", "c"]),
    minute=st.integers(0, 60).map(float) | st.integers(0, 600).map(float),
    event_type=st.sampled_from(["view", "view", "cart", "purchase", "wish", ""]),
    item=st.sampled_from(["i1", "i2", "i3", "unknown", "also unknown"]),
    event_id=st.none() | st.sampled_from(["x", "y"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12)
@given(
    sent=st.lists(SENT, min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    rests=st.sets(st.integers(0, 40), max_size=3),
    in_order=st.booleans(),
)
@example(  # a late click, a repeated one, an item seen before, a user who is forgotten, one who asks for it
    sent=[
        *(Sent("a", minute, "cart", item) for minute, item in ((0, "i1"), (9, "i2"), (3, "i1"), (50, "i1"))),
        Sent("b", 51, event_id="x"),
        Sent("b", 52, event_id="x"),
        Sent("a", 55, ""),
        Sent("a", 56, "wish", "unknown"),
        Sent("b", 300, "purchase"),
        Sent("a", 301),
    ],
    cuts=[3, 5],
    rests={7},
    in_order=False,
)
@example(  # a user of two sessions is forgotten, and begins again with a session of its own
    sent=[Sent("a", 0), Sent("a", 50, "cart"), Sent("a", 400), Sent("a", 401, "purchase")],
    cuts=[2],
    rests=set(),
    in_order=True,
)
@example(  # a session over many batches, with an intent that rises and falls
    sent=[Sent("a", n, ("view", "cart", "purchase", "wish")[n * 7 % 4], f"i{n % 3}") for n in range(12)],
    cuts=list(range(1, 12)),
    rests=set(),
    in_order=True,
)
def test_predictions_and_what_rows_count_are_those_of_a_plain_loop(
    model: Model, ahead_dir: Path, sent: list[Sent], cuts: list[int], rests: set[int], in_order: bool
) -> None:
    """In any batches, with late, repeated and unknown clicks, users who are forgotten, and partitions at rest: every
    digit of the predictions, those in the ends of sessions, and every byte of the rows."""
    if in_order:
        sent = sorted(sent, key=lambda one: one.minute)
    engine = open_engine(model, ahead_dir, 3, 1, 0.001, forget_after_days=FORGET_DAYS)
    oracle = Oracle(ahead_dir, 3, 1, 0.001, forget_after_days=FORGET_DAYS, lists_every=1_000)
    decided: list[Event] = []
    for offset, one in enumerate(sent):
        if offset in rests:
            oracle.rest()
        if not one.event_type:
            oracle.forget(0, one.user)
            continue
        expected = oracle.decide("clicks", 0, offset, one.user.encode(), msgspec.json.encode(one.click))
        decided += [] if expected is None else [expected.decision]
    found: list[Event] = []
    ends: list[Event] = []
    edges = [0, *sorted(cut for cut in {*cuts, *rests} if cut < len(sent)), len(sent)]
    for begin, end in itertools.pairwise(edges):
        if begin in rests and begin < end:
            cycle = at_rest(engine, [PARTITION])
            ends += plain(sessions(engine, [], [], cycle))
            engine.commit(cycle)
        clicks, origins, cycle = batch(engine, list(enumerate(sent))[begin:end])
        found += plain(recommendations(engine, clicks, origins, cycle))
        ends += plain(sessions(engine, clicks, origins, cycle))
        engine.commit(cycle)
    names = ("id", "next", "leaves", "returns_7d", "intent")
    assert [[one[name] for name in names] for one in found] == [[one[name] for name in names] for one in decided]
    assert ends == oracle.session_events()
    rows = engine.arena.rows(PARTITION)
    for _, key, row, may_be_gone in oracle.rows(engine.arena.model):
        assert rows.pop(key, row if may_be_gone else None) == row
    assert rows == {}


def batch(engine: Engine, sent: list[tuple[int, Sent]]) -> tuple[list[Click], list[Origin], Cycle]:
    clicks: list[Click] = []
    origins: list[Origin] = []
    requests: list[Request] = []
    for offset, one in sent:
        if not one.event_type:
            requests.append(Request(len(clicks), (PARTITION, one.user.encode())))
            continue
        clicks.append(one.click)
        origins.append(Origin("clicks", 0, offset))
    return clicks, origins, engine.process(engine.encoder.columns(clicks, origins, requests), NOW_MS)


def plain(events: list[Any]) -> list[Event]:
    return [json.loads(msgspec.json.encode(one)) for one in events]


def test_a_worker_counts_what_the_training_counted(
    model: Model, ahead_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counters of a log in time order are equal to the last digit: else the head would read other inputs."""
    rng = np.random.default_rng(3)
    rows = []
    for user in range(6):
        minutes = rng.choice([0, 1, 3, 20, 40, 700], 40).cumsum()
        rows += [(user, int(m), int(rng.integers(3)), int(rng.integers(8))) for m in minutes]
    user, minute, event_type, item = (np.array(column) for column in zip(*rows, strict=True))
    in_time = np.argsort(minute, kind="stable")
    time_ms = START_MS + minute * 60_000
    expected = counters_of(user.astype(np.int32), time_ms, event_type.astype(np.int32), item.astype(np.int32), 3)
    read: list[Any] = []
    graph = AheadGraph.__call__

    def reading(self: AheadGraph, counters: Any, kinds: Any) -> Any:
        read.append(counters)
        return graph(self, counters, kinds)

    monkeypatch.setattr(AheadGraph, "__call__", reading)
    engine = open_engine(model, ahead_dir, 3, 1, 0.001, forget_after_days=0)
    names = model.manifest.event_types
    for n, at in enumerate(in_time.tolist()):
        run(engine, [Click(f"u{user[at]}", f"i{item[at]}", int(time_ms[at]), names[event_type[at]])], n)
    np.testing.assert_array_equal(np.concatenate(read), expected[in_time])


def test_a_model_without_the_graph_predicts_nothing_and_its_rows_have_no_such_fields(
    model_dir: Path, ahead_dir: Path
) -> None:
    """The fields are missing in the JSON, not null; a row of the other model is 36 bytes longer."""
    found, sizes = [], []
    for directory in (model_dir, ahead_dir):
        engine = open_engine(load_model(directory, "cpu"), directory, 3, 1, 0.001)
        [one] = run(engine, [Click("u", "i1", START_MS)]).recommendations
        found.append({*plain([one])[0]} & {"next", "leaves", "returns_7d", "intent"})
        sizes.append(
            sum(engine.arena.dtype[name].itemsize for name in engine.arena.dtype.names or () if name != "spare")
        )
    assert found == [set(), {"next", "leaves", "returns_7d", "intent"}]
    assert sizes[1] - sizes[0] == 16 + 4 + 4 * 4


def test_a_model_of_an_earlier_eddy_reads_the_first_counters(tmp_path: Path) -> None:
    """A graph that was trained when rows had no counters of the click before: here its results are the first ones."""
    types, width = 3, counters(3) - len(EARLIER)
    inputs = [
        make_tensor_value_info("counters", TensorProto.FLOAT, ["B", width]),
        make_tensor_value_info("event_type", TensorProto.INT64, ["B"]),
    ]
    outputs = [make_tensor_value_info("probabilities", TensorProto.FLOAT, ["B", types + 3])]
    where = {"from": 0, "to": types + 3, "axis": 1}
    parts = [make_tensor(name, TensorProto.INT64, [1], [at]) for name, at in where.items()]
    node = make_node("Slice", ["counters", *where], ["probabilities"])
    graph = make_graph([node], "earlier", inputs, outputs, parts)
    save(make_model(graph, opset_imports=[make_opsetid("", 20)], ir_version=10), tmp_path / "ahead.onnx")
    earlier = AheadGraph(ort.InferenceSession(tmp_path / "ahead.onnx"), types, tmp_path)
    full = np.random.default_rng(0).integers(1, 50, (20, counters(types))).astype(np.float32)
    found = earlier(full, np.zeros(20, np.int64))
    assert found.next.tolist() == full[:, :types].tolist()
    assert found.intent.tolist() == full[:, types].tolist()
