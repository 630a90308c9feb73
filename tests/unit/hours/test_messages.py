"""The message on an hour, as large as its topic allows."""

import json

import numpy as np
import pytest

from stream.events import Partition
from stream.hours.messages import messages
from stream.hours.table import MOST_TYPES, Cells, Hour, Table

HOUR_MS = 3_600_000


def hour_of(types: int) -> tuple[list[str], Hour]:
    """Names of 256 characters, four bytes each; a click of each type after each one, and more of the first ones."""
    names = ["\U0001f6d2" * 252 + f"{n:04}" for n in range(types)]
    cells = Cells(names)
    before, after = (index.ravel() for index in np.indices((cells.other + 1, cells.other + 1)))
    steps = cells.steps(before, after)
    reached = cells.first_reached + np.arange(cells.other)
    numbers = np.concatenate([np.sort(steps), reached, [cells.users]])
    counts = np.ones(len(numbers), np.int64)
    counts[numbers % cells.width < 3] += 7
    return names, Hour(Partition("clicks", 3), Table(5, numbers, counts))


@pytest.mark.parametrize("most_bytes", [16_384 - 128, 100_000, 1_000_000])
@pytest.mark.parametrize("types", [1, 30, MOST_TYPES, MOST_TYPES + 20])
def test_a_message_fits_and_keeps_its_sums(types: int, most_bytes: int) -> None:
    """Rare event types become "(other)" until it fits; a transaction with a larger one would fail for ever."""
    names, hour = hour_of(types)
    [(key, value)] = messages([hour], names, "m/1", most_bytes)
    [(_, whole)] = messages([hour], names, "m/1", 10**9)
    assert len(key) + len(value) <= most_bytes
    found, every = json.loads(value), json.loads(whole)
    assert key == b"clicks-3/18000000"
    for name in ("clicks", "users", "opened", "closed", "partition", "hour"):
        assert found[name] == every[name]
    assert sum(found["events"].values()) == found["clicks"]
    assert set(found["reached"]) == set(found["events"]) - {"(other)"}
    assert all(found["reached"][name] == every["reached"][name] for name in found["reached"])
    assert set(found["events"]) - {"(other)"} <= set(names[:MOST_TYPES])


def test_the_event_types_with_the_most_clicks_keep_their_names() -> None:
    names, hour = hour_of(30)
    [(_, value)] = messages([hour], names, "m/1", 40_000)
    found = json.loads(value)["events"]
    assert set(names[:3]) <= set(found)
    assert len(found) < 30


def test_what_is_kept_fits_into_the_changelog() -> None:
    """Also with the 10,000 event types that a model may have: most of them are "(other)"."""
    names = [f"type{n}" for n in range(10_000)]
    cells = Cells(names)
    every = Table(5, np.arange(cells.count), np.ones(cells.count, np.int64))
    assert len(cells.encode(every)) < 100_000
    [(_, value)] = messages([Hour(Partition("clicks", 0), every)], names, "m/1", 1_000_000)
    assert list(json.loads(value)["events"]) == [*names[:MOST_TYPES], "(other)"]
