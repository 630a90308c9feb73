"""Metrics and ranks against the definitions, one position at a time."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from export.measure.metrics import CUTS, KINDS, by_kind, gains, intervals, measures, popularity_kind
from export.measure.ranking import ranks, recall_and_mrr, target_ranks

RANKS = st.lists(st.integers(0, 20), min_size=1, max_size=30)
QUICK = settings(max_examples=30, deadline=None)


@QUICK
@given(RANKS)
def test_means_are_those_of_the_definitions(rank: list[int]) -> None:
    """Recall, reciprocal rank and discounted gain at every cut; a rank of 0 or beyond the cut adds nothing."""
    found = measures(np.array(rank, np.uint8))
    for k in CUTS:
        hits = [one for one in rank if 0 < one <= k]
        assert found[f"recall{k}"] == pytest.approx(len(hits) / len(rank))
        assert found[f"mrr{k}"] == pytest.approx(sum(1 / one for one in hits) / len(rank))
        assert found[f"ndcg{k}"] == pytest.approx(sum(1 / math.log2(one + 1) for one in hits) / len(rank))
    assert recall_and_mrr(np.array(rank, np.uint8)) == pytest.approx((found["recall20"], found["mrr20"]))


@QUICK
@given(RANKS)
def test_no_gain_is_above_one_and_a_longer_list_gains_no_less(rank: list[int]) -> None:
    """All three lie in 0 to 1, and a hit among the first 5 is one among the first 10."""
    parts = [gains(np.array(rank, np.uint8), k) for k in CUTS]
    assert all(((part >= 0) & (part <= 1)).all() for three in parts for part in three)
    for shorter, longer in itertools.pairwise(parts):
        assert all((one <= two).all() for one, two in zip(shorter, longer, strict=True))


@QUICK
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), max_size=20))
def test_groups_together_are_the_whole(positions: list[tuple[int, int]]) -> None:
    """Every position is in one group, and the groups' means weighed by their sizes are the overall mean."""
    rank = np.array([one for one, _ in positions], np.uint8)
    found = by_kind(rank, np.array([kind for _, kind in positions], np.int64), KINDS)
    assert set(found) == {KINDS[kind] for _, kind in positions}
    assert sum(one["judged"] for one in found.values()) == len(positions)
    if positions:
        total = sum(one["judged"] * one["mrr20"] for one in found.values()) / len(positions)
        assert total == pytest.approx(measures(rank)["mrr20"])


@QUICK
@given(st.lists(st.integers(0, 60), min_size=1, max_size=12))
@example([7, 7])
def test_the_head_is_the_fewest_items_with_half_of_the_clicks(counts: list[int]) -> None:
    """Without the last of them it would have less than half; all others are tail or cold by their own clicks."""
    kinds = [KINDS[kind] for kind in popularity_kind(np.arange(len(counts) + 1), np.array(counts))]
    assert kinds.pop() == "unknown"
    head = [count for count, kind in zip(counts, kinds, strict=True) if kind == "head"]
    rest = [(count, kind) for count, kind in zip(counts, kinds, strict=True) if kind != "head"]
    assert 2 * sum(head) >= sum(counts)
    assert 2 * (sum(head) - min(head)) < sum(counts) or len(head) == 1
    assert all(count <= min(head) for count, _ in rest)
    assert all(kind == ("tail" if count > 5 else "cold") for count, kind in rest)


def test_the_same_seed_gives_the_same_interval_and_it_holds_the_mean() -> None:
    """A report can be made again. One session says nothing of others: the interval is all that is possible."""
    rng = np.random.default_rng(0)
    rank, session = rng.integers(0, 21, 300).astype(np.uint8), rng.integers(0, 60, 300)
    methods = {"eddy": rank, "other": rng.permutation(rank)}
    found = intervals(methods, session)
    assert found == intervals(methods, session) != intervals(methods, session, seed=1)
    low, high = found["eddy"]["mrr20_95"]
    assert low < measures(rank)["mrr20"] < high
    low, high = intervals(methods, np.zeros(300, np.int64))["eddy"]["mrr20_95"]
    assert (low, high) == (0.0, 1.0)


SCORES = st.lists(st.lists(st.integers(0, 3), min_size=30, max_size=30), min_size=1, max_size=5)


@QUICK
@given(SCORES, st.data())
def test_a_rank_is_the_position_in_the_sorted_items(scores: list[list[int]], data: st.DataObject) -> None:
    """Best first, of equal scores the lower index; beyond twenty and for an unknown item it is 0."""
    targets = [data.draw(st.integers(0, 30)) for _ in scores]
    table = torch.tensor(scores, dtype=torch.float32)
    orders = [sorted(range(30), key=lambda item, row=row: (-row[item], item)) for row in scores]  # type: ignore[misc]
    places = [order.index(item) + 1 if item < 30 else 0 for order, item in zip(orders, targets, strict=True)]
    found = target_ranks(np.array(targets, np.int32), 30, lambda some: table[some])
    assert found.tolist() == [place if place <= 20 else 0 for place in places]
    known = [row for row, item in enumerate(targets) if item < 30]
    whole = ranks(table[known], torch.tensor([targets[row] for row in known], dtype=torch.int64))
    assert whole.tolist() == [places[row] for row in known]
