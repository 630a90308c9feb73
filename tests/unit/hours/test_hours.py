"""What the users of a partition do by the hour: each hour once, in any split of the clicks into batches."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from export.log.log import read_log
from export.paths.run import Asked, figures
from export.progress import NullProgress
from stream.demo.shop import build_shop
from stream.demo.simulate import simulate_clean, write_log
from stream.engine.engine import Cycle, Engine
from stream.events import Click, Partition
from stream.hours.messages import messages
from stream.model.runtime import Model, load_model
from stream.population.judge import KEPT_SIZE
from stream.worker.served import open_engine
from tests.decide import NOW_MS, at_rest, parted
from tests.oracle_hours import HOUR_MS, Event, Hours

START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
HOUR, DAY_MS = 3_600, 86_400_000
PARTITIONS = [Partition("clicks", number) for number in (0, 1)]


class Sent(NamedTuple):
    """A click so many seconds after START_MS; without a type, a request to forget the user."""

    partition: int
    user: str
    second: float
    event_type: str = "view"
    event_id: str | None = None

    @property
    def click(self) -> Click:
        at_ms = START_MS + int(self.second * 1000)
        return Click(self.user, "i1", at_ms, self.event_type, event_id=self.event_id)


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


def new_engine(model: Model, model_dir: Path, hours: bool = True) -> Engine:
    return open_engine(model, model_dir, 3, 1, 0.001, forget_after_days=1.0, hours=hours)


def new_loop(model: Model, number: int = 0) -> Hours:
    manifest = model.manifest
    return Hours(f"clicks-{number}", list(manifest.event_types), manifest.label, DAY_MS)


def process(engine: Engine, sent: list[tuple[int, Sent]], commit: bool = True) -> list[Event]:
    """Decide on one batch, (offset, what was sent) each. Returns what is written on the topic of the hours."""
    clicks, origins, requests = parted(sent)
    cycle = engine.process(engine.encoder.columns(clicks, origins, requests), NOW_MS)
    if commit:
        engine.commit(cycle)
    return written(engine, cycle)


def written(engine: Engine, cycle: Cycle) -> list[Event]:
    manifest = engine.model.manifest
    found = list(messages(cycle.hours, manifest.event_types, manifest.label, 1_000_000))
    events: list[Event] = [json.loads(value) for _, value in found]
    assert [key.decode() for key, _ in found] == [event["id"] for event in events]
    return events


def rest(engine: Engine) -> list[Event]:
    cycle = at_rest(engine, PARTITIONS)
    engine.commit(cycle)
    return written(engine, cycle)


def add(loops: list[Hours], one: Sent) -> None:
    if one.event_type:
        loops[one.partition].click(one.user, START_MS + int(one.second * 1000), one.event_type, one.event_id)
    else:
        loops[one.partition].forget(one.user)


SENT = st.builds(
    Sent,
    partition=st.sampled_from([0, 0, 0, 1]),
    user=st.sampled_from(["a", "b", "c", "d"]),
    # sessions, their ends and the hours to the second, and times after which a user is forgotten
    second=st.integers(0, 240).map(lambda n: n * 60.0)
    | st.integers(0, 8).map(lambda n: n * 1800.0 - 0.001)
    | st.integers(0, 60).map(lambda n: n * 1800.0),
    event_type=st.sampled_from(["view", "view", "cart", "cart", "purchase", "wish", ""]),
    event_id=st.none() | st.sampled_from(["x", "y"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    sent=st.lists(SENT, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    rests=st.sets(st.integers(0, 40), max_size=5),
    in_order=st.booleans(),
)
@example(  # the session ends in an hour without a click
    sent=[Sent(0, "a", 2400), Sent(0, "b", 5 * HOUR)], cuts=[1], rests=set(), in_order=True
)
@example(  # a late click of a user goes on with a session that has ended, of an earlier batch and of the same one
    sent=[Sent(0, "a", 0), Sent(0, "b", 1860), Sent(0, "a", 600, "cart"), Sent(0, "b", 3700), Sent(0, "a", 700)],
    cuts=[2],
    rests=set(),
    in_order=False,
)
@example(  # one after the other: the sessions end, the hour ends, and the next click finds nothing to end
    sent=[Sent(0, "a", 0), Sent(0, "a", 60, "cart"), Sent(0, "a", 2 * HOUR)],
    cuts=[1],
    rests={2},
    in_order=True,
)
@example(  # a user who was forgotten and is back is a user again, whether the row is there or not
    sent=[Sent(0, "a", 0), Sent(0, "a", 1, ""), Sent(0, "a", 2), Sent(0, "b", 36000)],
    cuts=[1],
    rests=set(),
    in_order=True,
)
@example(  # a late click is old enough to be forgotten by the next one, in the same hour
    sent=[Sent(0, "b", 36000), Sent(0, "a", 0), Sent(0, "a", 10)], cuts=[2], rests=set(), in_order=False
)
@example(  # with the user's click after a pause, before the session is due: a late click had opened it
    sent=[Sent(0, "b", 1200), Sent(0, "a", 0), Sent(0, "a", 1860), Sent(0, "b", 9000)],
    cuts=[2],
    rests=set(),
    in_order=False,
)
def test_hours_are_those_of_a_plain_loop_in_any_batches(
    model: Model, model_dir: Path, sent: list[Sent], cuts: list[int], rests: set[int], in_order: bool
) -> None:
    """With late clicks, repeated ones, users who are forgotten, batches that are done again, partitions that rest once
    and twice before the clicks `rests`, and another worker that goes on with what was kept."""
    if in_order:
        sent = sorted(sent, key=lambda one: one.second)
    engine, loops = new_engine(model, model_dir), [new_loop(model, 0), new_loop(model, 1)]
    for offset, one in enumerate(sent):
        if offset in rests:
            for loop in loops:
                loop.rest()
                loop.rest()
        add(loops, one)
    found: list[Event] = []
    edges = [0, *sorted(cut for cut in {*cuts, *rests} if cut < len(sent)), len(sent)]
    for begin, end in itertools.pairwise(edges):
        if begin in rests and begin < end:
            found += rest(engine)
            found += rest(engine)
        batch = list(enumerate(sent))[begin:end]
        dropped = process(engine, batch, commit=False) if begin % 3 == 0 else None
        now = process(engine, batch)
        assert dropped in (None, now)
        found += now
        if begin % 2:
            engine = recovered(engine, model, model_dir)
    last = [Sent(number, "e", 100 * HOUR) for number in (0, 1)]  # ends the hours that are open
    for one in last:
        add(loops, one)
    found += process(engine, list(enumerate(last, len(sent))))
    for number, loop in enumerate(loops):
        assert [event for event in found if event["partition"] == number] == loop.messages()


def recovered(engine: Engine, model: Model, model_dir: Path) -> Engine:
    """Another engine with the rows, the times and what is kept of the partitions, as recovery makes it."""
    after = new_engine(model, model_dir)
    for partition in engine.arena.partitions():
        after.arena.hold(partition)
        after.arena.load(partition, engine.arena.rows(partition))
        after.arena.kept[partition] = engine.arena.kept.get(partition, b"")
        after.arena.advance(partition, engine.arena.newest_ms(partition))
    return after


def test_an_hour_as_an_example(model: Model, model_dir: Path) -> None:
    """Counted by hand: a views, and carts in the next hour; b views twice, 10 minutes before the hour is over."""
    engine = new_engine(model, model_dir)
    sent = [Sent(0, "a", 600), Sent(0, "b", 3000), Sent(0, "b", 3001), Sent(0, "c", 3002, "wish")]
    assert process(engine, list(enumerate(sent))) == []
    [first] = process(engine, [(4, Sent(0, "b", 3700, "cart"))])
    assert first == {
        "id": f"clicks-0/{START_MS}",
        "partition": 0,
        "hour": START_MS,
        "clicks": 4,
        "users": 3,
        "opened": 3,
        "closed": 1,
        "events": {"view": 3, "(other)": 1},
        "reached": {"view": 2},
        "transitions": {"view": {"view": 1, "(end)": 1}, "(start)": {"view": 2, "(other)": 1}},
        "model": model.manifest.label,
    }
    [second] = process(engine, [(5, Sent(0, "a", 9000))])
    assert (second["hour"], second["users"], second["opened"], second["closed"]) == (START_MS + HOUR_MS, 1, 0, 2)
    assert second["transitions"] == {"view": {"cart": 1}, "cart": {"(end)": 1}, "(other)": {"(end)": 1}}
    assert second["reached"] == {"cart": 1}


def test_a_partition_at_rest_ends_its_hour(model: Model, model_dir: Path) -> None:
    """Each rest moves its time on by half an hour; when nothing is open any more, it stays."""
    engine = new_engine(model, model_dir)
    process(engine, [(0, Sent(0, "a", 0)), (1, Sent(0, "a", 60, "cart"))])
    assert rest(engine) == []
    assert engine.arena.newest_ms(PARTITIONS[0]) == START_MS + 32 * 60_000
    [hour] = rest(engine)
    assert (hour["opened"], hour["closed"]) == (1, 1)
    assert engine.arena.newest_ms(PARTITIONS[0]) == START_MS + HOUR_MS
    assert rest(engine) == []
    assert engine.arena.newest_ms(PARTITIONS[0]) == START_MS + HOUR_MS
    assert [event["hour"] for event in process(engine, [(2, Sent(0, "b", 9000))])] == []


def test_whether_hours_are_counted_can_change(model: Model, model_dir: Path) -> None:
    """Off, nothing is counted or kept; on again, the hour has the clicks since then. Nothing else differs."""
    engine, never = new_engine(model, model_dir), new_engine(model, model_dir, hours=False)
    for one in (engine, never):
        process(one, [(0, Sent(0, "a", 0)), (1, Sent(0, "a", 60))])
    off = new_engine(model, model_dir, hours=False)
    partition = PARTITIONS[0]
    for after, before in ((off, engine), (engine, off)):
        after.arena.hold(partition)
        after.arena.load(partition, before.arena.rows(partition))
        after.arena.kept[partition] = before.arena.kept[partition]
        after.arena.advance(partition, before.arena.newest_ms(partition))
        if after is off:
            assert process(off, [(2, Sent(0, "b", 120))]) == []
            process(never, [(2, Sent(0, "b", 120))])
            assert off.arena.kept == never.arena.kept
    [hour] = process(engine, [(3, Sent(0, "a", 240)), (4, Sent(0, "c", 4000))])
    assert (hour["clicks"], hour["users"], hour["events"]) == (1, 0, {"view": 1})
    assert hour["transitions"]["view"] == {"view": 1, "(end)": 2}


def test_what_is_kept_with_other_event_types_begins_again(model: Model, model_dir: Path) -> None:
    """Also where the bytes are cut."""
    engine = new_engine(model, model_dir)
    process(engine, [(0, Sent(0, "a", 0))])
    kept = engine.arena.kept[PARTITIONS[0]]
    for bad in (kept[:-1], kept[: KEPT_SIZE + 3], kept[:KEPT_SIZE] + b"none" + kept[KEPT_SIZE + 4 :]):
        engine.arena.kept[PARTITIONS[0]] = bad
        [hour] = process(engine, [(1, Sent(0, "b", 60)), (2, Sent(0, "b", 4000))], commit=False)
        assert hour["clicks"] == 1


def test_the_hours_of_a_day_have_the_sessions_with_each_event_of_eddy_paths(
    model: Model, model_dir: Path, tmp_path: Path
) -> None:
    """The same clicks as a log and as a stream: the sums of `reached` and `opened` are those of its funnel."""
    begin_ms = START_MS // DAY_MS * DAY_MS
    shop = simulate_clean(build_shop(), 30, 1, begin_ms)
    day = list(itertools.takewhile(lambda one: one.timestamp < begin_ms + DAY_MS, shop))
    write_log(iter(day), tmp_path / "shop.csv")
    found = figures(read_log(tmp_path / "shop.csv"), Asked(), NullProgress())
    engine = new_engine(model, model_dir)
    sent = [Sent(0, one.click.user_id, (one.timestamp - START_MS) / 1000, one.click.event_type) for one in day]
    sent.append(Sent(0, "after", (begin_ms + 2 * DAY_MS - START_MS) / 1000))
    hours = process(engine, list(enumerate(sent)))
    reached = sum((Counter(one["reached"]) for one in hours), Counter())
    assert len(hours) > 20
    assert sum(one["opened"] for one in hours) == sum(one["closed"] for one in hours) == found["sessions"]
    assert reached == {row["stage"]: row["with_event"] for row in found["funnel"]}
    assert reached["view"] > reached["cart"] > reached["purchase"] > 0
