"""The expected alerts on a partition, click after click, in plain Python that shares no code with the worker.

Read it beside docs/anomalies.md: windows of five minutes, users with a sign in each, how many are usual, the episodes,
and the alerts of single users that are held back meanwhile.
"""

import struct
import zlib
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

from tests.oracle_chance import negative_binomial
from tests.oracle_surge import Demand, place_of

STATISTICS = ["clicks", "event types", "regular gaps", "rate", "one item", "twins", "category run", "steady pace"]
WHAT = {
    "unknown event types": "sent an event type that the model does not know",
    "unknown items": "clicked two items one after the other that the model does not know",
    "twins": "sent a click on the same item again within a second",
    "new form of ids": "sent an item id of a form that no item of the model has",
}
WHAT |= {f"alerts: {name}": f"had an alert for '{name}'" for name in STATISTICS}
SIGNS = list(WHAT)
HALF_AN_HOUR_MS = 1_800_000


def form_of(item: str) -> str:
    """Each digit as 0, each run of letters and digits with a letter as one A or a, all else as it is."""
    runs = ("".join(run) for _, run in groupby(item, str.isalnum))
    return "".join(
        run if not run.isalnum() else "0" * len(run) if run.isdecimal() else "A" if run.isupper() else "a"
        for run in runs
    )


@dataclass
class Seen:
    """What a user's row has of it: the begin of the window, the signs shown in it, and marks for the items clicked."""

    window_ms: int = 0
    signs: set[str] = field(default_factory=set)
    marks: set[int] = field(default_factory=set)

    def bits(self) -> int:
        return sum(1 << SIGNS.index(sign) for sign in self.signs) + sum(1 << len(SIGNS) + mark for mark in self.marks)


@dataclass
class Sign:
    """A sign in one partition. opened: the offset that opened its episode, -1 = none."""

    users: int = 0
    total: int = 0
    alerts: int = 0
    opened: int = -1
    over_ms: int = 0
    usual: float = 0.0
    spread: float = 1.0


class Found(NamedTuple):
    """The result for a click: the events without id and names, and the offset of the episode that the user's alert is
    part of, if any."""

    events: list[dict[str, Any]]
    part_of: int | None


class Partition:
    """Follows the clicks of one partition."""

    def __init__(self) -> None:
        self.clock_ms = self.start_ms = self.windows = self.users = 0
        self.exposure = self.weight = 0.0
        self.signs = {name: Sign() for name in SIGNS}
        self.demand = Demand()

    def click(
        self,
        user: Seen,
        begins: bool,
        signs: set[str],
        led: str | None,
        opens: bool,
        time_ms: int,
        offset: int,
        item: str | None,
    ) -> Found:
        """Follow one click on an item; None = the model does not know it.

        begins  the user has no earlier click
        signs   those of the click but for alerts
        led     sign of the user's alert on this click; None without an alert
        opens   the alert opens an episode of the user
        """
        self.clock_ms = max(self.clock_ms, time_ms)
        events = self._closed()
        if self.users >= 50 and self.clock_ms - self.start_ms >= 300_000:
            self._next()
        if self.users == 0:
            self.start_ms = self.clock_ms
        if begins or user.window_ms != self.start_ms:
            user.window_ms, user.signs, user.marks = self.start_ms, set(), set()
            self.users += 1
        if led is not None and opens:
            signs = signs | {led}
        for name in SIGNS:
            if name in signs and name not in user.signs:
                user.signs.add(name)
                events += self._counted(name, offset)
        place = None if item is None else place_of(item)
        if place is not None and place % 19 not in user.marks:
            user.marks.add(place % 19)
            events += self._demanded(place, offset)
        if led is None or self.signs[led].opened < 0:
            return Found(events, None)
        self.signs[led].alerts += 1
        return Found(events, self.signs[led].opened)

    def _next(self) -> None:
        self.demand.next(self.windows, self.users, self.exposure)
        for one in self.signs.values():
            counted = float(one.users)
            if self.windows >= 6:
                expected = (one.usual + 0.5) / self.exposure * self.users
                one.spread = 0.9 * one.spread + (1 - 0.9) * min(9.0, (one.users - expected) ** 2 / max(expected, 0.5))
                counted = min(counted, 2.0 * max(expected, 1.0))
            one.usual = 0.9 * one.usual + counted
            one.users = 0
        self.exposure = 0.9 * self.exposure + self.users
        self.weight = 0.9 * self.weight + 1
        self.windows, self.users = self.windows + 1, 0

    def _closed(self) -> list[dict[str, Any]]:
        events = []
        for name, one in self.signs.items():
            later = one.over_ms < self.start_ms and self.users >= 50
            if one.opened >= 0 and self.clock_ms - one.over_ms >= HALF_AN_HOUR_MS and later:
                reason = f"for half an hour no window had too many users who {WHAT[name]}"
                events.append(self._event(name, "closed", reason, one.total) | {"alerts": one.alerts})
                one.opened = -1
        demand = self.demand
        if demand.opened >= 0 and self.clock_ms - demand.over_ms >= HALF_AN_HOUR_MS:
            reason = "for half an hour no window had too many users on one item"
            events.append(self._of_demand("closed", reason, demand.total) | {"alerts": 0})
            demand.opened = -1
        return events

    def _demanded(self, place: int, offset: int) -> list[dict[str, Any]]:
        demand = self.demand
        users = max(float(self.users), self.exposure / self.weight) if self.windows else 0.0
        if not demand.click(place, self.windows, users, self.exposure, self.clock_ms) or demand.opened >= 0:
            return []
        demand.opened, demand.at, demand.total = offset, place, demand.places[place].users
        usual = demand.share(place, self.exposure)
        reason = f"{demand.total} of {self.users} users clicked the same item, or one of few others, and {usual:.2%}"
        event = self._of_demand("opened", f"{reason} are usual; for example ", demand.total)
        return [event | {"of_users": self.users}]

    def _of_demand(self, phase: str, reason: str, users: int) -> dict[str, Any]:
        return {
            "phase": phase,
            "sign": "one item in demand",
            "opened": self.demand.opened,
            "timestamp": self.clock_ms,
            "reason": reason,
            "users": users,
            "usual_share": round(self.demand.share(self.demand.at, self.exposure), 6),
        }

    def _counted(self, name: str, offset: int) -> list[dict[str, Any]]:
        one = self.signs[name]
        one.users += 1
        if one.opened >= 0:
            one.total += 1
            if one.over_ms >= self.start_ms:
                return []
        if self.windows < 6 or one.users < 6:
            return []
        users = max(float(self.users), self.exposure / self.weight)
        if one.users < 1.5 * ((one.usual + 0.5) / self.exposure) * users:
            return []
        spread = max(1.0, one.spread)
        if negative_binomial(one.users / spread, (one.usual + 0.5) / spread, users / self.exposure) > 1e-6:
            return []
        one.over_ms = self.clock_ms
        if one.opened >= 0:
            return []
        one.opened, one.total, one.alerts = offset, one.users, 0
        usual = (one.usual + 0.5) / self.exposure
        reason = f"{one.users} of {self.users} users {WHAT[name]}, and {usual:.2%} are usual; for example "
        return [self._event(name, "opened", reason, one.users) | {"of_users": self.users}]

    def _event(self, name: str, phase: str, reason: str, users: int) -> dict[str, Any]:
        return {
            "phase": phase,
            "sign": name,
            "opened": self.signs[name].opened,
            "timestamp": self.clock_ms,
            "reason": reason,
            "users": users,
            "usual_share": round((self.signs[name].usual + 0.5) / self.exposure, 6),
        }

    def kept(self) -> bytes:
        """What the changelog has of the partition, behind the number of its layout."""
        signs = list(self.signs.values())
        whole = [self.clock_ms, self.start_ms, self.windows, self.users]
        for name in ("users", "total", "alerts", "opened", "over_ms"):
            whole += [getattr(one, name) for one in signs]
        parts = [self.exposure, self.weight, *(one.usual for one in signs), *(one.spread for one in signs)]
        layout = f"<qqqqq{5 * len(signs)}q{len(parts)}d"
        number = zlib.crc32(repr((tuple(SIGNS), layout)).encode())
        return struct.pack(layout, number, *whole, *parts) + self.demand.kept()
