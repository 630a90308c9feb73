"""What a model is calibrated with."""

from dataclasses import replace

import numpy as np
import pytest

from export.dataset.windows import Clicks
from export.log.log import GAP_EDGES_MS, Vocabulary
from export.model import calibrate
from export.model.calibrate import calibrated, session_numbers, surprise_pools, whole_sessions
from stream.detect.pvalue import Pools
from stream.detect.statistics import STATISTICS
from stream.detect.tail import Tail
from stream.model.gaps import gap_bucket


def clicks_of(user: np.ndarray, time_ms: np.ndarray, event_type: np.ndarray | None = None) -> Clicks:
    """Clicks on item 0, sorted by user and time."""
    none = np.zeros(len(user), np.int32)
    first = np.append(True, user[1:] != user[:-1])
    gap = gap_bucket(np.diff(time_ms, prepend=time_ms[0]), first, GAP_EDGES_MS).astype(np.uint8)
    event_type = none if event_type is None else event_type.astype(np.int32)
    return Clicks(none, event_type, gap, none - 1, none > 0, user.astype(np.int32), time_ms)


def test_event_types_called_like_a_pool_are_judged_by_their_own_clicks() -> None:
    """With the event types `all` and `view/first` each click is still judged against clicks of its kind."""
    event_types = ("view", "all", "view/first")
    rows = 30_000
    number = np.arange(rows)
    surprise = number // 10 % 3 * np.float32(10) + number.astype(np.float32) / rows
    clicks = clicks_of(number // 10, np.zeros(rows, np.int64), number // 10 % 3)
    vocabulary = Vocabulary(["i"], event_types, GAP_EDGES_MS)
    found = surprise_pools(surprise.astype(np.float32), clicks, np.ones(rows, np.bool_), vocabulary)
    assert len(found["all"]) == rows
    pools = Pools.of(tuple(found), [Tail.fit(pool) for pool in found.values()], event_types)
    for index in range(3):
        for history in range(3):
            scores = pools.tails[pools.table[index, history]].scores
            assert (np.floor(scores / 10) == index).all()
    assert (pools.table[3] == list(found).index("all")).all()


def test_a_session_ends_after_half_an_hour_and_with_the_user() -> None:
    """Only held-out clicks have a session."""
    minute = 60_000
    clicks = clicks_of(np.array([0, 0, 0, 1, 1]), np.array([0, 29, 59, 60, 61], np.int64) * minute)
    held_out = np.array([False, True, True, True, True])
    assert session_numbers(clicks, held_out).tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize(("items", "most"), [([0, 1], 0), ([0, 0], 3)])
def test_new_items_are_told_from_each_other_when_repeats_are_counted(items: list[int], most: int) -> None:
    """Sessions of four clicks at once: on two new items in turn no click repeats the one before, on one new item three
    do. To the model both are clicks on its one unknown item."""
    log = clicks_of(np.repeat(np.arange(200), 4), np.repeat(np.arange(200), 4) * 10**7)
    clicks, log = log.with_items(np.full(800, 2, np.int32)), log.with_items(np.tile(items, 400).astype(np.int32))
    vocabulary, none = Vocabulary(["i", "j"], ("view",), GAP_EDGES_MS), np.zeros(800, np.float32)
    found = calibrated(none, none, clicks, np.ones(800, np.bool_), vocabulary, np.zeros(2, np.int64), log)
    [scores] = [tail.scores for tail in found.behaviour.parts[STATISTICS.index("twins")]]
    assert scores.max() == most


def test_the_statistics_of_a_large_log_are_those_of_its_parts() -> None:
    """Users are observed some at a time: the calibration does not depend on how many."""
    rng = np.random.default_rng(0)
    user = np.sort(rng.integers(0, 400, 5_000))
    time_ms = np.concatenate([np.sort(rng.integers(0, 10**8, count)) for count in np.bincount(user)])
    surprise, event_surprise = rng.exponential(size=(2, 5_000)).astype(np.float32)
    vocabulary = Vocabulary(["i"], ("view",), GAP_EDGES_MS)
    clicks = clicks_of(user, time_ms)
    given = surprise, event_surprise, clicks, time_ms > 5 * 10**7, vocabulary, np.zeros(1, np.int64), clicks
    whole = calibrated(*given).behaviour
    parts = calibrate.PART
    try:
        calibrate.PART = 100
        some = calibrated(*given).behaviour
    finally:
        calibrate.PART = parts
    assert [tail.scores.tolist() for tail in some.tails()] == [tail.scores.tolist() for tail in whole.tails()]
    assert whole.combined.size == session_numbers(given[2], given[3]).max() + 1


def site(days: int = 40) -> tuple[Clicks, list[tuple[int, ...]]]:
    """A log of one session an hour, each by a user of its own: 0, 1, 2, and now and then 2, 1, 0 or something new."""
    walks = [(2, 1, 0) if n % 7 == 0 else (0, 3, n % 4) if n % 100 == 99 else (0, 1, 2) for n in range(24 * days)]
    walks[-1] = (4, 4, 4)
    user = np.repeat(np.arange(len(walks)), 3)
    time_ms = user.astype(np.int64) * 3_600_000 + np.tile(np.arange(3), len(walks)) * 60_000
    clicks = clicks_of(user, time_ms)
    return replace(clicks, item=np.array([item for walk in walks for item in walk], np.int32)), walks


def test_the_ends_of_a_log_are_scored_where_its_sessions_are_alike() -> None:
    """A held-out session is compared with all others, without itself; one that may not have ended has no score."""
    clicks, walks = site()
    whole = whole_sessions(clicks, 5)
    assert whole is not None
    kinds = {tuple(sorted(walk)) for walk in walks[:-1]}
    assert len(whole.known) == len(kinds)
    assert whole.clicks.tolist() == [sum(walk.count(item) for walk in walks) for item in range(5)]
    assert whole.ends.tolist() == [sum(walk[-1] == item for walk in walks[:-1]) for item in range(5)]
    surprise = np.arange(len(clicks), dtype=np.float32) / len(clicks)
    held_out = clicks.time_ms >= clicks.time_ms.max() // 2
    scores = whole.scores(surprise, clicks, held_out)
    mine = walks[-len(scores) :]
    assert len(scores) == len(np.unique(clicks.user[held_out]))
    others = [sum(tuple(sorted(one)) == tuple(sorted(walk)) for one in walks[:-1]) for walk in mine]
    assert [score > -np.inf for score in scores[:-1]] == [count == 1 for count in others[:-1]]
    prior = whole.ends.sum() / whole.clicks.sum()
    for walk, score in zip(mine, scores.tolist(), strict=True):
        if score > -np.inf:
            last = walk[-1]
            alone = -np.log((whole.ends[last] - 1 + prior) / whole.clicks[last])
            assert score == pytest.approx(max(alone, 1), abs=0.5)
    assert scores[-1] == -np.inf


def test_the_ends_of_a_shop_are_not_scored() -> None:
    """Nearly every session of a shop is unlike all others: that says nothing, and would need large arrays."""
    rng = np.random.default_rng(0)
    clicks, _ = site()
    assert whole_sessions(replace(clicks, item=rng.integers(0, 500, len(clicks)).astype(np.int32)), 500) is None
