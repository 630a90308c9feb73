"""How many users with a sign are usual, and how improbable more are."""

import math
import struct
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.population.counts import FEWEST, OVER_NATS, OVER_USERS, QUIET_MS, WARM_UP, WINDOW_MS, Counts, upper_tail
from stream.population.signs import SIGNS


def exact(count: int, shape: int, ratio: Fraction) -> Fraction:
    """Probability that a negative binomial number is at least `count`, in whole numbers."""
    q = ratio / (1 + ratio)
    return 1 - sum(Fraction(math.comb(shape + k - 1, k)) * (1 - q) ** shape * q**k for k in range(count))


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 50), st.integers(1, 50))
def test_the_tail_is_that_of_a_negative_binomial_distribution(count: int, shape: int, a: int, b: int) -> None:
    wanted = exact(count, shape, Fraction(a, b))
    assert upper_tail(count, shape, a / b) == pytest.approx(-math.log(wanted), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("count", "shape", "ratio"), [(1, 0.5, 1e-6), (5, 0.5, 1e-5), (3_000, 1e5, 0.01), (900, 1e-2, 3.0)]
)
def test_the_tail_is_finite_for_rare_and_for_many_events(count: int, shape: float, ratio: float) -> None:
    assert 0 < upper_tail(count, shape, ratio) < 5_000


def test_the_tail_of_a_huge_window_is_computed_at_once() -> None:
    """A sum of its terms would have a million of them; and more users are never more probable."""
    found = [upper_tail(count, 5.0, 1e6 / 3) for count in (4e6, 5e6, 6e6)]
    assert 0 < found[0] < found[1] < found[2] < 100
    spreads = [upper_tail(8 / spread, 0.5 / spread, 0.1) for spread in (1.0, 1.6, 1.99, 2.01)]
    assert spreads == sorted(spreads, reverse=True)


def after(windows: int, users: int, hits: int) -> Counts:
    """Counts after some equal windows, with `hits` users who show the first sign."""
    counts = Counts()
    for _ in range(windows):
        counts.users, counts.hits[0] = users, hits
        counts.next_window()
    return counts


def test_what_is_kept_comes_back_from_its_bytes() -> None:
    counts = after(9, 70, 3)
    counts.clock_ms, counts.start_ms, counts.opened[4], counts.over_ms[4], counts.alerts[9] = 13, 12, 2**40, 99, 7
    counts.total[1], counts.spread[2] = 8, 1.25
    assert Counts.decode(counts.encode()) == counts
    assert Counts.decode(b"") == Counts()


@pytest.mark.parametrize("other", [b"x" * 10, b"\0" * len(Counts().encode())])
def test_bytes_of_another_version_are_refused(other: bytes) -> None:
    """Of another length, or of the same with other signs."""
    with pytest.raises(struct.error):
        Counts.decode(other)


@pytest.mark.parametrize(("users", "time_ms", "ends"), [(FEWEST, WINDOW_MS, True), (FEWEST - 1, 10**9, False)])
def test_a_window_has_enough_users_and_lasts_long_enough(users: int, time_ms: int, ends: bool) -> None:
    counts = Counts(users=users, clock_ms=time_ms)
    assert counts.ends() == ends
    assert not Counts(users=users, clock_ms=WINDOW_MS - 1).ends()


def test_the_next_end_of_an_episode_is_that_of_the_quietest_sign() -> None:
    counts = Counts()
    assert counts.due_ms() > 10**15
    counts.opened[2], counts.over_ms[2] = 7, 5_000
    counts.opened[1], counts.over_ms[1] = 0, 4_000
    assert counts.due_ms() == 4_000 + QUIET_MS


def test_a_new_partition_is_not_judged() -> None:
    for windows in range(WARM_UP + 2):
        counts = after(windows, 60, 0)
        counts.users, counts.hits[0] = 60, 60
        assert (counts.judge(0) > OVER_NATS) == (windows >= WARM_UP)


def test_a_few_users_are_never_too_many() -> None:
    counts = after(200, 10_000, 0)
    counts.users, counts.hits[0] = 60, OVER_USERS - 1
    assert counts.judge(0) == 0
    counts.hits[0] += 1
    assert counts.judge(0) > OVER_NATS


def test_a_window_that_has_just_begun_is_compared_with_a_whole_one() -> None:
    """Else the first users of each window would be too many wherever a sign is frequent."""
    counts = after(50, 1_000, 100)
    counts.users, counts.hits[0] = 10, 10
    assert counts.judge(0) == 0


def test_windows_that_differ_more_than_by_chance_raise_the_number_that_is_usual() -> None:
    steady, restless = after(60, 1_000, 100), after(0, 0, 0)
    for n in range(60):
        restless.users, restless.hits[0] = 1_000, 50 if n % 2 else 150
        restless.next_window()
    for counts in (steady, restless):
        counts.users, counts.hits[0] = 1_000, 160
    assert steady.judge(0) > OVER_NATS > restless.judge(0)


def test_a_change_that_stays_becomes_usual_within_hours_and_not_at_once() -> None:
    """And a share of zero can become usual as well."""
    counts = after(30, 200, 0)
    over = []
    for _ in range(60):
        counts.users, counts.hits[0] = 200, 120
        over.append(counts.judge(0) > OVER_NATS)
        counts.next_window()
    assert all(over[:12])
    assert not any(over[48:])


def test_each_sign_is_counted_by_itself() -> None:
    counts = after(30, 200, 90)
    assert counts.share(0) > 0.4
    assert all(counts.share(sign) < 0.01 for sign in range(1, len(SIGNS)))
