"""Counters and labels of the behaviour head: what a click may know, and what it may not."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from export.ahead.counters import counters_of
from export.ahead.upcoming import EDGES_MS, LEFT_AFTER, UNKNOWN, Upcoming, upcoming
from export.arrays import I32, I64
from stream.ahead.counters import COUNTERS
from stream.model.gaps import SESSION_GAP_MS

VIEW, CART, BUY = range(3)
TYPES = 3
LEAVES = TYPES + 1
MINUTE, HOUR = 60_000, 3_600_000


def of_user(*clicks: tuple[int, int]) -> tuple[I32, I64, I32]:
    """User, time and event type of one user's clicks (minutes, event type)."""
    minutes, event_type = zip(*clicks, strict=True)
    zeros = np.zeros(len(clicks), np.int32)
    return zeros, np.array(minutes, np.int64) * MINUTE, np.array(event_type, np.int32)


def labels(*clicks: tuple[int, int], until: int) -> Upcoming:
    return upcoming(*of_user(*clicks), TYPES, BUY, until * MINUTE)


def test_leaving_is_a_pause_of_half_an_hour_with_or_without_a_later_click() -> None:
    assert labels((0, VIEW), (29, CART), (59, VIEW), until=89).next_type.tolist() == [CART, LEAVES, LEAVES]


def test_the_last_half_hour_of_a_log_has_no_next_event() -> None:
    """There only users who clicked again at once are known, and none who left: a biased sample."""
    assert labels((0, VIEW), (10, CART), (11, VIEW), until=35).next_type.tolist() == [CART, UNKNOWN, UNKNOWN]


def test_the_end_of_the_log_is_not_a_user_who_left() -> None:
    """29 minutes of silence at the end say nothing about the next event or about a purchase."""
    found = labels((0, VIEW), (1, VIEW), until=30)
    assert found.next_type.tolist() == [VIEW, UNKNOWN]  # the first one has half an hour
    assert found.intent.tolist() == [UNKNOWN, UNKNOWN]
    assert not found.clicked[1]
    assert EDGES_MS[found.passed[1] - 1] <= 29 * MINUTE < EDGES_MS[found.passed[1]]


def test_the_intent_is_a_later_event_of_the_same_session() -> None:
    """The purchase itself does not count, and one in the next session does not either."""
    found = labels((0, VIEW), (1, CART), (2, BUY), (3, VIEW), (40, BUY), until=100)
    assert found.intent.tolist() == [1, 1, 0, 0, 0]


def test_a_log_without_the_event_type_has_no_intent() -> None:
    assert upcoming(*of_user((0, VIEW)), TYPES, None, HOUR).intent.tolist() == [UNKNOWN]


def test_the_bucket_of_the_next_click_ends_after_it() -> None:
    """A click at an edge is in the bucket that begins there; one after two weeks is in none."""
    found = labels((0, VIEW), (1, VIEW), (31, VIEW), (31 + 20 * 24 * 60, VIEW), until=31 + 20 * 24 * 60)
    assert found.passed.tolist() == [EDGES_MS.index(MINUTE) + 1, LEFT_AFTER, len(EDGES_MS), 0]
    assert found.clicked.tolist() == [True, True, False, False]


def test_a_return_is_known_only_of_clicks_a_week_before_the_end() -> None:
    """Of later clicks only those who came back soon would be known: a biased sample."""
    day = 24 * 60
    found = labels((0, VIEW), (2 * day, VIEW), (10 * day, VIEW), (11 * day, CART), until=12 * day)
    assert found.returned.tolist() == [1, 0, UNKNOWN, UNKNOWN]
    assert labels((0, VIEW), (1, VIEW), until=12 * day).returned.tolist() == [UNKNOWN, 0]


def test_counters_of_two_sessions() -> None:
    user, time_ms, event_type = of_user((0, VIEW), (2, CART), (60, VIEW))
    item = np.array([7, 7, 7], np.int32)
    found = counters_of(user, time_ms, event_type, item, TYPES)
    session, seconds, gap, clicks, sessions, repeats, hour = found[:, : len(COUNTERS)].T.tolist()
    assert session == [1, 2, 1]
    assert seconds == [0, 120, 0]
    assert gap == [0, 120, 58 * 60]
    assert clicks == [1, 2, 3]
    assert sessions == [0, 0, 1]
    assert repeats == [0, 1, 0]  # the second session has not seen the item
    np.testing.assert_allclose(hour, [0, 1 / 30, 1], rtol=1e-6)
    assert found[2, len(COUNTERS) :].tolist() == [1, 0, 0, 0, 2, 1, 0, 0, 0, 0]


def test_counters_of_the_click_before_are_those_of_the_session() -> None:
    user, time_ms, event_type = of_user((0, BUY), (2, CART), (7, TYPES), (8, VIEW), (60, VIEW), (61, VIEW), (61, CART))
    found = counters_of(user, time_ms, event_type, np.zeros(7, np.int32), TYPES)
    assert found[:, -2:].tolist() == [  # seconds before the click before, and 1 + its type
        [0, 0],
        [0, 1 + BUY],
        [120, 1 + CART],
        [300, 1 + TYPES],
        [0, 0],
        [0, 1 + VIEW],
        [60, 1 + VIEW],
    ]


logs = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 50), st.integers(0, TYPES), st.integers(0, 4)), min_size=2, max_size=40
)


@given(logs, st.integers(0, 2**31))
def test_nothing_but_the_labels_knows_the_future(rows: list[tuple[int, int, int, int]], seed: int) -> None:
    """Counters of a log's beginning do not depend on its rest. Labels whose future was seen do not change either."""
    user, steps, event_type, item = (np.array(column) for column in zip(*rows, strict=True))
    time_ms = np.cumsum(steps) * MINUTE
    cut_ms = int(np.random.default_rng(seed).choice(time_ms)) + 1
    order = np.lexsort((time_ms, user))
    user, time_ms, event_type, item = (column[order].astype(np.int64) for column in (user, time_ms, event_type, item))
    early = time_ms < cut_ms
    whole = counters_of(user, time_ms, event_type, item, TYPES)
    part = counters_of(user[early], time_ms[early], event_type[early], item[early], TYPES)
    np.testing.assert_array_equal(whole[early], part)
    later = upcoming(user, time_ms, event_type, TYPES, BUY, int(time_ms.max()) + 1).where(early)
    known = upcoming(user[early], time_ms[early], event_type[early], TYPES, BUY, cut_ms)
    for then, now in ((known.next_type, later.next_type), (known.intent, later.intent)):
        np.testing.assert_array_equal(then[then != UNKNOWN], now[then != UNKNOWN])
    assert (known.passed <= later.passed).all()
    assert (known.clicked <= later.clicked).all()


@given(logs)
def test_labels_are_those_of_a_walk_through_the_log(rows: list[tuple[int, int, int, int]]) -> None:
    """A slow walk click by click says the same."""
    user, steps, event_type, _ = (np.array(column) for column in zip(*rows, strict=True))
    time_ms = np.cumsum(steps) * MINUTE
    order = np.lexsort((time_ms, user))
    user, time_ms, event_type = user[order], time_ms[order], event_type[order]
    until = int(time_ms.max())
    found = upcoming(user, time_ms, event_type, TYPES, BUY, until)
    for i in range(len(user)):
        now, bought, over = int(time_ms[i]), False, False
        following = [(int(time_ms[j]), int(event_type[j])) for j in range(i + 1, len(user)) if user[j] == user[i]]
        for at, kind in following:
            if at - now >= SESSION_GAP_MS:
                over = True
                break
            bought, now = bought or kind == BUY, at
        over = over or until - now >= SESSION_GAP_MS
        assert found.intent[i] == (int(bought) if over else UNKNOWN)
        silent = (following[0][0] if following else until) - int(time_ms[i])
        expected = LEAVES if silent >= SESSION_GAP_MS else following[0][1] if following else UNKNOWN
        assert found.next_type[i] == (expected if until - int(time_ms[i]) >= SESSION_GAP_MS else UNKNOWN)
