"""Counts the users of a partition who show a sign, in one window after another, and says how many are usual.

A window ends with the first click after WINDOW_MS, once FEWEST users have clicked in it: a small shop has longer ones.
The number of users with a sign is compared with the windows before, whose weight halves in about seven windows.

Sources: the gamma-Poisson (negative binomial) predictive distribution; for the division by the dispersion,
quasi-likelihood (Wedderburn 1974).
"""

import math
import zlib
from dataclasses import dataclass, field
from struct import Struct, error

from stream.population.signs import SIGNS

WINDOW_MS = 300_000
FEWEST = 50
"""A window has at least so many users."""

WARM_UP = 6
"""Windows before the first alert."""

KEPT = 0.9
"""Each window has this share of the weight of the next one."""

MOST = 2.0
"""A window counts as at most so many times what was usual. So an attack does not become usual at once, and a change
that stays in every window does, within some hours."""

LARGEST_SPREAD = 9.0

OVER_NATS = -math.log(1e-6)
"""The number of users is too high if a number as high has at most this probability, -log."""

OVER_USERS, OVER_RATIO = 6, 1.5
"""And if it is at least so many users, and so many times what was usual."""

QUIET_MS = 1_800_000
"""An episode ends with the first click so long after the last window that had too many users began to have them, and
after FEWEST users have clicked in a later window: else a fault in a small shop, whose windows are longer than this,
would end and begin again in each of them."""

CLOSED = -1
NEVER_MS = 2**62
_FLOATS = 2 + 2 * len(SIGNS)
_LAYOUT = Struct(f"<qqqqq{5 * len(SIGNS)}q{_FLOATS}d")
SIZE = _LAYOUT.size
_VERSION = zlib.crc32(repr((SIGNS, _LAYOUT.format)).encode())
"""The first number of the bytes: other signs or another layout have another one."""


def _whole() -> list[int]:
    return [0] * len(SIGNS)


@dataclass
class Counts:
    """What is kept of a partition.

    clock_ms  the largest time of a click
    start_ms  begin of the window
    windows   number of earlier windows
    users     users with a click in the window
    hits      for each sign, users who have shown it in the window
    total     for each sign, the same since its episode began: a user counts once a window
    alerts    for each sign, alerts on single users that are part of its episode
    opened    for each sign, offset of the click that opened its episode, CLOSED = there is none
    over_ms   for each sign, when its users became too many in the last window in which they did
    exposure  users of all windows, weighted
    weight    the sum of the weights
    usual     for each sign, its users in all windows, weighted
    spread    for each sign, the mean squared residual over its variance: 1 = the windows differ as by chance
    """

    clock_ms: int = 0
    start_ms: int = 0
    windows: int = 0
    users: int = 0
    hits: list[int] = field(default_factory=_whole)
    total: list[int] = field(default_factory=_whole)
    alerts: list[int] = field(default_factory=_whole)
    opened: list[int] = field(default_factory=lambda: [CLOSED] * len(SIGNS))
    over_ms: list[int] = field(default_factory=_whole)
    exposure: float = 0.0
    weight: float = 0.0
    usual: list[float] = field(default_factory=lambda: [0.0] * len(SIGNS))
    spread: list[float] = field(default_factory=lambda: [1.0] * len(SIGNS))

    def encode(self) -> bytes:
        """All of it as SIZE bytes, as the changelog has it."""
        lists = (*self.hits, *self.total, *self.alerts, *self.opened, *self.over_ms)
        whole = (_VERSION, self.clock_ms, self.start_ms, self.windows, self.users, *lists)
        return _LAYOUT.pack(*whole, self.exposure, self.weight, *self.usual, *self.spread)

    @classmethod
    def decode(cls, data: bytes) -> "Counts":
        """The opposite of `encode`; new counts from no bytes. Raises struct.error if another Eddy version wrote it."""
        if not data:
            return cls()
        values = iter(_LAYOUT.unpack(data))
        if next(values) != _VERSION:
            raise error("other signs")

        def several() -> list[int]:
            return [next(values) for _ in SIGNS]

        return cls(
            *(next(values), next(values), next(values), next(values)),
            *(several(), several(), several(), several(), several()),
            *(next(values), next(values)),
            *([next(values) for _ in SIGNS], [next(values) for _ in SIGNS]),
        )

    def due_ms(self) -> int:
        """The earliest time at which an episode can end; NEVER_MS = there is none."""
        open_ = (over for over, opened in zip(self.over_ms, self.opened, strict=True) if opened != CLOSED)
        return min(open_, default=NEVER_MS) + QUIET_MS

    def quiet(self, sign: int) -> bool:
        """Whether a sign's users have not been too many for long enough."""
        over_ms = self.over_ms[sign]
        return self.clock_ms - over_ms >= QUIET_MS and over_ms < self.start_ms and self.users >= FEWEST

    def ends(self) -> bool:
        """Whether the window ends before a click at the partition's time."""
        return self.users >= FEWEST and self.clock_ms - self.start_ms >= WINDOW_MS

    def next_window(self) -> None:
        """End the window."""
        for sign, hits in enumerate(self.hits):
            counted = float(hits)
            if self.windows >= WARM_UP:
                expected = self.share(sign) * self.users
                residual = min(LARGEST_SPREAD, (hits - expected) ** 2 / max(expected, 0.5))
                self.spread[sign] = KEPT * self.spread[sign] + (1 - KEPT) * residual
                counted = min(counted, MOST * max(expected, 1.0))
            self.usual[sign] = KEPT * self.usual[sign] + counted
        self.exposure = KEPT * self.exposure + self.users
        self.weight = KEPT * self.weight + 1
        self.windows, self.users, self.hits = self.windows + 1, 0, _whole()

    def share(self, sign: int) -> float:
        """The usual share of users with a sign."""
        return (self.usual[sign] + 0.5) / self.exposure

    def judge(self, sign: int) -> float:
        """-log of the probability that a window as this one has as many users with a sign as there are; 0 if they are
        not too many in any case.

        A window that has just begun is compared with a whole one.
        """
        hits = self.hits[sign]
        if self.windows < WARM_UP or hits < OVER_USERS:
            return 0.0
        users = max(float(self.users), self.exposure / self.weight)
        if hits < OVER_RATIO * self.share(sign) * users:
            return 0.0
        spread = max(1.0, self.spread[sign])
        return upper_tail(hits / spread, (self.usual[sign] + 0.5) / spread, users / self.exposure)


def upper_tail(count: float, shape: float, ratio: float) -> float:
    """-log of the probability that a negative binomial number is at least `count`, nats.

    Its mean is shape * ratio: a Poisson number whose rate has a gamma distribution, from `shape` events that were seen
    in 1 / ratio times the exposure. The probability is the regularised incomplete beta function I_x(count, shape) with
    x = ratio / (1 + ratio).
    """
    x = ratio / (1 + ratio)
    if x * (count + shape + 2) < count + 1:
        return -_log_beta(count, shape, x)
    return -math.log1p(-min(math.exp(_log_beta(shape, count, 1 / (1 + ratio))), 1 - 1e-16))  # no small probability


def _log_beta(a: float, b: float, x: float) -> float:
    """log I_x(a, b) for x below (a + 1) / (a + b + 2), where the continued fraction DLMF 8.17.22 converges fast.

    It is computed by the modified Lentz method (Thompson and Barnett 1986).
    """
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1 / _not_zero(1 + term * d), _not_zero(1 + term / c)
            value *= d * c
        if abs(d * c - 1) < 1e-14:
            break
    return front + math.log(value)


def _not_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300
