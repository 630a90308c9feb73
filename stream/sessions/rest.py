"""Notices partitions at rest: without a click for as long as a session lasts after its last one.

The time is that of a clock which stands still while Kafka does not answer. So an outage is no rest.
"""

from collections.abc import Iterable, Mapping

from stream.events import Partition
from stream.model.gaps import SESSION_GAP_MS

REST_S = SESSION_GAP_MS / 1000


class Rest:
    """When the partitions of a worker last had clicks, s of the clock.

    minutes  (attribute) partition at rest -> the minute to which its time moves on, if not all of its sessions that are
             due by then have ended
    """

    def __init__(self) -> None:
        self._active_s: dict[Partition, float] = {}
        self.minutes: dict[Partition, int] = {}

    def begin(self, partitions: Iterable[Partition], now_s: float) -> None:
        """Watch these partitions, and no others."""
        self._active_s = dict.fromkeys(partitions, now_s)
        self.minutes = {}

    def active(self, partitions: Iterable[Partition], now_s: float) -> None:
        """Note that these partitions have clicks."""
        noted = dict.fromkeys(partitions, now_s)
        self._active_s.update(noted)
        self.minutes = {partition: last for partition, last in self.minutes.items() if partition not in noted}

    def go_on(self, minutes: Mapping[Partition, int], now_s: float) -> None:
        """Note that these partitions stay at rest, as in the attribute."""
        self.active(minutes, now_s)
        self.minutes = {**self.minutes, **minutes}

    def take(self, now_s: float) -> list[Partition]:
        """The partitions at rest: once, until they are active again, but for those that go on."""
        active_s = self._active_s.items()
        resting = [one for one, since_s in active_s if now_s - since_s >= REST_S or one in self.minutes]
        for partition in resting:
            del self._active_s[partition]
        return resting
