"""The rank of the next item among all items."""

import numpy as np
import pytest
import torch

from export.dataset.windows import Clicks
from export.measure import ranking
from export.measure.ranking import ranking_quality, target_ranks
from export.train.holdout import halves

ITEMS = 300


@pytest.mark.parametrize("scored", [1, 2 * ITEMS, 1 << 22])
def test_a_rank_beyond_twenty_is_none(monkeypatch: pytest.MonkeyPatch, scored: int) -> None:
    """First, twentieth, twenty-first, beyond 256, and unknown, for any number of clicks scored at once."""
    monkeypatch.setattr(ranking, "SCORED", scored)
    scores = -torch.arange(ITEMS).float()
    target = np.array([0, 19, 20, 256, 299, ITEMS], np.int32)
    assert target_ranks(target, ITEMS, lambda some: scores.expand(len(some), -1)).tolist() == [1, 20, 0, 0, 0, 0]
    recall, mrr = ranking_quality(target, ITEMS, lambda some: scores.expand(len(some), -1))
    assert (recall, mrr) == pytest.approx((2 / 6, (1 + 1 / 20) / 6))
    assert ranking_quality(target[:0], ITEMS, lambda some: scores.expand(len(some), -1)) == (0.0, 0.0)


def test_of_equal_scores_the_lower_index_ranks_first() -> None:
    """The tie rule of all methods: lower indices have more training clicks."""
    equal = torch.zeros(2, ITEMS)
    assert target_ranks(np.array([0, 4], np.int32), ITEMS, lambda some: equal[some]).tolist() == [1, 5]


def test_no_click_both_fits_and_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two parts of the held-out clicks are disjoint, have next clicks from the cut on, and one is limited."""
    count = 600
    target = np.where(np.arange(count) % 6 == 5, -1, 1).astype(np.int32)
    one, no = np.ones(count, np.int32), np.zeros(count, np.bool_)
    user = np.repeat(np.arange(count // 6, dtype=np.int32), 6)
    clicks = Clicks(one, one, one.astype(np.uint8), target, no, user, np.arange(count))
    fitted, judged = halves(clicks, 300)
    both = np.sort(np.append(fitted, judged))
    assert both.tolist() == [row for row in range(299, count) if target[row] >= 0]
    monkeypatch.setattr("export.train.holdout.JUDGED", 10)
    assert len(halves(clicks, 300)[1]) == 10
