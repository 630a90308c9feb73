"""The choice and the evaluation of the held-out slice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.evaluate.held_out import calibration_curve
from export.train.holdout import held_out_from

HOUR = 3_600_000


@given(st.integers(1, 400), st.integers(30, 3_000), st.integers(0, 9))
def test_the_slice_is_a_tenth_or_a_day_but_no_more_than_a_third(days: int, clicks: int, seed: int) -> None:
    """What is chosen on the slice is chosen for a day ahead, as far as that leaves two thirds to learn from."""
    time_ms = np.sort(np.random.default_rng(seed).integers(0, days * 24 * HOUR, clicks))
    begins = held_out_from(time_ms)
    assert isinstance(begins, int)
    share, span = (time_ms >= begins).mean(), time_ms.max() - begins
    assert 0.1 - 1 / clicks <= share <= 1 / 3 + 1 / clicks
    if share > 0.1 + 2 / clicks:
        assert span <= 24 * HOUR
    if span < 24 * HOUR - 1:
        assert share >= 1 / 3 - 2 / clicks


@given(st.lists(st.integers(1, 500), min_size=3, max_size=40))
def test_a_log_of_dates_is_not_held_out_by_the_half(clicks: list[int]) -> None:
    """Where times are days, whole days are held out: the last one at least, and more of them only up to a third."""
    time_ms = np.repeat(np.arange(len(clicks)) * 24 * HOUR, clicks)
    days, share = np.unique(time_ms[time_ms >= held_out_from(time_ms)]), (time_ms >= held_out_from(time_ms)).mean()
    assert len(days) >= 1
    assert share <= 1 / 3 + 1e-9 or len(days) == 1


def test_the_curve_is_the_diagonal_where_nothing_drifts_and_above_it_where_surprise_grows() -> None:
    """Clicks like the earlier ones have the nominal false-alarm rate; more surprising ones have a higher rate, and the
    curve shows it."""
    rng = np.random.default_rng(0)
    surprise, time_ms = rng.normal(5, 1, 20_000).astype(np.float32), np.arange(20_000)
    steady = dict(calibration_curve(surprise, time_ms))
    assert steady[0.1] == pytest.approx(0.1, abs=0.015)
    assert steady[1.0] == 1.0
    drifted = dict(calibration_curve(surprise + (time_ms >= 10_000), time_ms))
    assert drifted[0.1] > 0.25
    backwards = dict(calibration_curve((surprise + (time_ms >= 10_000))[::-1].copy(), time_ms[::-1].copy()))
    assert backwards == drifted  # time decides, not the order of the rows


def test_too_few_clicks_give_no_small_alpha() -> None:
    """A p-value cannot be below 1 / (1 + m): such alphas are left out rather than shown as zero."""
    assert calibration_curve(np.ones(3, np.float32), np.arange(3)) == []
    assert min(alpha for alpha, _ in calibration_curve(np.arange(40, dtype=np.float32), np.arange(40))) == 0.05
