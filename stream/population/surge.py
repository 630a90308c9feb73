"""Finds an item on which many more users click than usual: a sale, a campaign, a link that spreads.

The items of a partition share PLACES counts, by a hash of their ids, so it does not matter how many items a shop has.
Each place counts the users of a window (counts.py), and is compared with the windows before. A sale of one item is far
above what is usual for its place.

What is usual differs more from shop to shop than chance explains: a news site has a new article on top every few hours.
So the users must also be less probable than in any window of the last days.

Sources: one row of a count-min sketch (Cormode and Muthukrishnan 2005); the probability as in counts.py.
"""

import math
import zlib
from dataclasses import dataclass, field
from struct import Struct, error

from stream.population.counts import CLOSED, KEPT, MOST, OVER_USERS, QUIET_MS, WARM_UP, Counts, upper_tail

PLACES = 128
NO_PLACE = PLACES
"""Of an item that the model does not know: many users on such items have a sign of their own."""

OVER_NATS = -math.log(1e-6 / PLACES)
"""As in counts.py, for all places together."""

OVER_RATIO = 2.0
"""And if the users are so many times what is usual for the place."""

TIMES = 2.0
"""And if their -log probability is so many times the largest one of the windows before."""

WORST_KEPT = 0.998
"""Each window keeps this share of that largest one: a good half of it for a day, with windows of five minutes."""

DIGITS = 4
"""Decimal places of -log probabilities: the last bits of a float64 say nothing."""

_LAYOUT = Struct(f"<qqqqqdd?{PLACES}I{PLACES}d")
_VERSION = zlib.crc32(_LAYOUT.format.encode())
SIZE = _LAYOUT.size


@dataclass
class Surge:
    """What is kept of a partition.

    opened   offset of the click that opened the episode, CLOSED = there is none
    over_ms  when the users of a place became too many in the last window in which they did
    place    the place of the episode
    total    its users since the episode began: a user counts once a window
    nats     -log of the smallest probability in the window so far
    worst    the largest one of the windows before, which fades
    fresh    there was no episode when the window began
    hits     for each place, users with a click on one of its items in the window
    usual    for each place, its users in all windows, weighted as in Counts
    """

    opened: int = CLOSED
    over_ms: int = 0
    place: int = 0
    total: int = 0
    nats: float = 0.0
    worst: float = 0.0
    fresh: bool = True
    hits: list[int] = field(default_factory=lambda: [0] * PLACES)
    usual: list[float] = field(default_factory=lambda: [0.0] * PLACES)

    def encode(self) -> bytes:
        """All of it as SIZE bytes, as the changelog has it."""
        whole = _VERSION, self.opened, self.over_ms, self.place, self.total
        return _LAYOUT.pack(*whole, self.nats, self.worst, self.fresh, *self.hits, *self.usual)

    @classmethod
    def decode(cls, data: bytes) -> "Surge":
        """The opposite of `encode`; new counts from no bytes. Raises struct.error if another Eddy version wrote it."""
        if not data:
            return cls()
        version, opened, over_ms, place, total, nats, worst, fresh, *places = _LAYOUT.unpack(data)
        if version != _VERSION:
            raise error("other counts of items")
        return cls(opened, over_ms, place, total, nats, worst, fresh, places[:PLACES], places[PLACES:])

    def share(self, place: int, counts: Counts) -> float:
        """The usual share of users with a click on an item of a place."""
        return (self.usual[place] + 0.5) / counts.exposure

    def limit(self) -> float:
        """-log of the probability from which on the users of a place are too many."""
        return max(OVER_NATS, TIMES * self.worst)

    def count(self, place: int, counts: Counts) -> float:
        """Count a user for a place. Returns -log of the probability of as many if they are too many, else 0."""
        self.hits[place] += 1
        self.total += self.opened != CLOSED and place == self.place
        if counts.windows < WARM_UP or self.hits[place] < OVER_USERS:
            return 0.0
        users = max(float(counts.users), counts.exposure / counts.weight)
        if self.hits[place] < OVER_RATIO * self.share(place, counts) * users:
            return 0.0
        nats = round(upper_tail(self.hits[place], self.usual[place] + 0.5, users / counts.exposure), DIGITS)
        self.nats = max(self.nats, nats)
        if nats < self.limit():
            return 0.0
        self.over_ms = counts.clock_ms
        return nats

    def next_window(self, counts: Counts) -> None:
        """End the window, before `counts` ends it."""
        for place, hits in enumerate(self.hits):
            counted = float(hits)
            if counts.windows >= WARM_UP:
                counted = min(counted, MOST * max(self.share(place, counts) * counts.users, 1.0))
            self.usual[place] = KEPT * self.usual[place] + counted
        # Of an episode only the window counts in which it began, and as what the limit was. So however large a sale
        # was, the next one is found from twice this limit on.
        largest = min(self.nats, self.limit()) if self.fresh else 0.0
        self.worst = round(max(WORST_KEPT * self.worst, largest), DIGITS)
        self.fresh = self.opened == CLOSED
        self.nats, self.hits = 0.0, [0] * PLACES

    def due_ms(self) -> int | None:
        """When the episode ends if no place has too many users again; None if there is none."""
        return None if self.opened == CLOSED else self.over_ms + QUIET_MS
