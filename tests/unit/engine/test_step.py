"""The fields of a row beside the model's state, against plain lists."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.engine.columns import Columns, Encoder
from stream.engine.step import run_waves
from stream.engine.waves import waves
from stream.events import Click, Origin, Partition
from stream.model.gaps import SESSION_GAP_MS, gap_bucket, starts_session
from stream.model.runtime import Model, load_model
from stream.settings import Rules
from stream.state.evict import NEVER
from stream.state.row import NO_ITEM, Rows, new_rows, row_dtype

ONE = Partition("clicks", 0)
START_MS = 1_700_000_000_000
RECENT = 3
EVENTS = ["view", "buy", "remove"]
RULES = Rules(exclude_events="buy", readmit_events="remove")


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


Step = tuple[str, str, str, int]
"""User, item, event type, second."""
STEPS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.sampled_from(["i1", "i2", "i3", "i4", "i5", "never seen"]),
        st.sampled_from(EVENTS),
        st.integers(0, 90),
    ),
    min_size=1,
    max_size=14,
)


def columns(model: Model, steps: Sequence[Step], start: int = 0) -> Columns:
    clicks = [Click(user, item, START_MS + 1000 * second, event) for user, item, event, second in steps]
    read = [Origin("clicks", 0, start + i) for i in range(len(steps))]
    return Encoder(model, RULES, None).columns(clicks, read)


def stepped(model: Model, steps: Sequence[Step]) -> tuple[dict[str, np.void], Rows]:
    """The rows of the users after these clicks."""
    clicks = columns(model, steps)
    rows = new_rows(len(clicks.owners), row_dtype(model.manifest.state, RECENT), 1)
    run_waves(model, rows, waves(clicks.owner), clicks, NEVER, clicks.time_ms)
    return {key.decode(): rows[i] for i, (_, key) in enumerate(clicks.owners)}, rows


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(STEPS)
def test_a_row_keeps_counts_times_and_the_last_items(model: Model, steps: list[Step]) -> None:
    """Clicks applied, newest time, last offset, last items and held items equal those of a plain loop over the
    clicks."""
    rows, _ = stepped(model, steps)
    for user, row in rows.items():
        mine = [(i, *step[1:]) for i, step in enumerate(steps) if step[0] == user]
        held: list[int] = []
        for _, item, event, _ in mine:
            if item not in model.index or event == "view":  # an unknown item is nobody's to hold back
                continue
            held = [other for other in held if other != model.index[item]]
            held = ([model.index[item]] if event == "buy" else []) + held
            held = held[:RECENT]
        recent = [model.index.get(item, len(model.items)) for _, item, _, _ in reversed(mine)][:RECENT]
        assert row["clicks"] == len(mine)
        assert row["source_offset"] == mine[-1][0]
        assert row["last_ms"] == START_MS + 1000 * max(second for *_, second in mine)
        assert row["recent"].tolist() == recent + [NO_ITEM] * (RECENT - len(recent))
        assert row["held"].tolist() == held + [NO_ITEM] * (RECENT - len(held))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(STEPS, st.integers(0, 14))
def test_rows_do_not_depend_on_where_a_batch_is_cut(model: Model, steps: list[Step], cut: int) -> None:
    """Two batches give the same bytes as one batch: a row has everything that the next click needs."""
    whole, _ = stepped(model, steps)
    kept: dict[str, np.void] = {}
    for start, part in ((0, steps[:cut]), (cut, steps[cut:])):
        clicks = columns(model, part, start)
        rows = new_rows(len(clicks.owners), row_dtype(model.manifest.state, RECENT), 1)
        users = [key.decode() for _, key in clicks.owners]
        for i, user in enumerate(users):
            rows[i] = kept.get(user, rows[i])
        run_waves(model, rows, waves(clicks.owner), clicks, NEVER, clicks.time_ms)
        kept |= {user: rows[i] for i, user in enumerate(users)}
    assert {user: row.tobytes() for user, row in kept.items()} == {user: row.tobytes() for user, row in whole.items()}


def test_what_steps_return_is_the_row_around_each_click(model: Model) -> None:
    """`before` is the state before the click and `after` the state after it, also for two clicks of one user."""
    steps = [("a", "i1", "view", 0), ("b", "i2", "buy", 1), ("a", "i3", "view", 2)]
    clicks = columns(model, steps)
    rows = new_rows(2, row_dtype(model.manifest.state, RECENT), 1)
    found, _, _ = run_waves(model, rows, waves(clicks.owner), clicks, NEVER, clicks.time_ms)
    assert found.clicks_before.tolist() == [0, 0, 1]
    assert found.recent.tolist() == [[1, -1, -1], [2, -1, -1], [3, 1, -1]]
    assert found.held.tolist() == [[-1, -1, -1], [2, -1, -1], [-1, -1, -1]]
    for name, before, after in zip(model.score_inputs, found.before, found.after, strict=True):
        assert not before[:2].any()
        np.testing.assert_array_equal(before[2], after[0])
        np.testing.assert_array_equal(after[2], rows[name][0])
        np.testing.assert_array_equal(after[1], rows[name][1])
    taken = found.take(np.array([2], np.intp))
    assert (taken.surprise[0], taken.clicks_before[0]) == (found.surprise[2], 1)
    assert taken.recent.tolist() == [[3, 1, -1]]


EDGES = (0, 1_000, 60_000, SESSION_GAP_MS)


@given(st.lists(st.tuples(st.integers(0, 2 * SESSION_GAP_MS) | st.sampled_from(EDGES), st.booleans()), max_size=9))
@settings(max_examples=40)
def test_a_gaps_bucket_is_the_number_of_edges_up_to_it(gaps: list[tuple[int, bool]]) -> None:
    """A gap equal to an edge is above it, and a first click has the bucket 0."""
    gap_ms = np.array([gap for gap, _ in gaps], np.int64)
    first = np.array([first for _, first in gaps], np.bool_)
    expected = [0 if first else 1 + sum(edge <= gap for edge in EDGES) for gap, first in gaps]
    found = gap_bucket(gap_ms, first, EDGES)
    assert found.tolist() == expected
    assert found.dtype == np.int64


def test_a_session_starts_after_half_an_hour_to_the_millisecond() -> None:
    """A gap of exactly 30 minutes starts a session, one ms less does not."""
    assert starts_session(np.array([0, 1_799_999, 1_800_000, 10**9])).tolist() == [False, False, True, True]
