"""How many different categories a session had: what eight bytes of a row keep of them."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.sessions.categories import I64, U64, category_counts, category_hashes, with_categories

NAMES = [f"category {n}" for n in range(40)]


def kept_after(sessions: list[list[str]], cuts: int = 1) -> U64:
    """What the rows of sessions keep after clicks with these categories, in so many batches."""
    kept = np.zeros(len(sessions), np.uint64)
    for part in range(cuts):
        pairs = [(row, name) for row, names in enumerate(sessions) for name in names[part::cuts]]
        hashes = category_hashes([name for _, name in pairs])
        if hashes is not None:
            kept = with_categories(kept, np.array([row for row, _ in pairs], np.intp), hashes)
    return kept


def drawn(categories: int, sessions: int) -> I64:
    """The counts of so many sessions with so many different categories each, with random names."""
    rng = random.Random(categories)
    return category_counts(kept_after([[str(rng.random()) for _ in range(categories)] for _ in range(sessions)]))


@given(
    sessions=st.lists(st.lists(st.sampled_from(NAMES), max_size=30), min_size=1, max_size=4),
    cuts=st.integers(1, 30),
    seed=st.integers(0, 9),
)
def test_what_a_row_keeps_depends_only_on_the_set(sessions: list[list[str]], cuts: int, seed: int) -> None:
    """In any order, in any batches, however often a category comes, and whoever else is in the batch."""
    kept = kept_after(sessions, cuts)
    mixed = [random.Random(seed).sample(names * 2, 2 * len(names)) for names in sessions]
    assert kept.tolist() == kept_after(mixed).tolist()
    assert kept.tolist() == [int(kept_after([sorted(set(names))])[0]) for names in sessions]


def test_up_to_five_categories_are_counted_exactly() -> None:
    """Every subset of some names without equal hashes; six are at least six."""
    names = NAMES[:9]
    for size in range(6):
        subsets = [list(some) for some in itertools.combinations(names, size)]
        assert category_counts(kept_after(subsets)).tolist() == [size] * len(subsets)
    assert category_counts(kept_after([names[:6]])).tolist() == [6]


def test_a_count_never_falls() -> None:
    """Also where the exact count ends, and where every bit is set."""
    names = [str(n) for n in range(3_000)]
    found = [0]
    kept = np.zeros(1, np.uint64)
    for name in names:
        hashes = category_hashes([name])
        assert hashes is not None
        kept = with_categories(kept, np.zeros(1, np.intp), hashes)
        found += category_counts(kept).tolist()
    assert found == sorted(found)
    assert found[:7] == [0, 1, 2, 3, 4, 5, 6]
    assert found[-1] == 261


@pytest.mark.parametrize(("categories", "percent"), [(2, 0.02), (3, 0.07), (4, 0.15), (5, 0.24)])
def test_an_exact_count_is_wrong_as_rarely_as_the_documents_say(categories: int, percent: float) -> None:
    """By the formula for equal hashes, and in sessions with random names within four standard deviations of it."""
    wrong = 1 - math.prod(1 - n / 4095 for n in range(categories))
    assert round(100 * wrong, 2) == percent
    sessions = 20_000
    counts = drawn(categories, sessions)
    assert set(counts.tolist()) <= {categories, categories - 1}
    expected = sessions * wrong
    assert abs(np.count_nonzero(counts < categories) - expected) <= 4 * math.sqrt(expected)


@pytest.mark.parametrize(("categories", "error"), [(10, 0.09), (20, 0.09), (50, 0.10)])
def test_an_estimate_has_the_standard_error_of_the_documents(categories: int, error: float) -> None:
    """By the formula of Whang et al. and, up to a tenth more, in sessions with random names. The mean error is less
    than half as large."""
    load = categories / 63
    by_formula = math.sqrt(63 * (math.exp(load) - load - 1)) / categories
    assert round(by_formula, 2) == error
    counts = drawn(categories, 2_000)
    assert np.sqrt(np.mean((counts - categories) ** 2.0)) / categories <= 1.1 * by_formula
    assert abs(counts.mean() - categories) <= 0.04 * categories


def test_without_a_category_nothing_is_kept() -> None:
    """None of the clicks has one, or only those of other sessions."""
    assert category_hashes([None, None]) is None
    assert category_hashes([]) is None
    hashes = category_hashes([None, "shoes"])
    assert hashes is not None
    assert category_counts(with_categories(np.zeros(3, np.uint64), np.array([1, 2]), hashes)).tolist() == [0, 0, 1]
