"""Decaying popularity against sums by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.dataset.popularity import FLOOR, Recency

HOUR = 3_600_000
ITEMS = 4
CLICKS = st.lists(st.tuples(st.integers(0, ITEMS), st.integers(0, 100 * HOUR)), min_size=1, max_size=20)
HALF_LIVES = st.none() | st.sampled_from([0.5 * HOUR, 10.0 * HOUR, 1e12])
QUICK = settings(max_examples=25)


def columns(clicks: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([item for item, _ in clicks], np.int32), np.array([ms for _, ms in clicks], np.int64)


@QUICK
@given(CLICKS, HALF_LIVES)
def test_a_click_counts_half_after_each_half_life(clicks: list[tuple[int, int]], half_life_ms: float | None) -> None:
    """The newest click counts 1, and a click one half-life before it a half; without a half-life all count 1."""
    _, time_ms = columns(clicks)
    newest = max(ms for _, ms in clicks)
    expected = [1.0 if half_life_ms is None else 0.5 ** ((newest - ms) / half_life_ms) for _, ms in clicks]
    np.testing.assert_allclose(Recency(half_life_ms).decay(time_ms), expected, rtol=1e-9)


@QUICK
@given(CLICKS, HALF_LIVES)
def test_weights_have_mean_one_and_the_order_of_time(clicks: list[tuple[int, int]], half_life_ms: float | None) -> None:
    """The fit of the head sees as many clicks as before; the oldest count FLOOR of the newest or more."""
    _, time_ms = columns(clicks)
    weights = Recency(half_life_ms).weights(time_ms)
    assert weights.mean() == pytest.approx(1.0)
    assert weights.min() >= FLOOR * weights.max() * (1 - 1e-9)
    assert (np.diff(weights[np.argsort(time_ms, kind="stable")]) >= -1e-9).all()


@QUICK
@given(CLICKS, HALF_LIVES, st.none() | st.lists(st.integers(0, 9), min_size=ITEMS, max_size=ITEMS))
def test_shares_are_decayed_counts_of_every_item(
    clicks: list[tuple[int, int]], half_life_ms: float | None, before: list[int] | None
) -> None:
    """Shares sum to 1 and none is 0; an older model's clicks count as the oldest click of this log does."""
    item, time_ms = columns(clicks)
    recency = Recency(half_life_ms, None if before is None else np.array(before, np.float64))
    decay = Recency(half_life_ms).decay(time_ms).tolist()
    counts = [0.02 + sum(d for (i, _), d in zip(clicks, decay, strict=True) if i == one) for one in range(ITEMS)]
    if before is not None:
        counts = [count + older * min(decay) for count, older in zip(counts, before, strict=True)]
    counts.append(0.05 * sum(counts))  # the unknown item
    share = recency.share(item, time_ms, ITEMS)
    np.testing.assert_allclose(share, np.array(counts) / sum(counts))
    assert share.min() > 0


@QUICK
@given(CLICKS, HALF_LIVES)
def test_the_shift_is_how_much_likelier_an_item_has_become(
    clicks: list[tuple[int, int]], half_life_ms: float | None
) -> None:
    """In nats between the shares over the whole log and those at its end; 0 everywhere without a half-life."""
    item, time_ms = columns(clicks)
    recency = Recency(half_life_ms)
    shift = recency.shift(item, time_ms, ITEMS)
    steady = recency.steady.share(item, time_ms, ITEMS)
    np.testing.assert_allclose(steady * np.exp(shift), recency.share(item, time_ms, ITEMS))
    if half_life_ms is None:
        assert not shift.any()


def test_an_item_that_is_clicked_now_gains_and_one_of_last_week_loses() -> None:
    """The sign of the shift: an old hit gets less likely and a new one more."""
    item = np.array([0] * 10 + [1] * 10, np.int32)
    time_ms = np.repeat([0, 168 * HOUR], 10)
    shift = Recency(24.0 * HOUR).shift(item, time_ms, 2)
    assert shift[0] < -math.log(10)
    assert shift[1] > 0.5


def test_steady_popularity_keeps_the_clicks_of_the_older_model() -> None:
    """Only the decay is left out of it."""
    before = np.array([5.0, 0.0])
    steady = Recency(1.0 * HOUR, before).steady
    assert steady.half_life_ms is None
    assert steady.before is before


def test_the_half_life_is_reported_in_hours() -> None:
    """The half-life in hours, as the report shows it."""
    assert "half-life of 1.5 h" in Recency(1.5 * HOUR).describe()
    assert "does not" in Recency(None).describe() or "stable" in Recency(None).describe()
