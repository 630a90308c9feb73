"""What Eddy's training speed is measured against must itself be right."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.training_speed import session_parallel


@given(st.lists(st.integers(1, 6), min_size=1, max_size=30).filter(lambda n: max(n) > 1), st.integers(1, 5))
def test_lanes_walk_through_sessions(lengths: list[int], lanes: int) -> None:
    """Each pair of following clicks comes once at most, in order in its lane, `begins` at each session's first only.

    What is left out is the unfinished rest of lanes when no further session is there.
    """
    starts = np.append(0, np.cumsum(lengths))
    item = np.arange(starts[-1])  # an item is its own position
    session_of = np.repeat(np.arange(len(lengths)), lengths)
    seen: list[int] = []
    before: np.ndarray | None = None
    for step in session_parallel(item, starts, lanes):
        np.testing.assert_array_equal(step.target, step.item + 1)
        np.testing.assert_array_equal(session_of[step.target], session_of[step.item])
        np.testing.assert_array_equal(step.begins, np.isin(step.item, starts))
        if before is not None:
            np.testing.assert_array_equal(step.item[~step.begins], before[~step.begins] + 1)
        before = step.item
        seen += step.item.tolist()
    pairs = sum(length - 1 for length in lengths)
    assert len(seen) == len(set(seen))
    assert len(seen) > pairs - min(lanes, len(lengths)) * (max(lengths) - 1)
