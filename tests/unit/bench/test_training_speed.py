"""The training loop that Eddy's speed is compared with is correct."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plain_gru4rec import session_parallel
from bench.training_speed import read_task, run_side


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


@pytest.mark.parametrize("side", ["eddy", "plain"])
def test_both_sides_learn_from_the_same_log(tmp_path: Path, side: str) -> None:
    """On sessions that walk around a ring of items either side soon knows what comes next."""
    begin = np.random.default_rng(0).integers(0, 40, 400)
    item = (begin[:, None] + np.arange(8)) % 40
    path = tmp_path / "ring.parquet"
    pl.DataFrame({"session": np.repeat(np.arange(400), 8), "item": item.ravel()}).write_parquet(path)
    found = run_side(side, read_task(path, clicks=None), hidden=32, epochs=4, seed=0)
    assert len(found["epochs"]) == 4
    assert found["recall20"] > 0.9  # 20 of 40 items by chance: .5
