"""How the held-out slice is judged."""

import numpy as np
import pytest

from export.held_out import calibration_curve


def test_the_curve_is_the_diagonal_where_nothing_drifts_and_above_it_where_surprise_grows() -> None:
    """Clicks like the earlier ones keep the promise; more surprising ones break it, and the curve shows it."""
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
