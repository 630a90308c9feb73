"""How recommendations are judged, and the baselines beside them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.baselines import Baselines
from export.evaluate import Judge, judge


def test_judging_by_hand() -> None:
    """Lists are judged by the session's next item: at rank 2, missed, and never across sessions or users."""
    clicks = [
        ("ann", "1", "a", ["x", "b"]),
        ("bob", "1", "a", ["b"]),
        ("ann", "1", "b", ["c"]),  # ann's first list held b at rank 2
        ("ann", "2", "c", ["c"]),  # another session: ann's list after b is never judged
        ("bob", "1", "z", []),  # a miss
    ]
    quality = judge(clicks)
    assert quality.judged == 2
    assert quality.recall20 == pytest.approx(1 / 2)
    assert quality.mrr20 == pytest.approx((1 / 2) / 2)


def test_rank_twenty_counts_and_twenty_one_does_not() -> None:
    """recall@20 looks at twenty items."""
    for place, hit in ((19, 1.0), (20, 0.0)):
        listed = [f"other-{i}" for i in range(place)] + ["wanted"]
        one = Judge()
        one.see("u", "s", "first", listed)
        one.see("u", "s", "wanted", [])
        assert one.quality().recall20 == hit


def test_markov_lists_followers_then_the_most_popular() -> None:
    """Followers by count, ties by the more popular item, then popularity; an unknown item gets popularity alone."""
    before = np.array([0, 0, 0, 0, 0, 1])
    after = np.array([3, 3, 4, 2, 2, 0])
    baselines = Baselines.count(6, before, after)
    assert baselines.markov(0, [], 6) == [2, 3, 4, 0, 1, 5]
    assert baselines.markov(0, [0, 2], 3) == [3, 4, 1]
    assert baselines.markov(6, [6], 3) == [0, 1, 2]
    assert baselines.popularity(0, [1], 3) == [0, 2, 3]


@given(
    pairs=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), min_size=1, max_size=60),
    item=st.integers(0, 12),
    recent=st.lists(st.integers(0, 12), max_size=4),
    k=st.integers(1, 14),
)
def test_markov_is_a_full_ranking(pairs: list[tuple[int, int]], item: int, recent: list[int], k: int) -> None:
    """The list equals sorting the whole catalogue by count, then index, without what is left out."""
    before, after = (np.array(column) for column in zip(*pairs, strict=True))
    ranked = sorted(range(12), key=lambda i: (-sum(p == (item, i) for p in pairs), i))
    expected = [i for i in ranked if i not in recent][:k]
    assert Baselines.count(12, before, after).markov(item, recent, k) == expected
