"""p-values that hold for the live stream: what a drift changes, and what nobody may change."""

import math
import random
from itertools import pairwise

import numpy as np
import pytest

from stream.detect.detector import Evidence
from stream.detect.windows import NO_GAP
from stream.population.rates import LEVELS, PASSED, SIZE, Drift, Rates, correct
from stream.state.row import row_dtype
from tests import oracle_rates

USERS = 3_000
MINUTE_MS = 60_000
START_MS = 1_700_000_000_000
HELD_OUT = 20_000

Stream = list[tuple[int, int, int, float]]
"""Clicks as (user, partition, minute, nats)."""


def evidence(clicks: Stream, last: dict[int, int], first_offset: int) -> Evidence:
    """Evidence of which only these columns matter here. last: minute of each user's last click, kept up to date."""
    earlier, gap_ms = [], []
    for user, _, minute, _ in clicks:
        earlier.append(int(user in last))
        gap_ms.append(max(0, minute - last[user]) * MINUTE_MS if user in last else NO_GAP)
        last[user] = minute
    n = len(clicks)
    none = np.zeros(n, np.float32)
    time_ms = START_MS + MINUTE_MS * np.array([minute for _, _, minute, _ in clicks], np.int64)
    return Evidence(
        np.array([user for user, *_ in clicks], np.intp), none, none, np.zeros(n, np.int64), np.array(earlier),
        np.array(gap_ms, np.int64), time_ms, np.arange(first_offset, first_offset + n), np.zeros((n, 0), np.int32),
        np.zeros(n, np.bool_), np.zeros(n, np.uint64), np.zeros(n, np.bool_),
    )  # fmt: skip


def corrected(clicks: Stream, cuts: list[int]) -> tuple[list[float], list[bytes], list[Drift], bytes]:
    """Correct clicks of two partitions in batches that end at the cuts: nats, what is kept, drifts, rows."""
    rows, rates, last = np.zeros(USERS, row_dtype((), 0, (PASSED,))), [Rates(), Rates()], dict[int, int]()
    nats: list[float] = []
    drifts: list[Drift] = []
    for start, end in pairwise([0, *cuts, len(clicks)]):
        part = clicks[start:end]
        seen = evidence(part, last, start)
        rows["clicks"][seen.owner] = 1
        before = {PASSED.name: rows[PASSED.name].copy()}
        raw, partition = np.array([one for *_, one in part]), np.array([p for _, p, _, _ in part], np.intp)
        ends = raw.copy()
        found, begun = correct(seen, raw, partition, rates, HELD_OUT, before, rows, ends)
        assert ends.tolist() == found.tolist()  # an end is corrected as the click before it, and not counted
        nats += found.tolist()
        drifts += [one._replace(click=one.click + start) for one in begun]
    return nats, [one.encode() for one in rates], drifts, rows.tobytes()


def sessions(rng: random.Random, hours: int, factor: float, an_hour: int = 600, from_minute: int = 0) -> Stream:
    """Clicks that are a session each, with p-values that are `factor` times too small."""
    return [
        (n % USERS, n % 2, from_minute + n * 60 // an_hour, -math.log(min(1.0, rng.random() / factor + 1e-300)))
        for n in range(hours * an_hour)
    ]


def test_it_is_that_of_a_plain_loop_in_any_batches() -> None:
    """Nats, what is kept, drifts and rows, for sessions of several clicks and clocks that go back."""
    rng = random.Random(1)
    clicks: Stream = []
    for n in range(9_000):
        user, minute = rng.randrange(400), n // 12 + rng.randrange(-3, 3)
        clicks.append((user, user % 2, minute, rng.expovariate(0.5 if n > 2_000 else 1.2)))
    every = corrected(clicks, [])
    for cuts in (sorted(rng.sample(range(9_000), 300)), list(range(9_000))):
        assert corrected(clicks, cuts) == every

    rates = [oracle_rates.Rates(HELD_OUT), oracle_rates.Rates(HELD_OUT)]
    seen, passed, nats, events = evidence(clicks, {}, 0), [0] * USERS, [], []
    for n, (user, partition, minute, raw) in enumerate(clicks):
        starts = seen.clicks_before[n] == 0 or seen.gap_ms[n] >= 1_800_000
        one, passed[user] = rates[partition].click(passed[user], bool(starts), raw, START_MS + minute * MINUTE_MS, n)
        nats.append(one)
        events += [(n, event["opened"], event["phase"], event["users"]) for event in rates[partition].events]
    assert every[0] == pytest.approx(nats, abs=1e-12)
    assert every[1] == [one.kept() for one in rates]
    assert sorted((d.click, d.opened, "closed" if d.closes else "opened", round(d.beyond)) for d in every[2]) == events
    assert {phase for _, _, phase, _ in events} >= {"opened"}
    assert np.frombuffer(every[3], row_dtype((), 0, (PASSED,)))[PASSED.name].tolist() == passed


@pytest.mark.parametrize("factor", [1.0, 2.0, 3.0])
def test_the_nominal_share_of_sessions_holds_after_a_drift(factor: float) -> None:
    """Twice or three times as many sessions are beyond each p-value: after six hours the share of sessions beyond the
    corrected ones is nominal to a fifth."""
    clicks = sessions(random.Random(2), 36, factor)
    nats = np.array(corrected(clicks, [])[0])[6 * 600 :]
    for level in (0.05, 0.01, 0.002):
        assert (nats >= -math.log(level)).mean() < 1.2 * level + 2 * math.sqrt(level / len(nats))


def test_no_click_becomes_more_unusual() -> None:
    """Where fewer sessions than nominal are unusual, every p-value stays; and none ever becomes smaller."""
    clicks = sessions(random.Random(3), 6, 0.1)
    assert corrected(clicks, [])[0] == [nats for *_, nats in clicks]
    clicks = sessions(random.Random(3), 6, 2.0)
    assert all(after <= before for after, (*_, before) in zip(corrected(clicks, [])[0], clicks, strict=True))


def test_a_crowd_of_bots_does_not_become_the_norm() -> None:
    """As many bots as users for an hour: those beyond 1e-5 change no p-value, and milder ones at most by a half."""
    rng = random.Random(4)
    usual = [*sessions(rng, 3, 1.0), *sessions(rng, 1, 1.0, from_minute=180)]
    for nats, least in ((12.0, 12.0), (7.0, 3.5)):
        bots = [(1_800 + n % 1_200, n % 2, 180 + n // 10, nats) for n in range(600)]
        clicks = sorted([*usual, *bots], key=lambda click: click[2])
        found = [after for after, (*_, before) in zip(corrected(clicks, [])[0], clicks, strict=True) if before == nats]
        assert len(found) == 600
        assert min(found) >= least - 0.3


def test_a_session_counts_once_however_many_clicks_it_has() -> None:
    """A session with a hundred clicks beyond .01 is one of them, and one beyond 1e-5 is none."""
    clicks = [(0, 0, 0, 5.0)] * 100 + [(2, 0, 1, 5.0), (2, 0, 1, 12.0), (4, 0, 1, 3.5), (6, 0, 1, 7.0)]
    assert Rates.decode(corrected(clicks, [])[1][0]).passed == [3, 2, 1]


def test_sessions_that_are_excluded_later_take_nothing_else_out() -> None:
    """Those that passed the levels in one window and 1e-5 in the next leave no negative share behind."""
    clicks = [(n, 0, 0, 7.0) for n in range(100)] + [(n, 0, 15, 12.0) for n in range(100)]
    clicks += [(n, 0, 40 + n // 60, 0.1) for n in range(1_000, 1_200)]
    assert min(Rates.decode(corrected(clicks, [])[1][0]).beyond) >= 0.0


def test_a_drift_ends_below_its_begin() -> None:
    """Between 1.2 and 1.5 times nominal, one that is open stays open, and none begins."""
    rates = Rates(sessions=100_000.0, beyond=[6_500.0, 1_350.0, 270.0])
    assert rates.drifts(HELD_OUT, 3, 7) == []
    rates.opened = 5
    assert rates.drifts(HELD_OUT, 3, 7) == []
    rates.beyond[1] = 1_150.0
    assert [(one.opened, one.closes) for one in rates.drifts(HELD_OUT, 3, 7)] == [(5, True)]


def test_a_user_without_a_click_has_passed_nothing() -> None:
    """One who has begun again, with a click that failed: the row is as that of a new user."""
    rows = np.zeros(1, row_dtype((), 0, (PASSED,)))
    before = {PASSED.name: np.array([2], np.int32)}
    correct(evidence([], {}, 0), np.empty(0), np.empty(0, np.intp), [Rates()], HELD_OUT, before, rows)
    assert rows[PASSED.name][0] == 0


def test_a_drift_is_an_alert_with_an_end() -> None:
    """It begins once chance cannot explain the share at .01, and ends when the share is usual again."""
    rng = random.Random(5)
    drifting = sessions(rng, 5, 3.0, an_hour=2_400)
    drifts = corrected([*drifting, *sessions(rng, 18, 1.0, 2_400, from_minute=300)], [])[2]
    for partition in (0, 1):
        assert [one.closes for one in drifts if one.opened % 2 == partition] == [False, True]
    first = drifts[0]
    assert first.opened == first.click
    assert first.click < 2 * 2_400
    assert first.p_value <= 1e-6
    assert first.beyond > 1.5 * LEVELS[1] * first.sessions


def test_without_a_drift_there_is_no_alert() -> None:
    assert corrected(sessions(random.Random(6), 24, 1.0, 2_400), [])[2] == []


def test_what_is_kept_comes_back_from_its_bytes() -> None:
    rates = Rates(5, 6, 7, 8, [1, 2, 3], 1.5, [0.5, 0.25, 0.125])
    assert Rates.decode(rates.encode()) == rates
    assert len(rates.encode()) == SIZE
    assert Rates.decode(b"") == Rates()
