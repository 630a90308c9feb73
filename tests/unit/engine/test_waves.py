"""The wave schedule and the runs against their definitions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.engine.waves import MOST_UNUSED, Run, runs, waves

OWNERS = st.lists(st.integers(0, 6), max_size=60).map(lambda owner: np.array(owner, np.intp))


@given(OWNERS)
def test_waves_hold_every_click_once_and_keep_each_users_order(owner: np.ndarray) -> None:
    """Wave w has exactly the w-th click of each user."""
    turns: dict[int, int] = {}
    want: list[list[int]] = []
    for position, user in enumerate(owner.tolist()):
        turn = turns.get(user, 0)
        turns[user] = turn + 1
        want += [[]] if turn == len(want) else []
        want[turn].append(position)
    got = [sorted(wave.tolist()) for wave in waves(owner)]
    assert got == want


@given(st.lists(st.integers(1, 60), max_size=40), st.sets(st.integers(0, 300)))
def test_runs_are_all_waves_in_order_with_few_unused_cells(counts: list[int], single: set[int]) -> None:
    """A wave with a click that must be alone is a run of its own."""
    owner = np.repeat(np.arange(len(counts)), counts)
    alone = np.isin(np.arange(len(owner)), list(single))
    order = waves(owner)
    found = runs(order, alone)
    assert [wave.tolist() for run in found for wave in run] == [wave.tolist() for wave in order]
    for run in found:
        assert len(run) * len(run[0]) - sum(map(len, run)) <= MOST_UNUSED
        assert len(run) == 1 or not any(alone[wave].any() for wave in run)


def test_the_number_of_runs_does_not_grow_with_the_clicks_of_the_busiest_user() -> None:
    """A user with half of the clicks needs a few calls of the model, and not one for each click."""
    others = np.arange(1, 1_001)
    for clicks in (100, 1_000, 10_000):
        assert len(runs(waves(np.concatenate([others, np.zeros(clicks, np.intp)])), None)) == 2


@given(OWNERS.filter(len))
def test_a_click_is_in_the_row_of_its_user_beside_the_click_before_it(owner: np.ndarray) -> None:
    """The rectangle has each click once; what is `before` a click is what the user's click before it has after it."""
    run, position = Run(waves(owner), owner), np.arange(len(owner)) + 1
    cells = run.cells(position)
    assert sorted(cells[cells > 0].tolist()) == position.tolist()
    np.testing.assert_array_equal(run.clicks(cells), position[run.which])
    for row, user in enumerate(run.users):
        mine = position[owner == user]
        np.testing.assert_array_equal(cells[row, : len(mine)], mine)
    want, last = [], dict.fromkeys(owner.tolist(), 0)
    for i, user in enumerate(owner.tolist()):
        want.append(last[user])
        last[user] = i + 1
    found = np.zeros(len(owner), np.int64)
    found[run.which] = run.before(np.zeros(len(run.users), np.int64), position[run.which])
    assert found.tolist() == want


@given(OWNERS.filter(len), st.integers(1, 5))
def test_the_latest_values_are_those_of_the_user_newest_first(owner: np.ndarray, size: int) -> None:
    """They continue the values from before the run."""
    run, values = Run(waves(owner), owner), np.arange(len(owner)) + 100
    before = np.arange(len(run.users) * size, dtype=np.int32).reshape(-1, size)
    row = {user: i for i, user in enumerate(run.users.tolist())}
    found = run.latest(before, values)
    for at, which in enumerate(run.which.tolist()):
        user = owner[which]
        mine = values[: which + 1][owner[: which + 1] == user].tolist()
        assert found[at].tolist() == [*reversed(mine), *before[row[user]].tolist()][:size]
