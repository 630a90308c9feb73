"""Two groups: shares are those of a plain count, and intervals hold a planted difference as often as they promise."""

from pathlib import Path

import numpy as np
import pytest

from export.arrays import I64, Flags
from export.log.log import Log
from export.sequences import compare
from export.sequences.compare import Groups, Sum, by_time, by_users, compared, users_of
from stream.errors import ConfigError


def planted(seed: int, users: int, difference: float) -> tuple[I64, Flags, Flags]:
    """The user of each session, whether it is in the second group, and whether it is a hit.

    Users have one to eight sessions in both groups, and hits by a share of their own.
    """
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rng.integers(1, 9, users))
    second = rng.random(len(user)) < 0.5
    own = rng.uniform(0.0, 0.6, users)[user]
    return user, second, rng.random(len(user)) < own + difference * second


@pytest.mark.parametrize("units", [5_000, 100])
def test_intervals_hold_a_planted_difference(units: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """95% of 120 intervals hold the difference of 0.1 (fewer than 106 would be 1 in 1,000), also with joined users."""
    monkeypatch.setattr(compare, "UNITS", units)
    monkeypatch.setattr(compare, "RESAMPLES", 200)
    inside = widths = 0.0
    for seed in range(120):
        user, second, hits = planted(seed, 250, 0.1)
        every = np.ones(len(user), np.bool_)
        _, [found] = compared(Groups(("a", "b"), second), user, [Sum(hits, every)], seed)
        low, high = found["95"]
        inside += low <= 0.1 <= high
        widths += high - low
    assert 106 <= inside <= 119
    assert widths / 120 < 0.15


def test_shares_and_sizes_are_those_of_a_plain_count() -> None:
    """Also of a share whose trials are some of the sessions, and of one without trials in a group."""
    user, second, hits = planted(1, 50, 0.2)
    of = (np.arange(len(user)) % 3 > 0) | hits
    nowhere = ~second & hits
    shares = [Sum(hits, of), Sum(nowhere, nowhere)]
    sizes, found = compared(Groups(("a", "b"), second), user, shares, 0)
    for name, mine in (("first", ~second), ("second", second)):
        group = {"first": "a", "second": "b"}[name]
        assert sizes[group] == {"sessions": mine.sum(), "users": len(set(user[mine].tolist()))}
        assert found[0][name] == pytest.approx(sum(hits[mine]) / sum(of[mine]))
    assert found[0]["difference"] == pytest.approx(found[0]["second"] - found[0]["first"])
    assert found[1] == {"first": 1.0, "second": None, "difference": None, "95": None, "q": None}
    assert compared(Groups(("a", "b"), second), user, shares, 0)[1] == found, "the same seed gives the same figures"


def test_a_difference_is_found_and_none_is_not() -> None:
    """q is small for a planted difference, and not for 20 shares that are equal in both groups."""
    user, second, hits = planted(3, 1500, 0.15)
    rng = np.random.default_rng(0)
    every = np.ones(len(user), np.bool_)
    equal = [Sum(rng.random(len(user)) < 0.3, every) for _ in range(20)]
    _, found = compared(Groups(("a", "b"), second), user, [Sum(hits, every), *equal], 0)
    assert found[0]["q"] < 0.001
    assert all(one["q"] > 0.05 for one in found[1:])


def log_of(users: list[str]) -> Log:
    one = np.arange(len(users), dtype=np.int32)
    return Log(one, one * 0, one * 0, one, one.astype(np.int64), users, ["i"], ["view"], [])


def test_groups_by_time_and_by_users(tmp_path: Path) -> None:
    """A session belongs to the time of its first click; a file names the users of the second group."""
    groups = by_time(np.array([1_000, 2_000, 3_000]), 2_000)
    assert groups.second.tolist() == [False, True, True]
    file = tmp_path / "treated.txt"
    file.write_bytes("u2\r\nnobody\n\nu\u20280\n".encode())  # an id may have what Unicode calls the end of a line
    there, unknown = users_of(log_of(["u\u20280", "u1", "u2"]), file)
    assert (there.tolist(), unknown) == ([True, False, True], 1)
    assert by_users(np.array([0, 1, 1, 2]), there, file).second.tolist() == [True, False, False, True]


@pytest.mark.parametrize(
    ("content", "fragment"),
    [(None, "cannot be read"), (b"nobody\n", "no line is a user of the log"), (b"\xff\xfe\x00", "not UTF-8")],
)
def test_a_bad_file_of_users_is_one_line(tmp_path: Path, content: bytes | None, fragment: str) -> None:
    file = tmp_path / "users.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=fragment) as raised:
        users_of(log_of(["u0"]), file)
    assert "\n" not in str(raised.value)


def test_a_group_without_sessions_is_refused() -> None:
    with pytest.raises(ConfigError, match="no session is in the group 'before 2025"):
        compared(by_time(np.array([1_800_000_000_000]), 1_735_689_600_000), np.zeros(1, np.int64), [], 0)
