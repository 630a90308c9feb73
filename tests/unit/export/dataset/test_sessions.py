"""Sessions in flat arrays against lists of lists."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from export.dataset.sessions import Sessions, SessionSets, sessions_of
from export.log.log import Log

ITEMS = 5
SESSIONS = st.lists(st.lists(st.integers(0, ITEMS), min_size=1, max_size=5), max_size=8)
QUICK = settings(max_examples=25)


def flat(sessions: list[list[int]], counts: list[int] | None = None) -> Sessions:
    """The sessions as arrays; ITEMS = an unknown item."""
    return Sessions(
        np.array([item for one in sessions for item in one], np.int32),
        np.cumsum([0, *map(len, sessions)]).astype(np.int64),
        np.arange(len(sessions)) * 10,
        np.array(counts or [0] * ITEMS, np.int64),
    )


def lists(sessions: Sessions) -> list[list[int]]:
    return [part.tolist() for part in np.split(sessions.item, sessions.start[1:-1])] if len(sessions) else []


@QUICK
@given(SESSIONS, st.data())
def test_some_sessions_are_whole_sessions(sessions: list[list[int]], data: st.DataObject) -> None:
    """A selection keeps each session's clicks together with its end, and the items' counts as they were."""
    keep = [data.draw(st.booleans()) for _ in sessions]
    kept = flat(sessions, [3] * ITEMS).where(np.array(keep, np.bool_))
    assert lists(kept) == [one for one, wanted in zip(sessions, keep, strict=True) if wanted]
    assert kept.end_ms.tolist() == [10 * i for i, wanted in enumerate(keep) if wanted]
    assert kept.counts.tolist() == [3] * ITEMS


@QUICK
@given(SESSIONS)
def test_positions_are_every_click_with_those_before_it(sessions: list[list[int]]) -> None:
    """Each click but a session's first is predicted once, from all earlier clicks of its session and no others."""
    found = [(before.tolist(), item) for before, item in flat(sessions).positions()]
    assert found == [(one[:at], one[at]) for one in sessions for at in range(1, len(one))]


@QUICK
@given(SESSIONS)
def test_every_click_knows_its_session(sessions: list[list[int]]) -> None:
    """The index runs along the clicks."""
    assert flat(sessions).session().tolist() == [s for s, one in enumerate(sessions) for _ in one]


@QUICK
@given(SESSIONS, st.permutations(range(ITEMS + 2)))
def test_items_of_another_model_are_found_at_their_new_index(sessions: list[list[int]], order: list[int]) -> None:
    """Clicks and counts move together to the new indices; the unknown item stays unknown."""
    place = np.array([*order[:ITEMS], ITEMS + 2], np.int32)
    moved = flat(sessions, [1, 2, 3, 4, 5]).reindexed(place, ITEMS + 2)
    assert lists(moved) == [[int(place[item]) for item in one] for one in sessions]
    assert moved.items == ITEMS + 2
    assert [int(moved.counts[place[item]]) for item in range(ITEMS)] == [1, 2, 3, 4, 5]
    assert moved.counts.sum() == 15


@QUICK
@given(SESSIONS, SESSIONS, st.integers(0, 30))
def test_later_sessions_follow_and_the_oldest_are_cut(
    earlier: list[list[int]], later: list[list[int]], newest: int
) -> None:
    """At most so many clicks stay, the newest whole sessions of both logs; counts are those of both, uncut."""
    both = flat(earlier, [1] * ITEMS).followed_by(flat(later, [2] * ITEMS), newest)
    expected: list[list[int]] = []
    for one in reversed([*earlier, *later]):
        if sum(map(len, expected)) + len(one) > newest:
            break
        expected.insert(0, one)
    assert lists(both) == expected
    assert both.counts.tolist() == [3] * ITEMS


@QUICK
@given(SESSIONS, st.integers(1, 4))
def test_sets_are_those_of_pythons_sets(sessions: list[list[int]], newest: int) -> None:
    """Which sessions hold an item, newest last and cut to the newest, and which known items a session holds."""
    sets = SessionSets(flat(sessions))
    for item in range(ITEMS):
        holding = [s for s, one in enumerate(sessions) if item in one]
        assert sets.sessions_with(item).tolist() == holding
        assert sets.sessions_with(item, newest).tolist() == holding[-newest:]
    asked = np.arange(len(sessions))[::-1]
    items, sizes = sets.items_of(asked)
    expected = [sorted({*sessions[s]} - {ITEMS}) for s in asked]
    assert sizes.tolist() == [len(one) for one in expected]
    assert items.tolist() == [item for one in expected for item in one]


CLICKS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 50)), min_size=1, max_size=14)
"""Session, item, ms."""


@QUICK
@given(CLICKS, st.integers(1, 20))
def test_a_logs_sessions_are_ordered_by_their_last_click(clicks: list[tuple[int, int, int]], newest: int) -> None:
    """Sessions that overlap in the log stand one after the other; a session's clicks keep the log's order."""
    session, item, time_ms = (np.array(column, np.int64) for column in zip(*clicks, strict=True))
    none = np.zeros(len(clicks), np.int32)
    log = Log(
        user=none, item=item.astype(np.int32), event_type=none, session=session.astype(np.int32), time_ms=time_ms,
        users=["u"], items=["a", "b", "c", "d"], event_types=["view"], sessions=[],
    )  # fmt: skip
    known = ["c", "a"]  # b and d are unknown to the model
    place = {0: 1, 1: 2, 2: 0, 3: 2}
    by_session: dict[int, list[tuple[int, int]]] = {}
    for number, which, ms in clicks:
        by_session.setdefault(number, []).append((place[which], ms))
    ordered = sorted(by_session.items(), key=lambda one: (max(ms for _, ms in one[1]), one[0]))
    expected: list[list[int]] = []
    ends: list[int] = []
    for _, one in reversed(ordered):
        if sum(map(len, expected)) + len(one) > newest:
            break
        expected.insert(0, [which for which, _ in one])
        ends.insert(0, max(ms for _, ms in one))
    found = sessions_of(log, known, newest)
    assert lists(found) == expected
    assert found.end_ms.tolist() == ends
    assert found.counts.tolist() == [sum(which == item for _, item, _ in clicks) for which in (2, 0)]
