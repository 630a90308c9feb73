"""Scores to p-values, within the held-out scores and beyond them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.detect.tail import MOST_NATS, OF_COUNTS, OF_NATS, Tail, Tails, pack, unpack

SCORES = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=300)


def p_values(tail: Tail, scores: list[float]) -> list[float]:
    return [float(p) for p in np.exp(-tail.nats_of(np.array(scores, np.float32)))]


@given(SCORES, st.lists(st.floats(-60, 60, width=32), min_size=1, max_size=30))
def test_a_p_value_is_the_share_of_scores_that_are_as_high(held_out: list[float], scores: list[float]) -> None:
    """By counting, to a percent where scores were left out; between two scores, p is between theirs."""
    tail = Tail.fit(np.array(held_out, np.float32))
    for score, found in zip(scores, p_values(tail, scores), strict=True):
        exact = (1 + sum(score <= one for one in held_out)) / (1 + len(held_out))
        lower = (1 + sum(max(one for one in [-99, *held_out] if one <= score) <= one for one in held_out)) / (
            1 + len(held_out)
        )
        if score <= max(held_out):
            assert 0.985 * exact <= found <= 1.015 * lower
        elif score >= max(held_out) + tail.scale:
            assert found <= exact * (1 + 1e-9)
        else:
            assert found <= 1.015 * lower


def test_a_little_more_than_all_scores_is_no_rarer_than_they_are() -> None:
    """A quarter of the sessions begin alike, and a model that was trained again gives them a slightly higher score."""
    tail = Tail.fit(np.repeat([1.0, 2.5], [750, 250]).astype(np.float32))
    assert p_values(tail, [2.5, 2.501]) == pytest.approx([0.25, 0.25], rel=0.02)
    assert p_values(tail, [2.5 + 2 * tail.scale])[0] < 0.001


@given(SCORES)
def test_a_higher_score_is_never_less_unusual(held_out: list[float]) -> None:
    """Within the scores, beyond them, and at the end of all p-values."""
    tail = Tail.fit(np.array(held_out, np.float32))
    found = p_values(tail, [-1e9, *sorted(held_out), 51, 52, 100, 1e9])
    assert all(a >= b for a, b in itertools.pairwise(found))
    assert found[-1] >= np.exp(-MOST_NATS)


def test_the_tail_of_exponential_scores_is_theirs() -> None:
    """Beyond 20,000 scores the p-values are those of the distribution, to a factor of four at one in a million."""
    scores = np.random.default_rng(0).exponential(2.0, 20_000).astype(np.float32)
    (found,) = p_values(Tail.fit(scores), [2.0 * np.log(1e6)])
    assert 0.25e-6 < found < 4e-6


@pytest.mark.parametrize("count", [10, 60, 600])
def test_few_scores_promise_little(count: int) -> None:
    """Not more than one or two of 10,000 new scores have a p-value as small, in the mean over logs.

    Scores are exponential, of mean 1, so a score above x has the probability exp(-x). The scale is not known to the
    tail: with ten scores, an exponential tail of the estimated scale gives 20 in 10,000.
    """
    rng, grid = np.random.default_rng(1), np.geomspace(1e-3, 1e30, 200_000, dtype=np.float32)
    realised = []
    for _ in range(400):
        tail = Tail.fit(rng.exponential(1.0, count).astype(np.float32), 1e-9)
        realised.append(np.exp(-grid[tail.nats_of(grid).searchsorted(np.log(1e4))]))
    assert np.mean(realised) < 2e-4


def test_equal_scores_have_a_tail_too() -> None:
    """Where no held-out session has a twin, a second one is rarer than a first one, but not impossible."""
    tail = Tail.fit(np.zeros(10_000, np.float32), OF_COUNTS)
    one, two = p_values(tail, [1.0, 2.0])
    assert one / two == pytest.approx(np.exp(1 / OF_COUNTS), rel=0.1)
    assert two > 1e-8


def test_a_score_in_nats_is_at_most_e_times_rarer_for_each_nat() -> None:
    """Ten short sessions say little about a value far beyond theirs: the tail is not as steep as they are."""
    tail = Tail.fit(np.linspace(0, 0.5, 10).astype(np.float32))
    one, two = p_values(tail, [3.0, 5.0])
    assert 1 < one / two < np.exp(2 / OF_NATS)


@given(st.lists(st.floats(-50, 50, width=32) | st.just(-np.inf), max_size=60))
def test_the_median_is_that_of_the_sessions_with_a_value(scores: list[float]) -> None:
    """To the next score on either side."""
    known, found = sorted(one for one in scores if one > -np.inf), Tail.fit(np.array(scores, np.float32)).median()
    if not known:
        assert found is None
        return
    middle = len(known) // 2
    assert found is not None
    assert known[max(0, middle - 1)] <= found <= known[min(len(known) - 1, middle + 1)]


def test_a_session_without_a_value_counts_as_lower() -> None:
    """A value that few sessions have is unusual by that."""
    assert p_values(Tail.fit(np.empty(0, np.float32)), [1e9]) == [1.0]
    assert p_values(Tail.fit(np.full(3, -np.inf, np.float32)), [0.0]) == pytest.approx([0.25])
    assert p_values(Tail.fit(np.array([-np.inf, -np.inf, 1], np.float32)), [0.0]) == pytest.approx([0.5])


@given(st.lists(SCORES | st.just([]), min_size=1, max_size=5))
def test_tails_are_read_back_as_they_were_written(held_out: list[list[float]]) -> None:
    """One file has all tails, some of them empty."""
    tails = [Tail.fit(np.array(scores, np.float32)) for scores in held_out]
    for ours, theirs in zip(tails, unpack(pack(tails), len(tails)), strict=True):
        assert ours.scores.tolist() == theirs.scores.tolist()
        assert ours.nats.tolist() == theirs.nats.tolist()
        assert (ours.scale, ours.size) == (theirs.scale, theirs.size)
        assert p_values(ours, [60.0, 1e6]) == p_values(theirs, [60.0, 1e6])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scores", [1.0, 1.0], "not sorted"),
        ("scores", [1.0, np.nan], "not finite"),
        ("nats", [2.0, 1.0], "not sorted"),
        ("sizes", [3], "1 tails"),
        ("scales", [0.0], "not finite"),
        ("totals", [1, 2], "1 tails"),
    ],
)
def test_what_is_no_file_of_tails_is_refused(name: str, value: list[float], message: str) -> None:
    """One line says what is wrong."""
    arrays = {"scores": [1.0, 2.0], "nats": [1.0, 2.0], "sizes": [2], "scales": [1.0], "totals": [2], name: value}
    with pytest.raises(ValueError, match=message):
        unpack({key: np.array(one) for key, one in arrays.items()}, 1)


SCORE = st.floats(-50, 50, width=32) | st.sampled_from([-0.0, 0.0, -np.inf])


@given(st.lists(st.lists(SCORE, max_size=40), min_size=1, max_size=4), st.data())
def test_many_tails_at_once_give_what_each_of_them_gives(held_out: list[list[float]], data: st.DataObject) -> None:
    """At, between and beyond the held-out scores, in tails without any, and bit by bit."""
    tails = [Tail.fit(np.array(scores, np.float32)) for scores in held_out]
    known = [score for scores in held_out for score in scores if score > -np.inf]
    asked = data.draw(st.lists(SCORE | st.sampled_from([*known, 1e6, -1e6]), min_size=1, max_size=20))
    scores = np.array([score for score in asked if score > -np.inf], np.float32)
    for number, tail in enumerate(tails):
        found = Tails(tails).nats_of(np.full(len(scores), number), scores)
        np.testing.assert_array_equal(found, tail.nats_of(scores))
