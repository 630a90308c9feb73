"""The sessions of a partition's users, from a plain loop that shares no code with the worker."""

import math
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import xxhash

Event = dict[str, Any]

GAP_MS, MINUTE_MS = 1_800_000, 60_000


@dataclass
class Clicked:
    """A click of a session. parts: what it is worth, in 10,000ths. opens: an alert on it opened an episode"""

    event_type: int
    time_ms: int
    item: str
    parts: int
    category: str | None = None
    opens: bool = False


@dataclass
class Session:
    """A user's session, in the user's row."""

    offset: int = 0
    start_ms: int = 0
    last_ms: int = 0
    seen_ms: int = 0
    revision: int = 0
    types: list[int] = field(default_factory=list)
    made: list[Clicked] = field(default_factory=list)
    ended: bool = False
    vector: int = 0
    peak: float = 0.0
    item: int = 0
    nats: float = 0.0
    episode: int = 0
    alert: Event = field(default_factory=dict)
    told: Event = field(default_factory=dict)

    @property
    def due(self) -> int:
        """The minute of the partition's time with which it ends."""
        return -(-(self.seen_ms + GAP_MS) // MINUTE_MS)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """Event type and number of the clicks that follow on each other."""
        return [(kind, len(list(group))) for kind, group in groupby(one.event_type for one in self.made)]

    @property
    def path(self) -> list[tuple[int, int]]:
        """The runs that are kept."""
        return self.runs if len(self.runs) <= 12 else [*self.runs[:11], self.runs[-1]]

    @property
    def reached_ms(self) -> list[int]:
        """Of each event type."""
        times = [[one.time_ms for one in self.made if one.event_type == kind] for kind in range(len(self.types))]
        return [max(0, min(of_type) - self.start_ms) if of_type else 0 for of_type in times]

    @property
    def bits(self) -> set[int]:
        return {xxhash.xxh3_64_intdigest(one.item.encode()) % 128 for one in self.made}

    @property
    def items(self) -> int:
        if len(self.made) <= 16:
            return len({one.item for one in self.made})
        return round(128 * math.log(128 / max(1, 128 - len(self.bits))))

    @property
    def category_hashes(self) -> list[int]:
        named = {one.category for one in self.made if one.category is not None}
        return sorted({1 + xxhash.xxh3_64_intdigest(name.encode()) % 4095 for name in named})

    @property
    def categories(self) -> int:
        """Of up to five, the number is that of the names: the tests have none with the same hash."""
        if len(self.category_hashes) <= 5:
            return len({one.category for one in self.made} - {None})
        bits = len({number % 63 for number in self.category_hashes})
        return max(6, round(63 * math.log(63 / max(1, 63 - bits))))

    @property
    def category_bits(self) -> int:
        """All hashes, if there are at most five; else one bit for each, and the highest one."""
        if len(self.category_hashes) <= 5:
            return sum(number << 12 * at for at, number in enumerate(self.category_hashes))
        return sum(1 << bit for bit in {63, *(number % 63 for number in self.category_hashes)})

    @property
    def parts(self) -> int:
        return min(2**53, sum(one.parts for one in self.made))

    @property
    def kept(self) -> dict[str, Any]:
        """The fields of the row with the summary."""
        kinds, counts = zip(*self.path, strict=True) if self.path else ((), ())
        fill = [0] * (12 - len(kinds))
        return {
            "session_path_types": [*kinds, *fill],
            "session_path_clicks": [*counts, *fill],
            "session_runs": len(self.runs),
            "session_reached_ms": self.reached_ms,
            "session_items": len({one.item for one in self.made[:16]}),
            "session_item_bits": [sum(1 << bit - low for bit in self.bits if 0 <= bit - low < 64) for low in (0, 64)],
            "session_categories": self.category_bits,
            "session_value": float(self.parts),
            "session_alerts": sum(one.opens for one in self.made),
        }


def mix(item: int) -> int:
    """splitmix64 of an item."""
    z = (item + 1) * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


class Sessions:
    """The sessions of one partition, the events about them, and the alerts on their ends."""

    def __init__(
        self, prefix: str, types: list[str], label: str, scored: bool = False, bought: str = "purchase"
    ) -> None:
        """prefix: "topic-partition-". bought: the event type of a purchase"""
        self._bought = bought
        self._prefix, self._types, self._label, self._scored = prefix, types, label, scored
        self.of: dict[str, Session] = {}
        self.events: list[Event] = []
        self.alerts: list[Event] = []

    @property
    def is_open(self) -> bool:
        return not all(one.ended for one in self.of.values())

    def time(self, now_ms: int) -> None:
        """End the sessions that are due by a time of the partition."""
        due = [(one.due, one.offset, user) for user, one in self.of.items() if not one.ended]
        for _, _, user in sorted(one for one in due if one[0] <= now_ms // MINUTE_MS):
            self._end(user)

    def click(self, user: str, starts: bool, event_type: int, click: Event, now_ms: int, offset: int) -> None:
        """Add a decided click. Call `time` before it. event_type: number of its type"""
        time_ms = click["timestamp"]
        if starts:
            if user in self.of and not self.of[user].ended:
                self._end(user)
            self.of[user] = Session(offset, time_ms, time_ms, types=[0] * (len(self._types) + 1))
        one = self.of[user]
        if one.ended:
            one.ended, one.revision = False, one.revision + 1
        one.types[event_type] += 1
        paid = click.get("price", 0) if click["event_type"] == self._bought else 0
        parts = round(min(paid * click.get("quantity", 1), 2**53) * 10_000)
        one.made.append(Clicked(event_type, time_ms, click["item_id"], parts, click.get("category")))
        one.last_ms, one.seen_ms = max(one.last_ms, time_ms), now_ms
        if starts:
            self._tell(user, "opened", time_ms)

    def item(self, user: str, item: int, surprise: float) -> None:
        """Add the item of the click that was added last."""
        one = self.of[user]
        one.vector, one.peak, one.item = (one.vector + mix(item)) % 2**64, max(one.peak, surprise), item

    def _id(self, offset: int) -> str:
        """Of an offset in a row; above 48 bits it has the partition of a row that was carried, plus one."""
        if offset < 2**48:
            return f"{self._prefix}{offset}"
        return f"{self._prefix.rsplit('-', 2)[0]}-{offset // 2**48 - 1}-{offset % 2**48}"

    def _end(self, user: str) -> None:
        self.of[user].ended = True
        one = self.of[user]
        self._tell(user, "closed", one.last_ms)
        self.events[-1] |= one.told | self._summary(one)
        if not self._scored:
            return
        p_value = float(np.exp(-one.nats))
        self.events[-1]["p_value"] = p_value
        if one.episode:
            id_ = f"{self._id(one.offset)}-end" + (f"-{one.revision}" if one.revision else "")
            episode = id_ if one.episode < 0 else self._id(one.episode - 1)
            more = {"timestamp": one.last_ms, "p_value": p_value, "episode": episode, "model": self._label}
            self.alerts.append({"id": id_, "user_id": user, "event_type": "session end"} | one.alert | more)

    def _summary(self, one: Session) -> Event:
        names = [*self._types, ""]
        found: Event = {
            "path": [{"event_type": names[kind], "clicks": count} for kind, count in one.path],
            "reached_ms": {name: at for name, n, at in zip(self._types, one.types, one.reached_ms, strict=False) if n},
            "items": one.items,
        }
        more = {"path_cut": len(one.runs) - len(one.path), "categories": one.categories, "value": one.parts / 10_000}
        more["alerts"] = sum(click.opens for click in one.made)
        return found | {name: n for name, n in more.items() if n}

    def _tell(self, user: str, phase: str, time_ms: int) -> None:
        one = self.of[user]
        event = {
            "id": self._id(one.offset),
            "user_id": user,
            "phase": phase,
            "timestamp": time_ms,
            "started": one.start_ms,
            "clicks": sum(one.types),
            "events": {name: n for name, n in zip(self._types, one.types, strict=False) if n},
            "model": self._label,
        }
        if one.revision:
            event["revision"] = one.revision
        if one.types[-1]:
            event["unknown_events"] = one.types[-1]
        self.events.append(event)
