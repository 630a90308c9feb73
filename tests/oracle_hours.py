"""What the users of a partition do by the hour, from a plain loop that shares no code with the worker."""

import struct
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]

GAP_MS, MINUTE_MS, HOUR_MS = 1_800_000, 60_000, 3_600_000


@dataclass
class User:
    """What the loop knows of a user."""

    clicks: int = 0
    last_ms: int = 0
    seen_ms: int = 0
    ids: list[str] = field(default_factory=list)
    path: list[str] = field(default_factory=list)
    ended: bool = True

    @property
    def due_ms(self) -> int:
        """When the session ends by the partition's time."""
        return -(-(self.seen_ms + GAP_MS) // MINUTE_MS) * MINUTE_MS


@dataclass
class Hour:
    """What happened in an hour."""

    users: int = 0
    types: list[str] = field(default_factory=list)
    reached: list[str] = field(default_factory=list)
    steps: list[tuple[str, str]] = field(default_factory=list)


class Hours:
    """Looks at clicks in the order of their partition."""

    def __init__(self, partition: str, known: list[str], label: str, forget_ms: int) -> None:
        """partition: as "clicks-0". known: the event types of the model"""
        self._partition, self._known, self._label, self._forget_ms = partition, known, label, forget_ms
        self.users: dict[str, User] = {}
        self._open: dict[str, User] = {}  # users whose session has not ended
        self.hours: defaultdict[int, Hour] = defaultdict(Hour)
        self.now_ms = 0

    def forget(self, name: str) -> None:
        self.users.pop(name, None)
        self._open.pop(name, None)

    def rest(self) -> None:
        if self._open:
            self.now_ms = (self.now_ms // MINUTE_MS + 31) * MINUTE_MS
            for one in list(self._open):
                self._end(one)
        elif self.now_ms // HOUR_MS in self.hours:
            self.now_ms = min(self.now_ms + GAP_MS, (self.now_ms // HOUR_MS + 1) * HOUR_MS)

    def click(self, name: str, time_ms: int, event_type: str, event_id: str | None = None) -> None:
        event_type = event_type if event_type in self._known else "(other)"
        self.now_ms = max(self.now_ms, time_ms)
        user = self.users.get(name, User())
        limit_ms = self._forget_ms if user.clicks > 1 else self._forget_ms // 3
        begins = not user.clicks or self.now_ms - user.last_ms > limit_ms
        repeated = not begins and event_id is not None and event_id in user.ids
        starts = begins or time_ms - user.last_ms >= GAP_MS
        for other, one in list(self._open.items()):
            if one.due_ms <= self.now_ms or (other == name and starts and not repeated):
                self._end(other)
        if repeated:
            user.last_ms = max(user.last_ms, time_ms)
            return
        if begins:
            user = self.users[name] = User()
        hour = self.hours[self.now_ms // HOUR_MS]
        if begins or user.seen_ms // HOUR_MS < self.now_ms // HOUR_MS:
            hour.users += 1
        if starts:
            hour.steps.append(("(start)", event_type))
            user.path = []
        else:
            hour.steps.append(("(end)" if user.ended else user.path[-1], event_type))
        hour.types.append(event_type)
        if event_type not in user.path and event_type != "(other)":
            hour.reached.append(event_type)
        user.path.append(event_type)
        user.ended, user.seen_ms, user.last_ms = False, self.now_ms, max(user.last_ms, time_ms)
        self._open[name] = user
        user.clicks += 1
        user.ids = [event_id, *user.ids][:16] if event_id is not None else user.ids

    def _end(self, name: str) -> None:
        user = self._open.pop(name)
        user.ended = True
        self.hours[min(user.due_ms, self.now_ms) // HOUR_MS].steps.append((user.path[-1], "(end)"))

    def kept(self) -> bytes:
        """The hour that is not over, as the mark of the partition ends with it; nothing if nothing happened in it."""
        number = self.now_ms // HOUR_MS
        if number not in self.hours:
            return b""
        hour, known = self.hours[number], self._known[:100]
        index = {name: at for at, name in enumerate([*known, "(other)", "(start)", "(end)"])}
        cells = Counter(index[before] * len(index) + index[after] for before, after in hour.steps)
        cells.update(len(index) ** 2 + index[name] for name in hour.reached)
        cells.update({len(index) ** 2 + len(known): hour.users} if hour.users else {})
        head = struct.pack("<Iq", zlib.crc32(repr(tuple(known)).encode()), number)
        return head + b"".join(struct.pack("<II", *pair) for pair in sorted(cells.items()))

    def messages(self) -> list[Event]:
        """Those of the hours that are over, in their order."""
        over = sorted(hour for hour in self.hours if hour < self.now_ms // HOUR_MS)
        return [self._message(hour * HOUR_MS, self.hours[hour]) for hour in over]

    def _message(self, start_ms: int, hour: Hour) -> Event:
        transitions: dict[str, dict[str, int]] = {}
        for (before, after), n in Counter(hour.steps).items():
            transitions.setdefault(before, {})[after] = n
        return {
            "id": f"{self._partition}/{start_ms}",
            "partition": int(self._partition.rpartition("-")[2]),
            "hour": start_ms,
            "clicks": len(hour.types),
            "users": hour.users,
            "opened": sum(before == "(start)" for before, _ in hour.steps),
            "closed": sum(after == "(end)" for _, after in hour.steps),
            "events": dict(Counter(hour.types)),
            "reached": dict(Counter(hour.reached)),
            "transitions": transitions,
            "model": self._label,
        }
