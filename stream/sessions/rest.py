"""Notices partitions at rest: without a click for as long as a session lasts after its last one.

The time is that of a clock which stands still while Kafka does not answer. So an outage is no rest.
"""

from collections.abc import Iterable

from stream.events import Partition
from stream.model.gaps import SESSION_GAP_MS

REST_S = SESSION_GAP_MS / 1000


class Rest:
    """When the partitions of a worker last had clicks, s of the clock."""

    def __init__(self) -> None:
        self._active_s: dict[Partition, float] = {}

    def begin(self, partitions: Iterable[Partition], now_s: float) -> None:
        """Watch these partitions, and no others."""
        self._active_s = dict.fromkeys(partitions, now_s)

    def active(self, partitions: Iterable[Partition], now_s: float) -> None:
        """Note that these partitions have clicks."""
        self._active_s.update(dict.fromkeys(partitions, now_s))

    def take(self, now_s: float) -> list[Partition]:
        """The partitions at rest. A partition is at rest once, until it is active again."""
        resting = [partition for partition, since_s in self._active_s.items() if now_s - since_s >= REST_S]
        for partition in resting:
            del self._active_s[partition]
        return resting
