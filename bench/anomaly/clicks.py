"""Columns of clicks, their sessions, and the clicks of a log after an injection.

The rule that must not break: an injection adds clicks and changes the clicks that it names. All other clicks keep their
values and their order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.model.gaps import SESSION_GAP_MS

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Clicks:
    """n clicks in the order in which they arrive.

    user, item, event_type  (n,) int32, indices into the names of a log. An index after the last name is a new one; an
                            item from twice the number of names on has an id of a form that the log does not have
    category                (n,) int32, -1 = none
    time_ms                 (n,) int64, ms since the epoch
    """

    user: I32
    item: I32
    event_type: I32
    category: I32
    time_ms: I64

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: npt.NDArray[np.intp] | Flags) -> "Clicks":
        return Clicks(*(getattr(self, name)[rows] for name in FIELDS))


FIELDS = tuple(Clicks.__dataclass_fields__)


def joined(parts: Sequence[Clicks]) -> Clicks:
    """The clicks of all parts, one part after another."""
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in FIELDS}
    return Clicks(**columns)


def empty() -> Clicks:
    return Clicks(*(np.empty(0, np.int64 if name == "time_ms" else np.int32) for name in FIELDS))


class ByUser(NamedTuple):
    """n clicks sorted by user; a user's clicks stay in the order in which they arrive.

    order    (n,) intp, position of each click among the clicks before the sorting
    first    (n,) bool, the click is the user's first
    gap_ms   (n,) int64, time since the user's last click, at least 0; 0 for the first
    session  (n,) int64, number of the session, ascending; a pause of half an hour starts a new one
    """

    order: npt.NDArray[np.intp]
    first: Flags
    gap_ms: I64
    session: I64


def by_user(clicks: Clicks) -> ByUser:
    """Sort clicks by user and find the sessions."""
    order = np.argsort(clicks.user, kind="stable")
    user, time_ms = clicks.user[order], clicks.time_ms[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = user[1:] != user[:-1]
    gap_ms = np.zeros(len(order), np.int64)
    gap_ms[1:] = np.maximum(time_ms[1:] - time_ms[:-1], 0)
    gap_ms[first] = 0
    return ByUser(order, first, gap_ms, np.cumsum(first | (gap_ms >= SESSION_GAP_MS)) - 1)


def sessions(clicks: Clicks) -> I64:
    """The number of each click's session (n,), in the order of the clicks."""
    found = by_user(clicks)
    numbers = np.empty(len(clicks), np.int64)
    numbers[found.order] = found.session
    return numbers


class Episode(NamedTuple):
    """Injected behaviour of some users between two times, ms since the epoch. A control is an episode too."""

    kind: str
    strength: str
    users: tuple[int, ...]
    start_ms: int
    end_ms: int


class Injection(NamedTuple):
    """Episodes and their clicks.

    added            the added clicks
    added_episode    (a,) intp, index of the episode of each added click
    arrives_ms       (a,) int64, the added click arrives after the clicks until this time
    changed          (c,) intp, rows of the clean clicks that are replaced
    replaced         the c clicks that replace them
    changed_episode  (c,) intp, index of the episode of each changed click
    """

    episodes: list[Episode]
    added: Clicks
    added_episode: npt.NDArray[np.intp]
    arrives_ms: I64
    changed: npt.NDArray[np.intp]
    replaced: Clicks
    changed_episode: npt.NDArray[np.intp]


class World(NamedTuple):
    """Clean clicks with an injection, in the order in which they arrive.

    episode  (n,) intp, index of the episode of each click; -1 = clean
    row      (n,) intp, row of the click in the clean clicks; -1 = added
    """

    clicks: Clicks
    episode: npt.NDArray[np.intp]
    row: npt.NDArray[np.intp]
    episodes: list[Episode]


def apply(clean: Clicks, injection: Injection) -> World:
    """Add and replace the clicks of an injection. `clean` itself does not change."""
    columns = {name: getattr(clean, name).copy() for name in FIELDS}
    for name, column in columns.items():
        column[injection.changed] = getattr(injection.replaced, name)
    episode = np.full(len(clean), -1, np.intp)
    episode[injection.changed] = injection.changed_episode
    arrives = np.concatenate([clean.time_ms, injection.arrives_ms])
    order = np.argsort(arrives, kind="stable")
    row = np.concatenate([np.arange(len(clean)), np.full(len(injection.added), -1)])
    return World(
        joined([replace(clean, **columns), injection.added]).take(order),
        np.concatenate([episode, injection.added_episode])[order],
        row[order],
        injection.episodes,
    )


class Builder:
    """Collects the episodes of one injection."""

    def __init__(self) -> None:
        self._episodes: list[Episode] = []
        self._added: list[tuple[Clicks, I64]] = []
        self._changed: list[tuple[npt.NDArray[np.intp], Clicks]] = []

    def episode(
        self,
        kind: str,
        strength: str,
        added: Clicks | None = None,
        changed: npt.NDArray[np.intp] | None = None,
        replaced: Clicks | None = None,
        arrives_ms: I64 | None = None,
    ) -> None:
        """Add an episode with the clicks that it adds or replaces."""
        added = empty() if added is None else added
        replaced = empty() if replaced is None else replaced
        changed = np.empty(0, np.intp) if changed is None else changed
        both = joined([added, replaced])
        users = tuple(np.unique(both.user).tolist())
        self._episodes.append(Episode(kind, strength, users, int(both.time_ms.min()), int(both.time_ms.max())))
        self._added.append((added, added.time_ms if arrives_ms is None else arrives_ms))
        self._changed.append((changed, replaced))

    def build(self) -> Injection:
        numbers = np.arange(len(self._episodes))
        none = np.empty(0, np.int64)
        return Injection(
            self._episodes,
            joined([empty(), *(clicks for clicks, _ in self._added)]),
            np.repeat(numbers, [len(clicks) for clicks, _ in self._added]).astype(np.intp),
            np.concatenate([none, *(arrives for _, arrives in self._added)]),
            np.concatenate([none, *(rows for rows, _ in self._changed)]).astype(np.intp),
            joined([empty(), *(clicks for _, clicks in self._changed)]),
            np.repeat(numbers, [len(rows) for rows, _ in self._changed]).astype(np.intp),
        )
