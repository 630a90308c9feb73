"""The sessions of a partition's users, from a plain loop that shares no code with the worker."""

from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]

GAP_MS, MINUTE_MS = 1_800_000, 60_000


@dataclass
class Session:
    """A user's session, in the user's row."""

    offset: int = 0
    start_ms: int = 0
    last_ms: int = 0
    seen_ms: int = 0
    revision: int = 0
    types: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def due(self) -> int:
        """The minute of the partition's time with which it ends."""
        return -(-(self.seen_ms + GAP_MS) // MINUTE_MS)


class Sessions:
    """The sessions of one partition, and the events about them."""

    def __init__(self, prefix: str, types: list[str], label: str) -> None:
        """prefix: "topic-partition-" """
        self._prefix, self._types, self._label = prefix, types, label
        self.of: dict[str, Session] = {}
        self.events: list[Event] = []

    @property
    def is_open(self) -> bool:
        return not all(one.ended for one in self.of.values())

    def time(self, now_ms: int) -> None:
        """End the sessions that are due by a time of the partition."""
        due = [(one.due, one.offset, user) for user, one in self.of.items() if not one.ended]
        for _, _, user in sorted(one for one in due if one[0] <= now_ms // MINUTE_MS):
            self._end(user)

    def click(self, user: str, starts: bool, event_type: int, time_ms: int, now_ms: int, offset: int) -> None:
        """Add a decided click. Call `time` before it."""
        if starts:
            if user in self.of and not self.of[user].ended:
                self._end(user)
            self.of[user] = Session(offset, time_ms, time_ms, types=[0] * (len(self._types) + 1))
        one = self.of[user]
        if one.ended:
            one.ended, one.revision = False, one.revision + 1
        one.types[event_type] += 1
        one.last_ms, one.seen_ms = max(one.last_ms, time_ms), now_ms
        if starts:
            self._tell(user, "opened", time_ms)

    def _end(self, user: str) -> None:
        self.of[user].ended = True
        self._tell(user, "closed", self.of[user].last_ms)

    def _tell(self, user: str, phase: str, time_ms: int) -> None:
        one = self.of[user]
        event = {
            "id": f"{self._prefix}{one.offset}",
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
