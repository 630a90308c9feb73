"""The faults that `python -m bench.anomaly.system` injects, and how it measures the time until an alert."""

import numpy as np
import pytest

from bench.anomaly.clicks import FIELDS, Clicks
from bench.anomaly.ranges import SETS, STRENGTHS
from bench.anomaly.system import BEFORE_MS, LASTS_MS, SHARES, SIGNS, begins, faulty, stuffing
from stream.population.counts import WINDOW_MS
from stream.population.signs import SIGNS as ALL_SIGNS
from tests.unit.bench.test_anomaly import LOG

BEGINS_MS = LOG.start_ms + 12 * 3_600_000


def rows(clicks: Clicks) -> set[tuple[int, ...]]:
    return set(zip(*(getattr(clicks, name).tolist() for name in FIELDS), strict=True))


@pytest.mark.parametrize("kind", SIGNS)
def test_only_clicks_of_the_fault_differ_from_those_of_the_log(kind: str) -> None:
    """The engine sees the hours before the fault as they were, and of the clicks in it only those that are affected
    are changed or added."""
    clicks, affected = faulty(LOG, "tuning", kind, "strong", BEGINS_MS, np.random.default_rng(3))
    assert affected.any()
    assert (clicks.time_ms[affected] >= BEGINS_MS).all()
    assert (np.diff(clicks.time_ms) >= 0).all()
    assert clicks.time_ms[0] >= BEGINS_MS - BEFORE_MS
    assert clicks.time_ms[~affected].max() < BEGINS_MS + LASTS_MS
    assert rows(clicks.take(~affected)) <= rows(LOG.later)
    assert not rows(clicks.take(affected)) & rows(LOG.later)


def test_a_program_tries_its_accounts_within_five_minutes_and_its_clicks_have_equal_gaps() -> None:
    clicks = stuffing(LOG, "tuning", "strong", BEGINS_MS, np.random.default_rng(3))
    first = [clicks.time_ms[clicks.user == user] for user in np.unique(clicks.user)]
    assert all(BEGINS_MS <= times[0] < BEGINS_MS + WINDOW_MS for times in first)
    assert all(np.ptp(np.diff(times)) <= 1 for times in first)
    assert len(np.unique(clicks.item)) == 1


def test_a_fault_begins_in_the_clean_slice() -> None:
    rng = np.random.default_rng(3)
    assert all(LOG.start_ms < begins(LOG, rng) < LOG.end_ms for _ in range(100))


def test_the_sets_have_other_shares_and_the_signs_exist() -> None:
    assert set(SHARES) == set(SETS)
    for tuning, reporting in zip(*SHARES.values(), strict=True):
        assert tuning[1] < reporting[0]
    assert all(len(of) == len(STRENGTHS) for of in SHARES.values())
    assert all(sign in ALL_SIGNS for signs in SIGNS.values() for sign in signs)
