"""Corrects p-values by what the live stream shows: the share of a partition's sessions beyond fixed p-values.

    session  -> the smallest p-value so far passes a level -> counted in the partition's window
    window   -> the shares of the windows before, whose weight halves in about three hours
    a share above its nominal level -> p-values near it and below it become larger by as much

Items that are new since the training make everybody's clicks more surprising, and then more sessions have an alert than
the nominal share. A share below nominal changes nothing, so a quiet hour cannot make usual clicks unusual.

What the correction excludes has a bias: sessions beyond EXCLUDED count as if they had no unusual click.

The rule that must not break: the result depends only on the decided clicks of the partition and their order, never on
the batch.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from struct import Struct, error
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from stream.detect.detector import Evidence, Fields
from stream.detect.tail import F64
from stream.detect.windows import Bools
from stream.manifest import Tensor
from stream.model.gaps import starts_session
from stream.population.counts import upper_tail
from stream.state.row import Index, Rows

LEVELS = (0.05, 0.01, 0.002)
"""The p-values whose shares are counted. Below the last one a partition has too few sessions to count."""

EXCLUDED = 1e-5
"""A session with a smaller p-value is almost surely a bot, a thief or a fault. It is taken out of the counts again."""

STEPS = np.array([-math.log(p_value) for p_value in (*LEVELS, EXCLUDED)])
"""What a session can pass, nats."""

WINDOW_MS, FEWEST = 600_000, 50
"""A window ends with the first click after so long, once so many sessions have begun in it."""

KEPT = 0.5 ** (WINDOW_MS / 10_800_000)
"""Each window has this share of the weight of the next one: half of it after three hours."""

PRIOR = 300
"""The nominal shares weigh as much as so many sessions."""

MOST = 4.0
"""A window adds at most so many times what was usual: a crowd of bots does not become the norm at once."""

DRIFT_LEVEL = 1
DRIFT_OVER, DRIFT_NATS, DRIFT_ENDS = 1.5, -math.log(1e-6), 1.2
"""The share at LEVELS[DRIFT_LEVEL] is a drift if it is so many times nominal, and if so many sessions have at most this
probability, -log. The drift ends when the share is below DRIFT_ENDS times nominal."""

NONE = -1
PASSED = Tensor("levels_passed", (), "int32")
"""The field of a row: how many of STEPS the user's session has passed."""

_LAYOUT = Struct(f"<qqqqq{len(LEVELS)}qd{len(LEVELS)}d")
_VERSION = zlib.crc32(repr((LEVELS, EXCLUDED, _LAYOUT.format)).encode())
SIZE = _LAYOUT.size
"""Bytes that are kept of a partition."""


class Drift(NamedTuple):
    """The begin or the end of a drift.

    click     position of the click with which the window ended
    opened    offset of the click with which the drift began; the click's own offset begins one
    closes    True if the drift has ended
    time_ms   time of the partition, ms since the epoch
    sessions  weighted sessions of the windows before, and
    beyond    how many of them passed LEVELS[DRIFT_LEVEL]
    p_value   probability of as many by chance; 1 if it closes
    """

    click: int
    opened: int
    closes: bool
    time_ms: int
    sessions: float
    beyond: float
    p_value: float


class Crossing(NamedTuple):
    """A click with which a session passes steps: its position, and the number of steps passed before and after it."""

    click: int
    before: int
    after: int


@dataclass
class Rates:
    """What is kept of a partition.

    clock_ms  the largest time of a click
    start_ms  begin of the window
    begun     sessions that have begun in it
    passed    for each level, sessions that have passed it in the window
    sessions  those of all windows, weighted
    beyond    for each level, the sessions of all windows that have passed it, weighted
    opened    offset of the click with which a drift began, NONE = there is none
    """

    clock_ms: int = 0
    start_ms: int = NONE
    begun: int = 0
    opened: int = NONE
    passed: list[int] = field(default_factory=lambda: [0] * len(LEVELS))
    sessions: float = 0.0
    beyond: list[float] = field(default_factory=lambda: [0.0] * len(LEVELS))

    def encode(self) -> bytes:
        """Convert to SIZE bytes."""
        whole = (self.clock_ms, self.start_ms, self.begun, self.opened, *self.passed)
        return _LAYOUT.pack(_VERSION, *whole, self.sessions, *self.beyond)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The opposite of `encode`; new rates from no bytes. Raises struct.error if another Eddy version wrote it."""
        if not data:
            return cls()
        version, clock_ms, start_ms, begun, opened, *rest = _LAYOUT.unpack(data)
        if version != _VERSION:
            raise error("other levels")
        many = len(LEVELS)
        return cls(clock_ms, start_ms, begun, opened, rest[:many], rest[many], rest[many + 1 :])

    def count(self, one: Crossing) -> None:
        """Count a session that passes levels. It is taken out of all of them when it passes EXCLUDED."""
        for level in range(one.before, min(one.after, len(LEVELS))):
            self.passed[level] += 1
        if one.after > len(LEVELS):
            self.passed = [count - 1 for count in self.passed]

    def next_window(self) -> None:
        """End the window. The next one begins at the partition's time."""
        for level, nominal in enumerate(LEVELS):
            usual = (PRIOR * nominal + self.beyond[level]) / (PRIOR + self.sessions)
            counted = min(float(self.passed[level]), MOST * max(usual * self.begun, 1.0))
            self.beyond[level] = max(0.0, KEPT * self.beyond[level] + counted)
        self.sessions = KEPT * self.sessions + self.begun
        self.start_ms, self.begun, self.passed = self.clock_ms, 0, [0] * len(LEVELS)

    def shares(self) -> list[float]:
        """The share of sessions beyond each of LEVELS, at least nominal.

        PRIOR sessions are as far above nominal as at the level before, where more sessions are counted.
        """
        ratio, found = 1.0, []
        for nominal, beyond in zip(LEVELS, self.beyond, strict=True):
            share = (PRIOR * nominal * ratio + beyond) / (PRIOR + self.sessions)
            ratio = max(1.0, share / nominal)
            found.append(nominal * ratio)
        return found

    def corrected(self, nats: F64) -> F64:
        """-log of the corrected p-values (n,): interpolated between the levels, and parallel beyond the last one."""
        shares = self.shares()
        if shares == list(LEVELS):
            return nats
        steps, after = np.append(0.0, STEPS[:-1]), [0.0, *(-math.log(share) for share in shares)]
        found: F64 = np.interp(nats, steps, after)
        beyond = nats > steps[-1]
        found[beyond] += nats[beyond] - steps[-1]
        return found

    def drift(self, held_out: int) -> float | None:
        """The probability that chance gives as many sessions beyond LEVELS[DRIFT_LEVEL], if there are too many.

        held_out  number of held-out sessions that the nominal share comes from
        """
        nominal, beyond = LEVELS[DRIFT_LEVEL], self.beyond[DRIFT_LEVEL]
        if beyond < DRIFT_OVER * nominal * self.sessions or not beyond:
            return None
        nats = upper_tail(beyond, nominal * (1 + held_out), self.sessions / (1 + held_out))
        return math.exp(-nats) if nats >= DRIFT_NATS else None

    def drifts(self, held_out: int, click: int, offset: int) -> list[Drift]:
        """The begin or the end of a drift at the end of a window. click, offset: of the click that ended the window."""
        beyond = self.beyond[DRIFT_LEVEL]
        if self.opened == NONE:
            p_value = self.drift(held_out)
            if p_value is None:
                return []
            self.opened = offset
            return [Drift(click, offset, False, self.clock_ms, self.sessions, beyond, p_value)]
        if beyond >= DRIFT_ENDS * LEVELS[DRIFT_LEVEL] * self.sessions:
            return []
        ended = Drift(click, self.opened, True, self.clock_ms, self.sessions, beyond, 1.0)
        self.opened = NONE
        return [ended]


def correct(
    seen: Evidence,
    nats: F64,
    partition: Index,
    kept: Sequence[Rates],
    held_out: int,
    before: Fields,
    rows: Rows,
    ends: F64 | None = None,
) -> tuple[F64, list[Drift]]:
    """Correct the p-values of n clicks of m users, and write the field PASSED of the rows.

    nats       (n,) -log of the p-values by the calibration
    partition  (n,) intp, index into `kept` of each click's partition; its clicks are in order
    kept       the rates of the partitions, changed in place
    held_out   number of held-out sessions of the calibration
    before, rows  as in `Detector.judge`
    ends       (n,) -log of the p-value of the end of the user's session after each click; None if ends are not scored.
               Corrected in place like the click's. The shares are those of clicks, so an end is not counted
    returns    (n,) -log of the corrected p-values, new memory; and the begins and ends of drifts
    """
    starts = (seen.clicks_before == 0) | starts_session(seen.gap_ms)
    crossings = _crossings(seen, nats, starts, before[PASSED.name], rows)
    found, drifts = nats.copy(), []
    for number, rates in enumerate(kept):
        mine = np.flatnonzero(partition == number) if len(kept) > 1 else np.arange(len(nats))
        if len(mine):
            theirs = [one for one in crossings if partition[one.click] == number]
            drifts += _follow(rates, mine, seen, starts, theirs, held_out, found, ends)
    return found, drifts


def _crossings(seen: Evidence, nats: F64, starts: Bools, before: npt.NDArray[np.int32], rows: Rows) -> list[Crossing]:
    """The clicks with which sessions pass steps, in order. Writes the field PASSED of the rows.

    starts  (n,) the click begins a session
    before  (m,) the field before the clicks
    """
    unusual = nats >= STEPS[0]
    theirs = before != 0
    theirs[seen.owner[unusual]] = True
    passed, crossings = before.tolist(), []
    for click in np.flatnonzero(unusual | (starts & theirs[seen.owner])).tolist():
        user, steps = int(seen.owner[click]), int(STEPS.searchsorted(nats[click], "right"))
        if starts[click]:
            passed[user] = 0
        if steps > passed[user]:
            crossings.append(Crossing(click, passed[user], steps))
            passed[user] = steps
    rows[PASSED.name] = np.where(rows["clicks"] > 0, passed, 0)
    return crossings


def _follow(
    rates: Rates,
    clicks: Index,
    seen: Evidence,
    starts: Bools,
    crossings: list[Crossing],
    held_out: int,
    nats: F64,
    ends: F64 | None,
) -> list[Drift]:
    """Follow the clicks of one partition, and correct their nats and those of the ends in place.

    clicks     (c,) positions of the partition's clicks among the n, ascending
    starts     (n,) the click begins a session
    crossings  those of the partition's clicks
    """
    clock_ms = np.maximum.accumulate(np.maximum(seen.time_ms[clicks], rates.clock_ms))
    begun = np.append(0, starts[clicks].cumsum())  # sessions that begin before each click, and in all
    if rates.start_ms == NONE:
        rates.start_ms = int(clock_ms[0])
    drifts, waiting, first = [], iter(crossings), 0
    one = next(waiting, None)
    while first < len(clicks):
        enough = rates.begun + begun[first:-1] - begun[first] >= FEWEST
        ended = np.flatnonzero((clock_ms[first:] - rates.start_ms >= WINDOW_MS) & enough)
        last = first + int(ended[0]) if len(ended) else len(clicks)
        part = clicks[first:last]
        nats[part] = rates.corrected(nats[part])
        if ends is not None:
            ends[part] = rates.corrected(ends[part])
        rates.begun += int(begun[last] - begun[first])
        while one is not None and (last == len(clicks) or one.click < clicks[last]):
            rates.count(one)
            one = next(waiting, None)
        if last < len(clicks):
            rates.clock_ms = int(clock_ms[last])
            rates.next_window()
            drifts += rates.drifts(held_out, int(clicks[last]), int(seen.offset[clicks[last]]))
        first = last
    rates.clock_ms = int(clock_ms[-1])
    return drifts
