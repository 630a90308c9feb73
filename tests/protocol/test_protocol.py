"""The protocol keeps its promise in every interleaving, and needs each of its protections.

Two workers share one partition. Broker, group and workers may be slow, frozen, or started again between any two steps.
For each protection that is left out, the explorer prints the shortest schedule that breaks the promise. The names of
the protections and their tests on the real code are in docs/delivery.md.
"""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.protocol.explorer import explore
from tests.protocol.promise import exactly_once, nobody_waits
from tests.protocol.state import State
from tests.protocol.world import World


class Bounds(NamedTuple):
    """How often a worker may be frozen for longer than its session, be started again, and how many other faults."""

    freezes: int
    restarts: int
    faults: int
    clicks: int


ALL = [Bounds(1, 1, 0, 1), Bounds(2, 0, 0, 1), Bounds(1, 0, 0, 2), Bounds(0, 0, 2, 2), Bounds(1, 0, 1, 1)]
FREEZE, RESTART, FAULT = Bounds(1, 0, 0, 1), Bounds(0, 1, 0, 1), Bounds(0, 0, 1, 2)

TWICE, LEFT_OUT, READ_AGAIN = "click 0 is decided twice", "click 0 is left out", "all rows are read a second time"
NEEDED: dict[str, tuple[Callable[[State], None], Bounds, str]] = {
    "generation": (exactly_once, FREEZE, TWICE),
    "stable offsets": (exactly_once, FREEZE, TWICE),
    "keep": (exactly_once, FREEZE, TWICE),
    "contiguity": (exactly_once, FAULT, LEFT_OUT),
    "last-applied offset": (exactly_once, FAULT, TWICE),
    "compare": (exactly_once, Bounds(0, 0, 1, 3), "click 1 is left out"),
    "checksum": (exactly_once, Bounds(0, 1, 1, 2), "the row at offset 2 holds the clicks (1,)"),
    "outcome": (exactly_once, Bounds(0, 0, 1, 1), TWICE),
    "committed rows": (exactly_once, FREEZE, "nothing more happens, and clicks are left"),
    "second look": (nobody_waits, FREEZE, "a worker ends with exit code 2, although no row is missing"),
    "fence": (nobody_waits, RESTART, "a restarted worker waits until the transaction of its dead process times out"),
    "order": (nobody_waits, FREEZE, READ_AGAIN),
    "high watermark": (nobody_waits, FREEZE, READ_AGAIN),
    "staged rows": (nobody_waits, FREEZE, "the partition cannot be kept"),
}
"""Protection -> the promise that breaks without it, where, and how."""


@pytest.mark.parametrize("bounds", ALL, ids=str)
def test_protocol_keeps_its_promise_in_every_interleaving(bounds: Bounds) -> None:
    """Each click is decided once, with the state after all earlier ones; nobody waits or ends without need."""

    def both(state: State) -> None:
        exactly_once(state)
        nobody_waits(state)

    result = explore(World(clicks=bounds.clicks), both, *bounds[:3])
    assert result.broken is None, str(result)
    assert result.states > 1_000


@pytest.mark.parametrize("protection", NEEDED)
def test_each_protection_is_needed_while_all_others_are_there(protection: str) -> None:
    """Without it there is a schedule that breaks the promise. The shortest one is printed."""
    promise, bounds, how = NEEDED[protection]
    result = explore(World(frozenset({protection}), bounds.clicks), promise, *bounds[:3])
    print(f"without {protection}: {result}")
    assert result.broken is not None
    assert how in result.broken
    assert explore(World(clicks=bounds.clicks), promise, *bounds[:3]).broken is None


@pytest.mark.parametrize("other", ["order", "high watermark"])
def test_comparing_offset_and_mark_stands_behind_the_way_of_reading(other: str) -> None:
    """Both only save a second reading as long as step 6 compares; without step 6 decisions are wrong."""
    bounds = Bounds(1, 0, 0, 2)
    assert explore(World(frozenset({other}), 2), exactly_once, *bounds[:3]).broken is None
    result = explore(World(frozenset({other, "compare"}), 2), exactly_once, *bounds[:3])
    print(f"without {other} and compare: {result}")
    assert result.broken is not None
