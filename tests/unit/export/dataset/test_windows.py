"""Clicks in windows against each user's list of clicks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.dataset.windows import Batch, Clicks, Windows, birth_period, drawn, encode, fresh_clicks
from export.log.log import GAP_EDGES_MS, Log, Vocabulary

HOUR = 3_600_000
COUNTS = st.lists(st.integers(1, 12), min_size=1, max_size=8)
"""Clicks of each user."""
QUICK = settings(max_examples=25, deadline=None)


def clicks_of(counts: list[int]) -> Clicks:
    """Clicks of users with so many each; item = row, target = next row of the user."""
    user = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    item = np.arange(len(user), dtype=np.int32)
    target = np.where(np.append(user[1:] == user[:-1], False), item + 1, -1).astype(np.int32)
    none = np.zeros(len(user), np.int32)
    return Clicks(item, none, none.astype(np.uint8), target, none > 0, user, np.arange(len(user)) * 1000)


def windows_of(batches: list[Batch]) -> list[list[int]]:
    """The rows of every window, without the padding."""
    return [rows[real].tolist() for batch in batches for rows, real in zip(batch.rows, batch.real, strict=True)]


def slow_windows(counts: list[int], length: int) -> list[list[int]]:
    found, first = [], 0
    for count in counts:
        found += [list(range(at, min(at + length, first + count))) for at in range(first, first + count, length)]
        first += count
    return found


@QUICK
@given(COUNTS, st.integers(1, 6), st.integers(1, 40), st.integers(0, 9))
def test_every_click_is_in_one_window_of_each_epoch(counts: list[int], length: int, tokens: int, seed: int) -> None:
    """Shuffled batches hold each window once, whole, in its user's order; a batch has no more than the tokens."""
    batches = list(Windows(clicks_of(counts), length).shuffled(tokens, np.random.default_rng(seed)))
    assert sorted(windows_of(batches)) == sorted(slow_windows(counts, length))
    for batch in batches:
        assert batch.rows.size <= max(tokens, batch.rows.shape[1])
        assert batch.real[:, 0].all()
        assert not batch.rows[~batch.real].any()


@QUICK
@given(COUNTS, st.integers(1, 6), st.integers(1, 40), st.data())
def test_in_order_a_window_comes_after_the_one_it_continues(
    counts: list[int], length: int, tokens: int, data: st.DataObject
) -> None:
    """Only the asked users' windows come, and each finds the state that the window before has left."""
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, sum(counts) - 1), min_size=1, max_size=3))))
    windows = Windows(clicks_of(counts), length)
    batches = list(windows.in_order(tokens, rows))
    asked = set(windows.clicks.user[rows].tolist())
    expected = [one for one in slow_windows(counts, length) if windows.clicks.user[one[0]] in asked]
    assert sorted(windows_of(batches)) == sorted(expected)
    state: dict[int, int] = {}  # place among the carried states -> last row before it
    for batch in batches:
        found = {int(carry): state.get(int(carry)) for carry in batch.carry}
        for carry, window in zip(batch.carry.tolist(), windows_of([batch]), strict=True):
            begins = window[0] == 0 or windows.clicks.user[window[0] - 1] != windows.clicks.user[window[0]]
            assert (carry == 0) == begins
            assert begins or found[carry] == window[0] - 1
        for leave, window in zip(batch.leave.tolist(), windows_of([batch]), strict=True):
            if leave:
                state[leave] = window[-1]


def test_users_are_walked_through_side_by_side() -> None:
    """Windows of equal place go in one batch: the states of a large log are computed in few large steps."""
    windows = Windows(clicks_of([4, 5, 6, 2]), 2)
    assert [len(batch.rows) for batch in windows.in_order(1_000, np.arange(17))] == [4, 3, 2]


@QUICK
@given(COUNTS, st.integers(1, 6))
def test_no_two_windows_share_a_carried_state(counts: list[int], length: int) -> None:
    """A state is left once and taken once; 0, the zero state, is left by nobody."""
    windows = Windows(clicks_of(counts), length)
    (batch,) = [windows._batch(np.arange(len(slow_windows(counts, length))))]
    left, taken = (Counter(part[part > 0].tolist()) for part in (batch.leave, batch.carry))
    assert left == taken == Counter(range(1, windows.carried + 1))


def test_the_newest_clicks_come_last() -> None:
    """Over many stretches of batches time goes forward, so that the last updates are about the newest popularity."""
    windows = Windows(clicks_of([1] * 800), 5)
    batches = list(windows.shuffled(4, np.random.default_rng(0)))
    means = [batch.rows[batch.real].mean() for batch in batches]
    tenth = len(means) // 10
    assert np.mean(means[:tenth]) < 270
    assert np.mean(means[-tenth:]) > 530


def test_another_epoch_has_another_order_and_the_same_seed_the_same() -> None:
    """Trainings can be repeated exactly."""
    windows = Windows(clicks_of([3] * 50), 2)
    one, two, other = (windows_of(list(windows.shuffled(10, np.random.default_rng(s)))) for s in (1, 1, 2))
    assert one == two != other


@QUICK
@given(COUNTS, st.data())
def test_clicks_left_out_are_nobodys_target(counts: list[int], data: st.DataObject) -> None:
    """A target stays where the next click stays, and all columns are cut alike."""
    clicks = clicks_of(counts)
    keep = np.array([data.draw(st.booleans()) for _ in range(len(clicks))])
    kept = clicks.where(keep)
    assert kept.item.tolist() == np.flatnonzero(keep).tolist()
    assert kept.user.tolist() == clicks.user[keep].tolist()
    assert kept.target.tolist() == [
        int(clicks.target[row]) if row + 1 < len(keep) and keep[row + 1] else -1 for row in np.flatnonzero(keep)
    ]


BORN = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 90)), min_size=1, max_size=20)


@QUICK
@given(BORN)
def test_a_click_is_fresh_in_the_period_in_which_its_item_was_born(clicks: list[tuple[int, int]]) -> None:
    """Periods of 10 ms from the log's first click; in the first two no item is new, because every item is."""
    item, time_ms = np.array([i for i, _ in clicks], np.int32), np.array([ms for _, ms in clicks])
    start = min(ms for _, ms in clicks)
    born = {i: min((ms - start) // 10 for other, ms in clicks if other == i) for i, _ in clicks}
    expected = [(ms - start) // 10 == born[i] and (ms - start) // 10 > 1 for i, ms in clicks]
    assert fresh_clicks(item, time_ms, 10).tolist() == expected


@pytest.mark.parametrize(("span", "period"), [(0, HOUR // 60), (80 * HOUR, 10 * HOUR), (9_000 * HOUR, 168 * HOUR)])
def test_an_item_is_new_for_an_eighth_of_the_log(span: int, period: int) -> None:
    """But at least a minute and at most a week."""
    assert birth_period(np.array([5, 5 + span])) == period


def test_words_of_a_log_become_indices_of_the_vocabulary() -> None:
    """Unknown words have the index behind the last one; a target never crosses users."""
    log = Log(
        user=np.array([0, 0, 1, 1], np.int32),
        item=np.array([0, 1, 2, 0], np.int32),
        event_type=np.array([0, 1, 0, 0], np.int32),
        session=np.array([0, 0, 1, 1], np.int32),
        time_ms=np.array([0, 5_000, 0, HOUR]),
        users=["u", "v"],
        items=["a", "b", "c"],
        event_types=["view", "wish"],
        sessions=[],
    )
    found = encode(log, Vocabulary(["b", "a"], ("view",), GAP_EDGES_MS), 10)
    assert found.item.tolist() == [1, 0, 2, 1]
    assert found.event_type.tolist() == [0, 1, 0, 0]
    assert found.target.tolist() == [0, -1, 1, -1]
    assert found.gap.tolist() == [
        0,
        1 + sum(e <= 5_000 for e in GAP_EDGES_MS),
        0,
        1 + sum(e <= HOUR for e in GAP_EDGES_MS),
    ]


@QUICK
@given(st.sets(st.integers(0, 99), max_size=30), st.integers(0, 40))
def test_drawn_rows_are_some_of_the_rows_in_order(rows: set[int], limit: int) -> None:
    """At most so many, none twice, the same ones each time; all where the limit is not reached."""
    given_rows = np.array(sorted(rows), np.int64)
    found = drawn(given_rows, limit)
    assert len(found) == min(limit, len(rows))
    assert set(found.tolist()) <= rows
    assert found.tolist() == sorted(set(found.tolist())) == drawn(given_rows, limit).tolist()
