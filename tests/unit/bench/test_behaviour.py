"""The labels of the benchmark of what users do next."""

import numpy as np

from bench.behaviour.__main__ import came_back
from bench.behaviour.logs import Part
from export.ahead.upcoming import upcoming

HOUR, DAY = 3_600_000, 86_400_000


def test_a_return_is_known_only_of_clicks_so_long_before_the_end() -> None:
    """Of later clicks only those who came back soon would be known, and everybody would seem to return."""
    user = np.array([0, 0, 1, 2, 3, 3])
    time_ms = np.array([0, 20 * HOUR, 0, 30 * HOUR, 40 * HOUR, 43 * HOUR])
    zeros, until_ms = np.zeros(6, np.int64), 2 * DAY
    label = upcoming(user, time_ms, zeros, 1, None, until_ms)
    part = Part(user, zeros, zeros.astype(np.float32)[:, None], zeros.astype(np.float32), until_ms - time_ms, label)
    back, known = came_back(part, 1)
    assert known.tolist() == [True, True, True, False, False, False]
    assert back[known].tolist() == [1, 0, 0]
