"""Joins the topics `triggers` and `sessions`: what the users did after a trigger, and before it.

    first trigger of a rule for a user   the user's group and the moment; later ones are not independent of it
    sessions that began after it         the outcome, if one within the window has an event of its type
    sessions that ended before it        the history: how many of them have such an event

A user whose window is not over yet by the time of the sessions is left out.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np

from stream.events import Session
from stream.trigger import TREATED, Trigger
from stream.triggers.rules import Rule
from stream.uplift.estimate import Estimate, estimate

NOT_READ = (msgspec.DecodeError, UnicodeError, RecursionError)


class First(NamedTuple):
    """The first trigger of a rule for a user."""

    at_ms: int
    treated: bool


class Closed(NamedTuple):
    """A session that has ended, as its last revision says it.

    events  event types with at least one click
    """

    revision: int
    started_ms: int
    last_ms: int
    events: frozenset[str]


class Effect(NamedTuple):
    """The effect of a rule.

    waiting  users whose window is not over yet
    """

    rule: Rule
    estimate: Estimate
    waiting: int


def first_triggers(messages: Iterable[Any]) -> tuple[dict[str, dict[str, First]], int]:
    """Rule -> user -> the user's first trigger; and the number of messages that are no triggers."""
    found: dict[str, dict[str, First]] = {}
    left_out = 0
    for message in messages:
        try:
            one = msgspec.json.decode(message.value() or b"", type=Trigger)
        except NOT_READ:
            left_out += 1
            continue
        users = found.setdefault(one.rule, {})
        before = users.get(one.user_id)
        if before is None or one.timestamp < before.at_ms:
            users[one.user_id] = First(one.timestamp, one.group == TREATED)
    return found, left_out


class ClosedSessions:
    """The sessions of some users.

    until_ms  the latest time of a session of any user: the log goes up to it
    left_out  messages that are no sessions
    """

    def __init__(self, users: frozenset[str]) -> None:
        self._of = {user: dict[str, Closed]() for user in users}
        self.until_ms = self.left_out = 0

    def read(self, messages: Iterable[Any]) -> None:
        """Add the sessions in these messages that have ended."""
        for message in messages:
            try:
                one = msgspec.json.decode(message.value() or b"", type=Session)
            except NOT_READ:
                self.left_out += 1
                continue
            self.until_ms = max(self.until_ms, one.timestamp)
            of_user = self._of.get(one.user_id)
            if of_user is None or one.phase != "closed":
                continue
            before = of_user.get(one.id)
            if before is None or before.revision < one.revision:
                of_user[one.id] = Closed(one.revision, one.started, one.timestamp, frozenset(one.events))

    def of(self, user: str) -> Iterable[Closed]:
        return self._of[user].values()


def effect(rule: Rule, firsts: Mapping[str, First], sessions: ClosedSessions) -> Effect:
    """The effect of a rule on the users with a trigger of it."""
    rows = []
    for user, first in firsts.items():
        end_ms = first.at_ms + rule.window_ms
        if end_ms > sessions.until_ms:
            continue
        done = [one for one in sessions.of(user) if rule.outcome in one.events]
        outcome = any(first.at_ms < one.started_ms <= end_ms for one in done)
        rows.append((first.treated, outcome, sum(one.last_ms < first.at_ms for one in done)))
    columns = np.array(rows, np.float64).reshape(-1, 3)
    found = estimate(columns[:, 0] > 0, columns[:, 1] > 0, columns[:, 2])
    return Effect(rule, found, len(firsts) - len(rows))
