"""The expected alerts on one item of a partition that many users click, in plain Python.

Read it beside docs/anomalies.md. Items share 128 counts, by the 64-bit XXH3 of their ids.
"""

import math
import struct
import zlib
from dataclasses import dataclass, field

import xxhash

from tests.oracle_chance import negative_binomial

OVER = -math.log(1e-6 / 128)


def place_of(item: str) -> int:
    return xxhash.xxh3_64_intdigest(item.encode()) % 128


@dataclass
class Place:
    """One of the counts. users: those of the window, usual: of the windows before, weighted."""

    users: int = 0
    usual: float = 0.0


@dataclass
class Demand:
    """The counts of one partition. opened: the offset that opened its episode, -1 = none."""

    opened: int = -1
    over_ms: int = 0
    at: int = 0
    total: int = 0
    now: float = 0.0
    worst: float = 0.0
    began_open: bool = False
    places: list[Place] = field(default_factory=lambda: [Place() for _ in range(128)])

    def share(self, place: int, exposure: float) -> float:
        return (self.places[place].usual + 0.5) / exposure

    def next(self, windows: int, users: int, exposure: float) -> None:
        """End a window in which `users` clicked; `windows` and `exposure` are of those before it."""
        for place, one in enumerate(self.places):
            counted = float(one.users)
            if windows >= 6:
                counted = min(counted, 2.0 * max(self.share(place, exposure) * users, 1.0))
            one.usual, one.users = 0.9 * one.usual + counted, 0
        largest = 0.0 if self.began_open else min(self.now, max(OVER, 2.0 * self.worst))
        self.worst, self.now, self.began_open = round(max(0.998 * self.worst, largest), 4), 0.0, self.opened >= 0

    def click(self, place: int, windows: int, users: float, exposure: float, clock_ms: int) -> float:
        """Count a user. users: of the window, or of a usual one if these are more. Returns -log of the probability if
        they are too many, else 0."""
        one = self.places[place]
        one.users += 1
        if self.opened >= 0 and place == self.at:
            self.total += 1
        if windows < 6 or one.users < 6 or one.users < 2.0 * self.share(place, exposure) * users:
            return 0.0
        nats = round(-math.log(negative_binomial(one.users, one.usual + 0.5, users / exposure)), 4)
        self.now = max(self.now, nats)
        if nats < max(OVER, 2.0 * self.worst):
            return 0.0
        self.over_ms = clock_ms
        return nats

    def kept(self) -> bytes:
        layout = "<qqqqqdd?128I128d"
        whole = [zlib.crc32(layout.encode()), self.opened, self.over_ms, self.at, self.total, self.now, self.worst]
        users, usual = ([getattr(one, name) for one in self.places] for name in ("users", "usual"))
        return struct.pack(layout, *whole, not self.began_open, *users, *usual)
