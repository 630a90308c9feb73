"""Counted neighbours against a plain count over all pairs of clicks."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.dataset import cooccurrence
from export.dataset.cooccurrence import (
    NEW_SESSION,
    PRIOR,
    WINDOW,
    Counted,
    Neighbours,
    count_neighbours,
    session_starts,
)
from export.dataset.windows import Clicks

ITEMS = 5
CLICKS = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, ITEMS),
        st.sampled_from([1, 2, NEW_SESSION - 1, NEW_SESSION, NEW_SESSION + 1]),
    ),
    max_size=30,
).map(lambda clicks: sorted(clicks, key=lambda click: click[0]))
"""User, item with ITEMS = unknown, gap bucket; sorted by user."""
Table = dict[int, dict[int, float]]


def columns(clicks: list[tuple[int, int, int]]) -> Clicks:
    user, item, gap = np.array(clicks, np.int32).reshape(-1, 3).T
    none = np.zeros(len(clicks), np.int32)
    return Clicks(item, none, gap.astype(np.uint8), none, none > 0, user, np.arange(len(clicks)))


def sessions_of(clicks: list[tuple[int, int, int]]) -> list[int]:
    """The number of each click's session: a new one where the user changes or the gap is long."""
    found, number = [], 0
    for at, (user, _, gap) in enumerate(clicks):
        number += at == 0 or user != clicks[at - 1][0] or gap >= NEW_SESSION
        found.append(number)
    return found


def slow_counts(clicks: list[tuple[int, int, int]], weight: list[float]) -> tuple[Table, Table]:
    """What follows each item directly, and what stands near it, by its definition."""
    session = sessions_of(clicks)
    following: Table = defaultdict(lambda: defaultdict(float))
    near: Table = defaultdict(lambda: defaultdict(float))
    for a in range(len(clicks)):
        for b in range(a + 1, min(len(clicks), a + WINDOW + 1)):
            one, two = clicks[a][1], clicks[b][1]
            if session[a] != session[b] or one == two or ITEMS in (one, two):
                continue
            near[one][two] += weight[b] / (b - a)
            near[two][one] += weight[b] / (b - a)
            if b == a + 1:
                following[one][two] += weight[b]
    return following, near


def masses(table: Neighbours) -> Table:
    """The mass of each neighbour that the table holds."""
    found: Table = {}
    for item in range(ITEMS):
        share, total = table.share[item + 1], float(table.total[item + 1])
        mine = {int(n): float(s) * (total + PRIOR) for n, s in zip(table.items[item + 1], share, strict=True) if s > 0}
        if mine:
            found[item] = mine
    return found


def same(found: Table, expected: Table) -> None:
    assert found.keys() == {item for item, mine in expected.items() if mine}
    for item, mine in found.items():
        assert mine == pytest.approx(dict(expected[item]), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(CLICKS, st.integers(0, 99))
def test_neighbours_are_counted_within_sessions_by_distance(clicks: list[tuple[int, int, int]], seed: int) -> None:
    """Every pair of different known items of a session counts its weight over its distance, for both of the items."""
    weight = np.random.default_rng(seed).uniform(0.1, 2.0, len(clicks))
    following, near = slow_counts(clicks, weight.tolist())
    found = count_neighbours(columns(clicks), weight, ITEMS)
    same(masses(found.following), following)
    same(masses(found.near), near)
    for table, expected in ((found.following, following), (found.near, near)):
        totals = [sum(expected[item].values()) for item in range(ITEMS)]
        np.testing.assert_allclose(table.total[1:-1], totals, rtol=1e-5)
        assert (table.share.sum(axis=1) < 1).all()
    assert found.clicks.tolist() == [sum(item == one for _, item, _ in clicks) for one in range(ITEMS)]


@settings(max_examples=25, deadline=None)
@given(CLICKS)
def test_sessions_begin_at_users_and_long_gaps(clicks: list[tuple[int, int, int]]) -> None:
    """The training's sessions are those that the worker sees by its gap buckets."""
    begins = session_starts(columns(clicks)) if clicks else np.empty(0, np.bool_)
    assert np.cumsum(begins).tolist() == sessions_of(clicks)


def test_only_the_strongest_neighbours_are_kept_and_the_total_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cut off still counts in the total, so the shares of the kept ones do not grow by the cut."""
    clicks = [(0, item, NEW_SESSION if first else 1) for item in (1, 1, 2, 3) for first, item in ((1, 0), (0, item))]
    whole = count_neighbours(columns(clicks), np.ones(8), ITEMS)
    monkeypatch.setattr(cooccurrence, "NEIGHBOURS", 2)
    cut = count_neighbours(columns(clicks), np.ones(8), ITEMS)
    assert cut.following.items[1].tolist() == [1, 2]  # of 2 and 3, once each, the more popular one stays
    assert cut.following.total[1] == whole.following.total[1] == 4
    np.testing.assert_allclose(cut.following.share[1], [2 / 5, 1 / 5])


def test_work_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue whose pairs do not fit into memory at once has the same neighbours."""
    rng = np.random.default_rng(3)
    clicks = columns([(user, int(rng.integers(0, ITEMS + 1)), 1) for user in range(3) for _ in range(40)])
    whole = count_neighbours(clicks, np.ones(120), ITEMS)
    monkeypatch.setattr(cooccurrence, "PAIRS", 2 * WINDOW)
    parts = count_neighbours(clicks, np.ones(120), ITEMS)
    for one, two in ((whole.following, parts.following), (whole.near, parts.near)):
        for name in Neighbours._fields:
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_only_the_newest_clicks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of years costs no more than its end; the items' clicks are still those of all of it."""
    monkeypatch.setattr(cooccurrence, "NEWEST", 2)
    found = count_neighbours(columns([(0, 0, 1), (0, 1, 1), (1, 2, 1), (1, 3, 1)]), np.ones(4), ITEMS)
    assert set(masses(found.near)) == {2, 3}
    assert found.clicks.tolist() == [1, 1, 1, 1, 0]


@settings(max_examples=20, deadline=None)
@given(CLICKS, CLICKS)
def test_an_older_models_counts_go_on(older: list[tuple[int, int, int]], newer: list[tuple[int, int, int]]) -> None:
    """A training that starts from a model has the neighbours of both logs, as one count over both would have."""
    before = count_neighbours(columns(older), np.ones(len(older)), ITEMS)
    found = count_neighbours(columns(newer), np.ones(len(newer)), ITEMS, before)
    tables = [slow_counts(clicks, [1.0] * len(clicks)) for clicks in (older, newer)]
    for number, table in enumerate((found.following, found.near)):
        expected: Table = defaultdict(lambda: defaultdict(float))
        for log in tables:
            for item, mine in log[number].items():
                for other, mass in mine.items():
                    expected[item][other] += mass
        same(masses(table), expected)
    counted = [sum(item == one for _, item, _ in [*older, *newer]) for one in range(ITEMS)]
    assert found.clicks.tolist() == counted
    assert isinstance(found, Counted)


def test_what_an_older_model_cut_off_still_counts_in_the_totals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mass of neighbours that it did not keep is not given to those that it kept."""
    monkeypatch.setattr(cooccurrence, "NEIGHBOURS", 1)
    older = [(0, item, NEW_SESSION if first else 1) for item in (1, 1, 2) for first, item in ((1, 0), (0, item))]
    before = count_neighbours(columns(older), np.ones(6), ITEMS)
    found = count_neighbours(columns([(0, 0, 1), (0, 1, 1)]), np.ones(2), ITEMS, before)
    assert found.following.items[1].tolist() == [1]
    assert found.following.total[1] == pytest.approx(4)
    assert found.following.share[1, 0] == pytest.approx(3 / (4 + PRIOR))
