"""Items in demand: when an alert begins, and what is kept of a partition."""

from struct import error

import pytest

from stream.population.counts import Counts
from stream.population.surge import PLACES, SIZE, Surge

MINUTE_MS = 60_000


def usual(windows: int = 10, users: int = 200) -> tuple[Surge, Counts]:
    """A partition after windows in each of which the users have clicked items of all places alike."""
    surge, counts = Surge(), Counts()
    for number in range(windows):
        window(surge, counts, {place: users // PLACES + (place < users % PLACES) for place in range(PLACES)}, users)
        counts.clock_ms = (number + 1) * 5 * MINUTE_MS
    return surge, counts


def window(surge: Surge, counts: Counts, users_of: dict[int, int], users: int) -> float:
    """A window with so many users of each place. Returns the largest -log probability that is too large, nats."""
    counts.users = users
    found = max(surge.count(place, counts) for place, many in users_of.items() for _ in range(many))
    surge.next_window(counts)
    counts.next_window()
    return found


def test_many_users_of_one_place_are_too_many_and_as_many_of_all_places_are_not() -> None:
    surge, counts = usual()
    assert window(surge, counts, dict.fromkeys(range(PLACES), 4), 200) == 0
    surge, counts = usual()
    assert window(surge, counts, {3: 30}, 200) > 18


def test_the_first_windows_raise_no_alert() -> None:
    """Half an hour: what is usual is not known."""
    surge, counts = usual(windows=5)
    assert window(surge, counts, {3: 200}, 200) == 0
    surge, counts = usual(windows=6)
    assert window(surge, counts, {3: 200}, 200) > 0


def test_where_an_item_is_in_demand_again_and_again_only_a_larger_one_is_an_alert() -> None:
    """A news site has a new article on top every few hours."""
    surge, counts = usual()
    for number in range(12):
        window(surge, counts, {number: 25}, 200)  # each just below the limit of one in a million
        window(surge, counts, {PLACES - 1: 2}, 200)
    assert window(surge, counts, {20: 29}, 200) == 0
    other, of_other = usual(windows=34)
    assert window(other, of_other, {20: 29}, 200) > 0
    assert window(surge, counts, {21: 60}, 200) > 0


def test_an_episode_hides_a_later_one_only_if_that_is_below_twice_the_limit() -> None:
    """However large a sale was: it counts once, as what the limit was."""
    surge, counts = usual()
    for _ in range(6):
        surge.opened = 7 if window(surge, counts, {3: 190}, 200) else surge.opened
    surge.opened = -1
    assert window(surge, counts, {9: 80}, 200) > 0


def test_what_is_kept_comes_back() -> None:
    """A worker that restarts goes on from the same numbers; bytes of another version are refused."""
    surge, counts = usual()
    surge.opened, surge.place, surge.total, surge.over_ms = 71, 5, 40, 9 * MINUTE_MS
    window(surge, counts, {5: 50}, 200)
    data = surge.encode()
    assert len(data) == SIZE
    assert Surge.decode(data) == surge
    assert Surge.decode(b"") == Surge()
    for other in (data[:-1], b"\0" * SIZE):
        with pytest.raises(error):
            Surge.decode(other)
