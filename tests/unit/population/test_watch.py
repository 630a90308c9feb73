"""When an episode of many users begins and ends."""

import numpy as np
import pytest

from stream.detect.alert import Verdicts
from stream.detect.detector import Evidence
from stream.detect.windows import NO_GAP
from stream.population.counts import Counts
from stream.population.surge import Surge
from stream.population.watch import ROW_FIELDS, Population

MINUTE_MS = 60_000
UNKNOWN_ITEM, UNKNOWN_TYPE = 100, 3


def phases(a_minute: float, share: float, hours: tuple[int, int, int]) -> list[tuple[str, int]]:
    """The begins and ends of the episodes of unknown event types in a shop, with the minute of the fault.

    a_minute  users who come in a minute: each clicks once
    share     of the users whose event type is unknown while the fault lasts
    hours     before the fault, with it, and after it
    """
    before, during, after = (hour * 60 for hour in hours)
    minute = np.arange(0, before + during + after, 1 / a_minute)
    clicks = len(minute)
    turn = np.arange(clicks) * share  # so that every fourth click, say, has the fault
    faulty = (np.floor(turn + share) > np.floor(turn)) & (minute >= before) & (minute < before + during)
    nothing, zeros = np.zeros(clicks, np.bool_), np.zeros(clicks, np.int64)
    seen = Evidence(
        np.arange(clicks),
        np.zeros(clicks, np.float32),
        np.zeros(clicks, np.float32),
        np.where(faulty, UNKNOWN_TYPE, 0),
        zeros,
        np.full(clicks, NO_GAP),
        (minute * MINUTE_MS).astype(np.int64),
        np.arange(clicks),
        np.tile(np.array([UNKNOWN_ITEM, -1], np.int32), (clicks, 1)),
        nothing,
        np.zeros(clicks, np.uint64),
        nothing,
    )
    rows = np.zeros(clicks, [("clicks", np.int64), *((field.name, field.dtype) for field in ROW_FIELDS)])
    rows["clicks"] = 1
    fields = {field.name: rows[field.name].copy() for field in ROW_FIELDS}
    verdicts = Verdicts(np.ones(clicks), np.empty(0, np.intp), [])
    _, rules = Population(UNKNOWN_ITEM, UNKNOWN_TYPE).watch(
        seen, verdicts, np.zeros(clicks, np.intp), [Counts()], [Surge()], fields, rows
    )
    return [("ends" if rule.closes else "begins", rule.time_ms // MINUTE_MS - before) for rule in rules]


@pytest.mark.parametrize(("a_minute", "share"), [(0.5, 0.2), (0.5, 0.9), (1, 0.25), (1, 0.7), (3, 0.25), (100, 0.25)])
def test_a_fault_is_one_episode_however_long_the_windows_of_a_shop_are(a_minute: float, share: float) -> None:
    """A window has at least 50 users, so that of a small shop is longer than half an hour."""
    found = phases(a_minute, share, (15, 4, 6))
    assert [phase for phase, _ in found] == ["begins", "ends"]


@pytest.mark.parametrize(("a_minute", "window"), [(0.5, 100), (1, 50), (100, 5)])
def test_an_episode_ends_after_half_an_hour_and_a_window_without_too_many(a_minute: float, window: int) -> None:
    (_, begins), (_, ends) = phases(a_minute, 0.7, (15, 2, 6))
    assert begins >= 0
    assert 120 < ends <= 120 + max(30, 2 * window)
