"""Measures, intervals and kinds of positions."""

import numpy as np
import pytest

from export.measure.metrics import KINDS, by_kind, changes, intervals, measures, popularity_kind, position_kind
from export.report.verdict import verdict


def test_measures_by_hand() -> None:
    """Ranks 1, 3, 20 and a miss."""
    found = measures(np.array([1, 3, 20, 0], np.uint8))
    assert [found[f"recall{k}"] for k in (1, 5, 10, 20)] == [0.25, 0.5, 0.5, 0.75]
    assert found["mrr20"] == pytest.approx((1 + 1 / 3 + 1 / 20) / 4)
    assert found["mrr5"] == pytest.approx((1 + 1 / 3) / 4)
    assert found["ndcg20"] == pytest.approx((1 + 1 / 2 + 1 / np.log2(21)) / 4)


def test_kinds_of_positions_and_items() -> None:
    """By clicks so far; by training clicks: the items that hold half of them, the rest, the cold, the unknown."""
    assert position_kind(np.array([1, 2, 3, 4, 5, 9, 10, 99])).tolist() == [0, 1, 2, 2, 3, 3, 4, 4]
    counts = np.array([30, 50, 10, 5, 1])
    assert [KINDS[i] for i in popularity_kind(np.arange(6), counts)] == [
        "tail", "head", "tail", "cold", "cold", "unknown",
    ]  # fmt: skip
    found = by_kind(np.array([1, 0, 2], np.uint8), np.array([0, 0, 3]), KINDS)
    assert found == {
        "head": {"judged": 2, "recall20": 0.5, "mrr20": 0.5},
        "unknown": {"judged": 1, "recall20": 1.0, "mrr20": 0.5},
    }


def test_the_interval_is_that_of_sessions_not_of_positions() -> None:
    """Equal positions in a session count as one: the interval keeps its width."""
    rng = np.random.default_rng(0)
    hit = (rng.random(200) < 0.5).astype(np.uint8)
    alone = intervals({"eddy": hit, "other": hit * 0}, np.arange(200))
    alike = intervals({"eddy": np.repeat(hit, 9), "other": np.repeat(hit * 0, 9)}, np.repeat(np.arange(200), 9))
    assert alike["eddy"]["recall20_95"] == pytest.approx(alone["eddy"]["recall20_95"])
    low, high = alone["eddy"]["recall20_95"]
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 200) ** 0.5, rel=0.15)


def test_one_session_says_nothing_about_other_sessions() -> None:
    """Its interval is all that is possible. All resamples of one session are equal: they would give an interval of
    width 0, and so the verdict better or worse."""
    rank = np.array([1, 2, 0], np.uint8)
    found = intervals({"eddy": rank, "other": rank * 0}, np.zeros(3, np.int64))
    assert found["eddy"]["recall20_95"] == [0.0, 1.0]
    assert found["lead"]["mrr20"] == {"over": "other", "mean": 0.5, "95": [-1.0, 1.0]}
    assert verdict(found["lead"]).kind == "tie"
    assert changes({"whole": rank, "less": rank * 0}, np.zeros(3, np.int64))["less"]["recall20"]["95"] == [-1.0, 1.0]


def test_the_lead_is_paired_and_over_the_best() -> None:
    """A constant lead over the best baseline has no spread, though each figure alone has."""
    rng = np.random.default_rng(1)
    rank = rng.integers(0, 3, 500).astype(np.uint8)
    found = intervals({"eddy": rank, "weak": rank * 0, "same": rank}, rng.integers(0, 90, 500))
    assert found["lead"]["recall20"] == {"over": "same", "mean": 0.0, "95": [0.0, 0.0]}
    low, high = found["same"]["mrr20_95"]
    assert low < high


def test_a_change_is_paired_and_counted_from_the_first() -> None:
    """What is the same everywhere has no spread; a worse method's change is the first one's lead over it, negated."""
    rng = np.random.default_rng(2)
    rank, session = rng.integers(0, 3, 500).astype(np.uint8), rng.integers(0, 90, 500)
    worse = np.where(rng.random(500) < 0.2, 0, rank).astype(np.uint8)
    found = changes({"whole": rank, "same": rank, "worse": worse}, session)
    assert list(found) == ["same", "worse"]
    assert found["same"]["mrr20"] == {"mean": 0.0, "95": [0.0, 0.0]}
    lead = intervals({"whole": rank, "worse": worse}, session)["lead"]["recall20"]
    assert found["worse"]["recall20"]["mean"] == -lead["mean"] < 0
    assert found["worse"]["recall20"]["95"] == pytest.approx([-end for end in reversed(lead["95"])])
