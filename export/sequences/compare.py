"""Two groups of sessions: before and after a time, or those of other users and of some users, with intervals.

The intervals are a bootstrap over users: 1,000 times as many users as there are, drawn with replacement, each with all
sessions. So they are right for users with many sessions, and for users with sessions in both groups. More than UNITS
users are first joined to UNITS groups of users at random, which are drawn instead. This does not change what is
estimated, and the work does not grow with the users.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from export.arrays import F64, I64, Flags
from export.log.log import Log
from export.log.times import iso
from export.sequences.intervals import adjusted, as_list, two_sided
from stream.errors import ConfigError
from stream.ops.text import read_ids

RESAMPLES = 1_000
INTERVAL = (2.5, 97.5)
UNITS = 5_000
FEW_USERS = 30
"""With fewer users in a group the intervals are too narrow; the command prints it."""


class Groups(NamedTuple):
    """The two groups: their names, and which sessions (S,) are in the second."""

    names: tuple[str, str]
    second: Flags


class Sum(NamedTuple):
    """A share: the sessions `hits` (S,) among the sessions `of` (S,)."""

    hits: Flags
    of: Flags


def users_of(log: Log, file: Path) -> tuple[Flags, int]:
    """(users,) bool, the users of a log whose ids are in a file, one a line; and the number of ids of no such user.

    Raises ConfigError if the file cannot be read or has no user of the log.
    """
    ids = set(read_ids(file, "--compare-users"))
    there = np.array([name in ids for name in log.users], np.bool_)
    if not there.any():
        raise ConfigError(f"--compare-users {file}: no line is a user of the log; write one user id a line")
    return there, len(ids) - int(there.sum())


def by_time(begin_ms: I64, at_ms: int) -> Groups:
    """Sessions that begin before a time, and the others. begin_ms (S,)"""
    return Groups((f"before {iso(at_ms)}", f"from {iso(at_ms)}"), begin_ms >= at_ms)


def by_users(user: I64, there: Flags, file: Path) -> Groups:
    """Sessions of other users, and those of the users `there`. user (S,)"""
    return Groups(("other users", f"users of {file.name}"), there[user])


def compared(
    groups: Groups, user: I64, shares: Iterable[Sum], seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compare shares of two groups. Returns the groups' sizes and, for each share, an object with the fields:

    first, second  the shares; None in a group without sessions to count
    difference     second - first, with `95`, its interval
    q              the smallest false discovery rate among these shares at which the difference is not 0

    user  (S,) user of each session
    Raises ConfigError if a group has no session.
    """
    sizes = {}
    for name, mine in zip(groups.names, (~groups.second, groups.second), strict=True):
        if not mine.any():
            raise ConfigError(f"nothing to compare: no session is in the group {name!r}")
        sizes[name] = {"sessions": int(mine.sum()), "users": len(np.unique(user[mine]))}
    rng = np.random.default_rng(seed)
    unit, count = _units(user, rng)
    counted = []
    for share in shares:
        keys = (unit[flags] * 2 + groups.second[flags] for flags in (share.hits & share.of, share.of))
        counted.append([np.bincount(key, minlength=2 * count).reshape(count, 2) for key in keys])
    sums = np.array(counted, np.float64).transpose(2, 0, 1, 3)  # unit, share, hits and trials, group
    flat, drawn_sums = sums.reshape(count, -1), np.empty((RESAMPLES, *sums.shape[1:]))
    for number in range(RESAMPLES):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        drawn_sums[number] = (times @ flat).reshape(sums.shape[1:])
    with np.errstate(invalid="ignore", divide="ignore"):
        seen, drawn = _shares(sums.sum(0)), _shares(drawn_sums)
    return sizes, _found(seen, drawn[..., 1] - drawn[..., 0])


def _units(user: I64, rng: np.random.Generator) -> tuple[I64, int]:
    """(S,) the unit of each session that is drawn as a whole, and the number of units."""
    users, unit = np.unique(user, return_inverse=True)
    if len(users) <= UNITS:
        return unit, len(users)
    return (rng.permutation(len(users)) % UNITS)[unit], UNITS


def _shares(sums: F64) -> F64:
    """Shares (..., shares, 2) of sums (..., shares, hits and trials, 2); NaN without trials."""
    return np.asarray(sums[..., 0, :] / sums[..., 1, :])


def _found(seen: F64, drawn: F64) -> list[dict[str, Any]]:
    """seen (shares, 2), drawn (RESAMPLES, shares): the differences of the resamples"""
    difference = seen[:, 1] - seen[:, 0]
    whole = ~np.isnan(drawn).any(axis=0) & ~np.isnan(difference)
    error = drawn.std(axis=0)
    judged = whole & (error > 0)
    q = np.full(len(seen), np.nan)
    q[judged] = adjusted(two_sided(difference[judged] / error[judged]))
    found = []
    for number, (first, second) in enumerate(seen):
        interval = np.percentile(drawn[:, number], INTERVAL) if whole[number] else np.full(2, np.nan)
        found.append(
            {
                "first": None if np.isnan(first) else float(first),
                "second": None if np.isnan(second) else float(second),
                "difference": None if np.isnan(difference[number]) else float(difference[number]),
                "95": as_list(interval),
                "q": None if np.isnan(q[number]) else float(q[number]),
            }
        )
    return found
