"""The wave schedule against its definition."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.engine.waves import waves


@given(st.lists(st.integers(0, 6), max_size=60))
def test_waves_hold_every_click_once_and_keep_each_users_order(owner: list[int]) -> None:
    """Wave w has exactly the w-th click of each user."""
    turns: dict[int, int] = {}
    want: list[list[int]] = []
    for position, user in enumerate(owner):
        turn = turns.get(user, 0)
        turns[user] = turn + 1
        want += [[]] if turn == len(want) else []
        want[turn].append(position)
    got = [sorted(wave.tolist()) for wave in waves(np.array(owner, np.intp))]
    assert got == want
