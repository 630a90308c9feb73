"""Conformal p-values against their definition, and the choice of the pool."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.detect.detector import Evidence
from stream.detect.pvalue import ALL, HISTORIES, Calibration, history_of, pool_name, usable_alpha
from stream.detect.surprise import SurpriseDetector

FINITE = st.floats(-50, 50, width=32)


@given(st.lists(FINITE, min_size=1, max_size=30), st.lists(FINITE, max_size=10))
def test_a_p_value_counts_the_scores_at_least_as_large(scores: list[float], surprises: list[float]) -> None:
    """(1 + #{scores >= s}) / (1 + m), as Vovk et al. define it."""
    calibration = Calibration(("all",), [np.sort(np.array(scores, np.float32))])
    got = calibration.p_values(np.array(surprises, np.float32), np.zeros(len(surprises), np.int64))
    want = [(1 + sum(score >= s for score in scores)) / (1 + len(scores)) for s in surprises]
    assert got.tolist() == want


def test_clean_clicks_are_reported_at_the_nominal_rate() -> None:
    """For exchangeable scores the share of p-values at or below alpha is alpha."""
    rng = np.random.default_rng(0)
    calibration = Calibration(("all",), [np.sort(rng.exponential(size=20_000).astype(np.float32))])
    detector = SurpriseDetector(calibration, ("view",), alpha=0.01)
    clean = rng.exponential(size=50_000).astype(np.float32)
    zeros = np.zeros(len(clean), np.int64)
    assert 0.008 < detector.judge(Evidence(clean, zeros, zeros)).anomalous.mean() < 0.012


def test_a_pool_that_is_too_small_for_alpha_is_replaced_by_a_coarser_one() -> None:
    """A pool needs 10 / alpha scores; otherwise the event type's pool is used, or the pool of all clicks."""
    many, few = np.arange(1000, dtype=np.float32), np.arange(10, dtype=np.float32)
    calibration = Calibration(("all", "view", "view/first", "view/long", "cart"), [many, many, few, many, few])
    table = calibration.table(("view", "cart"), alpha=0.01)
    names = [[calibration.names[i] for i in row] for row in table]
    assert names == [["view", "view", "view/long"], ["all"] * 3, ["all"] * 3]


@given(st.lists(st.text("al/%first2F61", max_size=9), unique=True))
def test_no_two_pools_have_the_same_name(event_types: list[str]) -> None:
    """Event types named `all` or `view/first` do not replace a pool with this name."""
    names = [ALL, *(pool_name(event_type, history) for event_type in event_types for history in (None, *HISTORIES))]
    assert len(set(names)) == len(names)


def test_usual_event_types_keep_the_names_that_older_models_have() -> None:
    """The pools of a model that was written before names were encoded are still found."""
    assert pool_name("view") == "view"
    assert pool_name("add to cart", "short") == "add to cart/short"
    assert (pool_name("all"), pool_name("cart/add", "long")) == ("%61ll", "cart%2Fadd/long")


def test_history_is_first_short_or_long() -> None:
    """No earlier click is `first`, one to four are `short`, more are `long`."""
    assert history_of(np.array([0, 1, 4, 5, 90])).tolist() == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("held_out", [*range(1, 120), 299, 671, 999, 3_332])
def test_the_alpha_that_the_worker_proposes_makes_alerts_possible(held_out: int) -> None:
    """If a calibration is too small for an alpha, the warning proposes a round one at which alerts are possible."""
    calibration = Calibration(("all",), [np.arange(held_out, dtype=np.float32)])
    smallest = 1 / (1 + held_out)
    alpha = usable_alpha(SurpriseDetector(calibration, (), smallest / 2).smallest_p_value)
    detector = SurpriseDetector(calibration, (), alpha)
    one = np.zeros(1, np.int64)
    assert detector.judge(Evidence(np.array([1e6], np.float32), one, one)).anomalous.all()
    assert smallest <= alpha <= 2 * smallest
    assert len(f"{alpha:f}".replace(".", "").strip("0")) == 1
