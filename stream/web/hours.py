"""The last hours of --behaviour-topic that a worker has written, for a person: the sums over its partitions.

The partitions' times differ, so an hour grows until the last of them has written its message. It lacks what other
workers have written, and what this one wrote before it began.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from stream.behaviour import Behaviour

KEPT = 24
"""Hours that are kept, up to the newest one."""

HOUR_MS = 3_600_000
SUMMED = ("clicks", "users", "opened")


class LastHours:
    """Sums of the last KEPT hours. Any thread may call the methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[int, Counter[str]] = {}
        self._reached: dict[int, Counter[str]] = {}

    def add(self, hours: Sequence[Behaviour]) -> None:
        """Add the messages of a committed transaction."""
        with self._lock:
            for one in hours:
                sums = self._sums.setdefault(one.hour, Counter())
                sums.update({name: getattr(one, name) for name in SUMMED} | {"partitions": 1})
                self._reached.setdefault(one.hour, Counter()).update(one.reached)
            oldest = max(self._sums, default=0) - (KEPT - 1) * HOUR_MS
            for old in [hour for hour in self._sums if hour < oldest]:
                del self._sums[old], self._reached[old]

    def shown(self) -> dict[str, Any]:
        """The hours from the oldest one that is kept to the newest, one list for each figure.

        time        begin of each hour, ms since the epoch
        partitions  number of partitions that have written the newest hour; 0 = there is none yet
        reached     in the newest hour: event type -> sessions that had their first click of this type
        """
        with self._lock:
            newest = max(self._sums, default=0)
            time = [*range(min(self._sums), newest + 1, HOUR_MS)] if self._sums else []
            found: dict[str, Any] = {"time": time}
            found |= {name: [self._sums.get(hour, Counter())[name] for hour in time] for name in SUMMED}
            found["partitions"] = self._sums.get(newest, Counter())["partitions"]
            found["reached"] = dict(self._reached.get(newest, Counter()))
            return found
