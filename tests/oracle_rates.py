"""The expected correction of p-values on a partition, click after click, in plain Python that shares no code with the
worker.

Read it beside docs/anomalies.md: windows of ten minutes, the sessions that pass .05, .01 and .002 in each, the shares
of the last hours, and the alert on a drift.
"""

import math
import struct
import zlib
from itertools import pairwise
from typing import Any

from tests.oracle_chance import negative_binomial

LEVELS = (0.05, 0.01, 0.002)
KEPT = 0.5 ** (1 / 18)


class Rates:
    """Follows the sessions of one partition. held_out: sessions of the calibration."""

    def __init__(self, held_out: int) -> None:
        self.held_out = held_out
        self.clock_ms, self.start_ms, self.begun, self.opened = 0, -1, 0, -1
        self.passed, self.beyond, self.sessions = [0, 0, 0], [0.0, 0.0, 0.0], 0.0
        self.events: list[dict[str, Any]] = []

    def click(self, passed: int, starts: bool, nats: float, time_ms: int, offset: int) -> tuple[float, int]:
        """The corrected -log of a click's p-value, and the levels that its session has passed now.

        passed  those that it had passed before, 4 = it is excluded
        """
        self.events = []
        self.clock_ms = max(self.clock_ms, time_ms)
        if self.start_ms < 0:
            self.start_ms = self.clock_ms
        if self.clock_ms - self.start_ms >= 600_000 and self.begun >= 50:
            self._next(offset)
        corrected = self.corrected(nats)
        if starts:
            self.begun += 1
            passed = 0
        while passed < 4 and nats >= float(-math.log((*LEVELS, 1e-5)[passed])):
            if passed < 3:
                self.passed[passed] += 1
            else:
                self.passed = [count - 1 for count in self.passed]
            passed += 1
        return corrected, passed

    def _next(self, offset: int) -> None:
        for i in range(3):
            usual = (300 * LEVELS[i] + self.beyond[i]) / (300 + self.sessions)
            counted = min(float(self.passed[i]), 4.0 * max(usual * self.begun, 1.0))
            self.beyond[i] = max(0.0, KEPT * self.beyond[i] + counted)
        self.sessions = KEPT * self.sessions + self.begun
        self.start_ms, self.begun, self.passed = self.clock_ms, 0, [0, 0, 0]
        beyond, nominal = self.beyond[1], 0.01
        if self.opened >= 0:
            if beyond < 1.2 * nominal * self.sessions:
                reason = "the sessions of the last hours are again about as unusual as those that the model was "
                self._event("closed", self.opened, reason + "calibrated on", alerts=0)
                self.opened = -1
        elif beyond > 0 and beyond >= 1.5 * nominal * self.sessions:
            held_out = 1 + self.held_out
            if negative_binomial(beyond, nominal * held_out, self.sessions / held_out) <= 1e-6:
                self.opened = offset
                reason = (
                    f"{round(beyond)} of {round(self.sessions)} sessions of the last hours had a p-value of at most "
                )
                reason += "0.01 by the calibration, and 1.00% are usual: train on a newer log if it lasts"
                self._event("opened", offset, reason, of_users=round(self.sessions))

    def _event(self, phase: str, opened: int, reason: str, **more: int) -> None:
        event = {"phase": phase, "sign": "drift", "opened": opened, "timestamp": self.clock_ms, "reason": reason}
        self.events.append(event | {"users": round(self.beyond[1]), "usual_share": 0.01} | more)

    def corrected(self, nats: float) -> float:
        ratio, points = 1.0, [(0.0, 0.0)]
        for level, beyond in zip(LEVELS, self.beyond, strict=True):
            ratio = max(1.0, (300 * level * ratio + beyond) / (300 + self.sessions) / level)
            points.append((-math.log(level), -math.log(level * ratio)))
        if all(before == after for before, after in points):
            return nats
        for (low, start), (high, end) in pairwise(points):
            if nats <= high:
                return start + (end - start) / (high - low) * (nats - low)
        return points[-1][1] + (nats - points[-1][0])

    def kept(self) -> bytes:
        """What the changelog has of the partition, behind the number of its layout."""
        number = zlib.crc32(repr((LEVELS, 1e-5, "<qqqqq3qd3d")).encode())
        whole = (self.clock_ms, self.start_ms, self.begun, self.opened, *self.passed)
        return struct.pack("<qqqqq3qd3d", number, *whole, self.sessions, *self.beyond)
