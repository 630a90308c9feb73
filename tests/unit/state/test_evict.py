"""Users without clicks are forgotten: at once in the decisions, and later in memory and changelog."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.engine.engine import Engine
from stream.events import Click, Partition
from stream.model.runtime import Model, load_model
from stream.state import blocks, evict
from stream.state.evict import CLICKS_PER_SWEEP, SLOTS_PER_CLICK
from stream.worker.served import open_engine
from tests.decide import process, run, view

ONE = Partition("clicks", 0)
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
DAYS = 3
AFTER_MS = DAYS * 24 * HOUR_MS


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep also passes free slots: with few of them, and a sweep in every cycle, it comes round in a few cycles."""
    monkeypatch.setattr(blocks, "BLOCK_SLOTS", 512)
    monkeypatch.setattr(evict, "CLICKS_PER_SWEEP", 1)


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


def engine_of(model: Model, directory: Path, days: float = DAYS) -> Engine:
    return open_engine(model, directory, k=3, exclude_recent=1, alpha=0.05, forget_after_days=days)


def click(user: str, hour: float, item: str = "i1") -> Click:
    return Click(user, item, START_MS + round(hour * HOUR_MS))


def clicks_of(engine: Engine) -> dict[bytes, int]:
    """The users in memory, with the number of clicks in each state."""
    rows = engine.arena.rows(ONE)
    return {key: int(np.frombuffer(row, engine.arena.dtype)["clicks"][0]) for key, row in rows.items()}


@dataclass
class User:
    """A user by the definition: the state, and the clicks in it."""

    state: list[Any]
    last_ms: int = 0
    clicks: int = 0


def by_definition(model: Model, clicks: list[Click]) -> Iterator[tuple[float, User]]:
    """Surprise and user after each click of one partition, one by one, with a dictionary."""
    users: dict[str, User] = {}
    now_ms = 0
    for one in clicks:
        now_ms = max(now_ms, one.timestamp)
        user = users.get(one.user_id)
        if user is None or now_ms - user.last_ms > (AFTER_MS if user.clicks > 1 else AFTER_MS / 3):
            user = User([np.zeros((1, *tensor.shape), tensor.dtype) for tensor in model.manifest.state])
            users[one.user_id] = user
        gap = 1 + sum(edge <= max(0, one.timestamp - user.last_ms) for edge in model.manifest.gap_edges_ms)
        surprise, user.state = view(model, one.item_id, gap if user.clicks else 0, user.state)
        user.last_ms, user.clicks = max(user.last_ms, one.timestamp), user.clicks + 1
        yield surprise, User(user.state, user.last_ms, user.clicks)


WALKS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from(["i1", "i2", "i3"]),
        st.sampled_from([0, 1, 10, 24, 25, 40, 72, 73]),  # hours by which the topic's time goes on
        st.sampled_from([0, 0, 0, 30, 100]),  # hours by which the click is late
    ),
    max_size=40,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(walk=WALKS, cuts=st.sets(st.integers(0, 40)), restarts=st.sets(st.integers(0, 40), max_size=3))
def test_who_starts_again_depends_only_on_the_clicks(
    model: Model, model_dir: Path, walk: list[tuple[str, str, int, int]], cuts: set[int], restarts: set[int]
) -> None:
    """For every split into cycles, and with sweeps and restarts in between, the users equal the definition."""
    hours = itertools.accumulate(step for _, _, step, _ in walk)
    clicks = [click(user, hour - late, item) for (user, item, _, late), hour in zip(walk, hours, strict=True)]
    want = list(by_definition(model, clicks))
    engine, surprises = engine_of(model, model_dir), []
    edges = sorted({0, len(clicks), *(cut for cut in cuts | restarts if cut < len(clicks))})
    for a, b in itertools.pairwise(edges):
        if a in restarts:
            rows, time_ms = engine.arena.rows(ONE), engine.arena.newest_ms(ONE)
            engine = engine_of(model, model_dir)
            assert engine.arena.load(ONE, rows) == []
            engine.arena.advance(ONE, time_ms)  # as the mark says it
        surprises += [r.surprise for r in run(engine, clicks[a:b], a).recommendations]
    assert surprises == pytest.approx([surprise for surprise, _ in want], abs=1e-4)
    for key, row in engine.arena.rows(ONE).items():
        last = next(
            user for one, (_, user) in reversed(list(zip(clicks, want, strict=True))) if one.user_id == key.decode()
        )
        mine = np.frombuffer(row, engine.arena.dtype)
        assert (mine["clicks"][0], mine["last_ms"][0]) == (last.clicks, last.last_ms)
        assert mine["h"] == pytest.approx(last.state[0], abs=1e-5)


def test_a_user_stays_for_exactly_so_long_and_a_single_click_a_third_of_it(model: Model, model_dir: Path) -> None:
    """A click exactly at the limit continues the state; one ms later it starts a new one."""
    for before, hours in ((1, 24), (2, 72)):
        for late_ms, clicks in ((0, before + 1), (1, 1)):
            engine = engine_of(model, model_dir)
            run(engine, [click("a", 0)] * before)
            run(engine, [click("a", hours + late_ms / HOUR_MS)], start=before)
            assert clicks_of(engine) == {b"a": clicks}


def test_a_late_click_is_judged_by_the_partitions_time(model: Model, model_dir: Path) -> None:
    """A click that is late by days starts a new state, if the partition's newest time is beyond the limit, swept or
    not."""
    walk = [click("a", 0), click("b", 100), click("c", 20), click("a", 20), click("b", 101)]
    want = [surprise for surprise, _ in by_definition(model, walk)]
    assert want[3] == want[0]  # a starts with a new state
    for edges in ([0, 5], [0, 1, 2, 3, 4, 5], [0, 3, 5]):
        engine, found = engine_of(model, model_dir), []
        for first, end in itertools.pairwise(edges):
            found += [r.surprise for r in run(engine, walk[first:end], first).recommendations]
        assert found == pytest.approx(want, abs=1e-4)


def test_forgotten_users_leave_memory_and_changelog_with_a_transaction(model: Model, model_dir: Path) -> None:
    """Each forgotten user has a tombstone in the row's partition; no row is removed before the commit, and no active
    user."""
    engine = engine_of(model, model_dir)
    run(engine, [click(user, 0) for user in ("gone", "back", "often", "often")])
    offsets = itertools.count(4)
    while engine.arena.next_slot:  # until a sweep begins where these users are
        run(engine, [click("new", 30)], start=next(offsets))
    cycle = process(engine, [click("back", 31)], start=next(offsets)).cycle
    assert [(p, key) for p, key, row in cycle.staged.changelog if row is None] == [(ONE, b"gone")]
    assert {b"gone", b"back"} <= clicks_of(engine).keys()
    engine.commit(cycle)
    assert clicks_of(engine).keys() == {b"back", b"often", b"new"}
    assert clicks_of(engine)[b"back"] == 1


def test_the_changelog_has_the_same_users_as_memory(model: Model, model_dir: Path) -> None:
    """Rows and tombstones in order give the same users, so a restarted worker does not restore forgotten ones."""
    engine, written = engine_of(model, model_dir), {}
    rng = np.random.default_rng(2)
    for n in range(60):
        users = [f"u{n}-{i}" for i in range(20)] + [f"r{rng.integers(40)}" for _ in range(20)]
        cycle = process(engine, [click(user, 2 * n) for user in users], start=40 * n).cycle
        engine.commit(cycle)
        written |= {key: row for _, key, row in cycle.staged.changelog}
    kept = {key: row for key, row in written.items() if row is not None}
    assert kept == engine.arena.rows(ONE)
    assert 200 < len(kept) < 600
    assert len(written) > 1200


def test_a_sweep_is_bounded_by_the_clicks(model: Model, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With any number of forgotten users, cycles of one click share a sweep of some hundred slots; in the end all are
    removed."""
    monkeypatch.undo()
    engine, most = engine_of(model, model_dir), CLICKS_PER_SWEEP * SLOTS_PER_CLICK
    run(engine, [click(f"u{n}", 0) for n in range(3000)])
    removed = [
        len(run(engine, [click("here", 100 + n / 60)], start=3000 + n).cycle.staged.swept.owners)
        for n in range(3 * CLICKS_PER_SWEEP)
    ]
    assert max(removed) <= most
    assert sum(map(bool, removed)) == 3
    assert list(engine.arena.rows(ONE)) == [b"here"]


def test_slots_of_forgotten_users_are_used_again(model: Model, model_dir: Path) -> None:
    """With a stream of one-click users, memory holds only those who are not forgotten yet."""
    engine = engine_of(model, model_dir)
    for n in range(60):
        run(engine, [click(f"u{n}-{i}", 12 * n) for i in range(200)], start=200 * n)
    assert len(engine.arena) < 1500
    assert engine.arena.capacity <= 2048


def test_old_clicks_forget_nobody_and_neither_does_another_partition(model: Model, model_dir: Path) -> None:
    """Time is the time of the partition's clicks: no user is lost when a worker catches up years later, or beside a
    newer partition."""
    engine = engine_of(model, model_dir)
    run(engine, [click("a", 0)])
    run(engine, [click("b", 10_000)], partition=1)
    run(engine, [click("a", 20)], start=1)
    assert clicks_of(engine) == {b"a": 2}


def test_zero_days_means_never(model: Model, model_dir: Path) -> None:
    """With forget_after_days = 0 no user is forgotten."""
    engine = engine_of(model, model_dir, days=0)
    run(engine, [click("a", 0), click("b", 0)])
    run(engine, [click("a", 100_000)], start=2)
    assert clicks_of(engine) == {b"a": 2, b"b": 1}
