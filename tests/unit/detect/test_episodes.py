"""When an unusual click raises an alert: the begin of an episode, and when it becomes much worse."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stream.detect.detector import Evidence
from stream.detect.episodes import EPISODE, GREW, NO_ALERT, OPENS, follow
from stream.model.gaps import SESSION_GAP_MS
from stream.state.row import row_dtype

THRESHOLD = 9.0
MINUTE_MS = 60_000


def evidence(owner: list[int], time_ms: list[int], earlier: list[int], first_offset: int = 0) -> Evidence:
    """Evidence of which only these columns matter here."""
    n = len(owner)
    none = np.zeros(n, np.float32)
    ints = [np.array(column, np.int64) for column in (earlier, time_ms, range(first_offset, first_offset + n))]
    return Evidence(
        np.array(owner, np.intp), none, none, np.zeros(n, np.int64), ints[0], np.zeros(n, np.int64), ints[1], ints[2],
        np.zeros((n, 0), np.int32), np.zeros(n, np.bool_), np.zeros(n, np.uint64),
        np.zeros(n, np.bool_),
    )  # fmt: skip


def alerts(
    clicks: list[tuple[int, int, float]], cuts: list[int], users: int = 2
) -> tuple[list[tuple[int, int]], bytes]:
    """(offset, offset of the episode) of the alerts on clicks (user, minute, nats), in batches; and the rows."""
    rows, found = np.zeros(2, row_dtype((), 0, EPISODE)), []
    for start, end in zip([0, *cuts], [*cuts, len(clicks)], strict=True):
        part = clicks[start:end]
        before = {field.name: rows[field.name].copy() for field in EPISODE}
        earlier = []
        for user, _, _ in part:
            earlier.append(int(rows["clicks"][user]))
            rows["clicks"][user] += 1
        seen = evidence([u for u, _, _ in part], [(1 + m) * MINUTE_MS for _, m, _ in part], earlier, start)
        nats = np.array([one for _, _, one in part], np.float64)
        alerted, episodes, _ = follow(seen, nats, THRESHOLD, before, rows)
        found += [(start + click, episode) for click, episode in zip(alerted, episodes, strict=True)]
    return found, rows.tobytes()


def test_an_episode_has_one_alert_until_it_becomes_much_rarer() -> None:
    """Twenty unusual clicks are one alert; a score that is GREW times as high is another one of the same episode."""
    worse = THRESHOLD * GREW
    clicks = [(0, n, THRESHOLD) for n in range(20)] + [(0, 20, worse + 0.01), (0, 21, worse + 0.02)]
    assert alerts(clicks, [])[0] == [(0, 0), (20, 0)]


def test_a_pause_of_half_an_hour_ends_an_episode() -> None:
    """It is measured from the last unusual click: usual clicks between do not keep it open."""
    pause = SESSION_GAP_MS // MINUTE_MS
    clicks = [(0, 0, 9.5), (0, pause - 1, 9.5), (0, 2 * pause - 2, 0.0), (0, 2 * pause - 1, 9.5)]
    assert alerts(clicks, [])[0] == [(0, 0), (3, 3)]


def test_a_late_unusual_click_does_not_turn_the_clock_back() -> None:
    """The pause is measured from the newest unusual click, not from the one that arrived last."""
    assert alerts([(0, 20, 9.5), (0, 0, 9.5), (0, 45, 9.5)], [])[0] == [(0, 0)]


def test_each_user_has_episodes_of_their_own() -> None:
    """And a usual click is never an alert."""
    assert alerts([(0, 0, 9.5), (1, 0, 9.5), (0, 1, 9.5), (1, 1, 8.9)], [])[0] == [(0, 0), (1, 1)]


def test_a_user_who_begins_again_begins_a_new_episode() -> None:
    """A user who was forgotten, within a batch or before it, has no episode from before."""
    rows = np.zeros(1, row_dtype((), 0, EPISODE))
    before = {field.name: rows[field.name].copy() for field in EPISODE}
    rows["clicks"] = 1  # after a reset, and one click
    seen = evidence([0, 0, 0], [MINUTE_MS, 2 * MINUTE_MS, 3 * MINUTE_MS], [7, 8, 0], 5)
    assert follow(seen, np.full(3, 9.5), THRESHOLD, before, rows) == ([0, 2], [5, 7], None)
    assert rows["episode_offset"].tolist() == [7]


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 100), st.sampled_from([0.0, 9.0, 10.0, 14.0, 21.5])), max_size=40
    ),
    st.data(),
)
def test_batches_change_nothing(clicks: list[tuple[int, int, float]], data: st.DataObject) -> None:
    """The same alerts and the same rows, however the clicks are split."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(clicks)), max_size=4)))
    assert alerts(clicks, cuts) == alerts(clicks, []) == alerts(clicks, list(range(len(clicks))))


def test_an_end_raises_an_alert_by_the_same_rule() -> None:
    """It opens an episode of its own, or is part of the user's open one if its score is GREW times as high; and
    it changes none."""
    worse = THRESHOLD * GREW
    minute = [0, 1, 2, 40, 0]
    nats = np.array([0.0, THRESHOLD, 0.0, 0.0, 0.0])
    ends = np.array([THRESHOLD, worse - 0.1, worse + 0.1, THRESHOLD, 0.0])
    rows = np.zeros(2, row_dtype((), 0, EPISODE))
    rows["clicks"] = 1
    before = {field.name: rows[field.name].copy() for field in EPISODE}
    seen = evidence([0, 0, 0, 0, 1], [(1 + m) * MINUTE_MS for m in minute], [0, 1, 2, 3, 0], 7)
    found = follow(seen, nats, THRESHOLD, before, rows, ends)
    assert (found.clicks, found.episodes) == ([1], [8])
    assert found.ends is not None
    assert found.ends.tolist() == [OPENS, NO_ALERT, 1 + 8, OPENS, NO_ALERT]
    assert rows[0]["unusual_ms"] == 2 * MINUTE_MS
    assert rows[0]["alerted_nats"] == THRESHOLD
