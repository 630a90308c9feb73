"""The calibration of the statistics: nominal rates, sessions, bots among the held-out clicks."""

import numpy as np
import pytest

from stream.detect.behaviour import Behaviour, BehaviourDetector, excess, persistence, together
from stream.detect.detector import Evidence
from stream.detect.pvalue import Pools
from stream.detect.statistics import FILLS, NONE, OF_SESSIONS, STATISTICS
from stream.detect.tail import Tail
from stream.detect.windows import LATE, NO_GAP
from stream.state.row import row_dtype

S = len(STATISTICS)


def sessions(count: int, clicks: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Values, classes, sessions and folds of sessions with so many clicks; the statistics are not independent."""
    rng = np.random.default_rng(seed)
    common = rng.exponential(size=(count * clicks, 1))
    values = (common + rng.exponential(size=(count * clicks, S))).astype(np.float32)
    session = np.repeat(np.arange(count), clicks)
    return values, np.tile(np.arange(clicks), count) % FILLS, session, session % 2


def judged(
    behaviour: Behaviour, values: np.ndarray, fill: np.ndarray, clicks: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """-log p of the clicks of sessions with so many clicks, and of each statistic, as the detector has them."""
    each = behaviour.each(values, fill)
    more = excess(each)
    nats, _ = behaviour.nats(each, persistence(more, more.reshape(-1, clicks).cumsum(1).ravel()))
    return nats, each


def lowest(behaviour: Behaviour, values: np.ndarray, fill: np.ndarray, clicks: int) -> np.ndarray:
    """The lowest p-value of each session."""
    nats, _ = judged(behaviour, values, fill, clicks)
    return np.exp(-nats.reshape(-1, clicks).max(axis=1))


def test_the_nominal_share_of_sessions_has_an_alert() -> None:
    """All statistics together, for dependent statistics, at each rate that the held-out sessions can show."""
    behaviour = Behaviour.fit(*sessions(20_000, 5, 0))
    values, fill, _, _ = sessions(20_000, 5, 1)
    found = lowest(behaviour, values, fill, 5)
    for alpha in (0.1, 0.01, 0.001):
        assert 0.6 * alpha < (found <= alpha).mean() < 1.5 * alpha


def test_the_nominal_share_holds_for_clicks_and_ends_together() -> None:
    """The end counts as one more statistic of its session. A session can have no score."""
    rng = np.random.default_rng(2)
    scores = [np.where(rng.random(20_000) < 0.8, rng.exponential(size=20_000), NONE) for _ in range(2)]
    ends, others = (one.astype(np.float32) for one in scores)
    (one, *more), (values, fill, _, _) = sessions(20_000, 1, 0), sessions(20_000, 1, 1)
    behaviour, tail = Behaviour.fit(one[:, :1].repeat(S, 1), *more, ends), Tail.fit(ends)
    clicks = lowest(behaviour, values[:, :1].repeat(S, 1), fill, 1)
    of_end = np.ones(20_000)
    scored = others > NONE
    of_end[scored] = np.exp(-behaviour.combined.nats_of(tail.nats_of(others[scored]).astype(np.float32)))
    for alpha in (0.1, 0.01, 0.001):
        assert 0.6 * alpha < (np.minimum(clicks, of_end) <= alpha).mean() < 1.5 * alpha
        assert (clicks <= alpha).mean() < (np.minimum(clicks, of_end) <= alpha).mean()


def test_a_bot_among_the_held_out_clicks_is_one_session() -> None:
    """It has half of the clicks, and yet a bot like it is rare: as rare as the highest session of some statistic."""
    values, fill, session, fold = sessions(5_000, 2, 0)
    bot = np.full((10_000, S), 30, np.float32)
    behaviour = Behaviour.fit(
        np.concatenate([values, bot]),
        np.concatenate([fill, np.full(len(bot), 1)]),
        np.concatenate([session, np.full(len(bot), 5_000)]),
        np.concatenate([fold, np.zeros(len(bot), np.int64)]),
    )
    nats, _ = judged(behaviour, bot[:1], np.array([1]))
    assert np.exp(-nats[0]) < 4 * S / 5_000


def test_a_log_with_one_user_does_not_make_everybody_unusual() -> None:
    """Without a second fold the sessions are compared among themselves."""
    values, fill, session, fold = sessions(2_000, 2, 0)
    behaviour = Behaviour.fit(values, fill, session, np.zeros_like(fold))
    others, fill, _, _ = sessions(2_000, 2, 1)
    assert (lowest(behaviour, others, fill, 2) <= 0.01).mean() < 0.03


def test_one_strong_statistic_is_enough() -> None:
    """And an alert can name it: its own p-value is the smallest."""
    behaviour = Behaviour.fit(*sessions(20_000, 2, 0))
    values = np.zeros((1, S), np.float32)
    values[0, 3] = 40.0
    nats, each = judged(behaviour, values, np.array([1]))
    assert np.exp(-nats[0]) < 1e-4
    assert each[0].argmax() == 3


def test_a_click_that_few_sessions_have_is_unusual_in_itself() -> None:
    """Where one session of a thousand has six clicks, the sixth click has a p-value of about 1 / 1,000 at most."""
    values, fill, session, fold = sessions(5_000, 1, 0)
    fill[:5] = 6
    behaviour = Behaviour.fit(values, fill, session, fold)
    each = behaviour.each(np.full((2, S), -50, np.float32), np.array([6, 0]))
    of_class = ~np.array(OF_SESSIONS)
    assert np.exp(-each[0][of_class]) == pytest.approx(6 / 5_001)
    assert np.exp(-each[1][of_class]) == pytest.approx(4_996 / 5_001)


def test_a_sum_over_the_session_is_compared_with_whole_sessions() -> None:
    """After whatever number of clicks: how far the session has come is no reason for an alert by itself."""
    values, fill, session, fold = sessions(5_000, 2, 0)
    fill[:10] = 6
    behaviour = Behaviour.fit(values, fill, session, fold)
    each = behaviour.each(np.full((FILLS, S), 3.0, np.float32), np.arange(FILLS))
    whole = each[:, np.array(OF_SESSIONS)]
    assert (whole == whole[0]).all()
    highest = values[:, np.array(OF_SESSIONS)].reshape(5_000, 2, -1).max(1)
    assert np.exp(-whole[0]) == pytest.approx((1 + (highest >= 3.0).sum(0)) / 5_001, rel=0.02)


def test_several_unusual_statistics_are_more_than_one() -> None:
    """Half of what a further one is beyond .001 counts; usual ones change nothing."""
    nats = -np.log(np.array([[1e-5, 0.01, 0.5], [1e-5, 1e-5, 0.5], [1e-5, 1e-4, 1e-4]]))
    assert together(nats) == pytest.approx(-np.log([1e-5, 1e-6, 1e-6]))
    behaviour = Behaviour.fit(*sessions(20_000, 2, 0))
    values = np.full((2, S), -50, np.float32)
    values[:, 0], values[1, 3] = 16.0, 16.0
    found, _ = judged(behaviour, values, np.array([1, 1]))
    assert found[1] > found[0] + 0.5


def test_a_session_that_stays_unusual_becomes_more_so() -> None:
    """With few held-out sessions. The last ten clicks look the same after 20 clicks of a bot and after 200."""
    behaviour = Behaviour.fit(*sessions(500, 5, 0))
    ordinary, fill, _, _ = sessions(40, 5, 1)
    values = np.full((200, S), -50, np.float32)
    values[:, 3] = 12.0
    nats, each = judged(behaviour, values, np.full(200, 2), 200)
    assert (each == each[0]).all()
    assert nats[0] < nats[19] < nats[199]
    assert np.exp(-nats[0]) > 1e-4 > np.exp(-nats[199])
    values[100:] = ordinary[:100]
    later, _ = judged(behaviour, values, np.append(np.full(100, 2), fill[:100]), 200)
    alone, each = judged(behaviour, ordinary[:100], fill[:100], 100)
    usual = excess(each) == 0
    assert usual.sum() > 80
    assert (later[100:][usual] == alone[usual]).all()


def test_the_nominal_share_holds_for_long_sessions() -> None:
    """Some of them are unusual all along: the held-out sessions have such ones, too."""

    def long(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        values, fill, session, fold = sessions(4_000, 40, seed)
        habit = np.random.default_rng(seed + 10).exponential(2.0, 4_000).astype(np.float32)
        return values + habit[session][:, None], fill, session, fold

    behaviour = Behaviour.fit(*long(0))
    found = np.concatenate([lowest(behaviour, *long(seed)[:2], 40) for seed in (1, 2, 3)])
    for alpha in (0.1, 0.01):
        assert 0.6 * alpha < (found <= alpha).mean() < 1.5 * alpha
    assert (found <= 0.001).mean() < 0.002


def test_a_statistic_that_a_click_does_not_have_says_nothing() -> None:
    """Two clicks have no regular gaps: that is not unusual, even where few sessions come so far."""
    values, fill, session, fold = sessions(5_000, 1, 0)
    fill[:5] = 6
    behaviour = Behaviour.fit(values, fill, session, fold)
    nats, each = judged(behaviour, np.full((1, S), NONE, np.float32), np.array([6]))
    assert (each == 0).all()
    assert nats.tolist() == [0.0]


def test_tails_are_kept_in_the_order_of_a_file() -> None:
    """What is read back judges in the same way."""
    behaviour = Behaviour.fit(*sessions(2_000, 3, 0))
    values, fill, _, _ = sessions(100, 3, 1)
    again = Behaviour.of(behaviour.tails())
    assert judged(again, values, fill, 100)[0].tolist() == judged(behaviour, values, fill, 100)[0].tolist()


def test_a_reason_says_what_is_usual_after_as_many_clicks() -> None:
    """Six clicks of a second each, one of them late, where sessions of six or seven clicks have one every 50 s."""
    never, usual = Tail.fit(np.arange(1_000, 1_100, dtype=np.float32)), 5 * np.log(30_000 / 50_020)
    rate = [Tail.fit(np.full(100, usual if fill == 4 else 0.0, np.float32)) for fill in range(FILLS)]
    parts = [
        rate if name == "rate" else [never] * (1 if of_session else FILLS)
        for name, of_session in zip(STATISTICS, OF_SESSIONS, strict=True)
    ]
    detector = BehaviourDetector(
        Pools.of(("all",), [never], ("view",)), Behaviour(parts, never, never), np.full(9, -1, np.int32)
    )
    zeros, items = np.zeros(6, np.int64), np.arange(6)
    recent = np.where(items[:, None] >= items, (items[:, None] - items) % 8, -1)
    seen = Evidence(
        zeros, zeros.astype(np.float32), zeros.astype(np.float32), zeros, items,
        np.array([NO_GAP, 1_000, 1_000, LATE, 1_000, 1_000]), 1_000 * items, items,
        np.pad(recent, ((0, 0), (0, 18)), constant_values=-1).astype(np.int32), zeros > 0, items.astype(np.uint64),
        zeros > 0,
    )  # fmt: skip
    rows = np.zeros(1, row_dtype((), 0, detector.row_fields))
    before = {field.name: rows[field.name].copy() for field in detector.row_fields}
    rows["clicks"] = 6
    why = detector.judge(seen, before, rows).why(5)
    assert (why.pool, why.sentence) == ("6 or 7 clicks", "the last 6 clicks came every 1 s; usual are 50 s")
