"""Notices clicks that wait behind a transaction of another application.

Kafka gives a reader of committed messages none behind a transaction that is open. An application that hangs in one so
holds back the clicks of all others, and without a line here a worker would only be silent.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import NoReturn

import faust

from stream.events import Partition
from stream.kafka.consumer.offsets import Held, held_back

CHECK_S = 2.0

HELD_S = 120.0
"""A transaction may take as long. Most are open for less: Kafka itself ends one after a minute by default."""

REPEAT_S = 300.0

log = logging.getLogger(__name__)


def report_held(app: faust.App, clock_s: Callable[[], float]) -> None:
    """Log a warning while clicks are held back, while the app runs.

    clock_s  seconds; it stands still while Kafka does not answer
    """

    @app.task
    async def log_held() -> NoReturn:
        back = HeldBack()
        while True:
            await asyncio.sleep(CHECK_S)
            line = back.line(clock_s(), held_back(app))
            if line is not None:
                log.warning("%s", line)


class HeldBack:
    """Since when the clicks of each partition wait at the same offset."""

    def __init__(self) -> None:
        self._since: dict[Partition, tuple[int, float]] = {}
        self._logged_s: float | None = None

    def line(self, now_s: float, held: Mapping[Partition, Held]) -> str | None:
        """The line to log now; None if no clicks wait for HELD_S, or REPEAT_S have not passed since the last line.

        now_s  a clock, seconds
        """
        before = self._since
        self._since = {p: (one.begin, now_s) for p, one in held.items()}
        self._since |= {p: since for p, since in before.items() if p in held and since[0] == held[p].begin}
        stuck = {p: now_s - since_s for p, (_, since_s) in self._since.items() if now_s - since_s >= HELD_S}
        if not stuck or (self._logged_s is not None and now_s - self._logged_s < REPEAT_S):
            return None
        self._logged_s = now_s
        longest = max(stuck, key=lambda partition: stuck[partition])
        topic, number = longest
        return (
            "clicks wait behind a transaction that another application has left open: "
            f"partitions={len(stuck)} waiting={sum(held[p].waiting for p in stuck)} longest={longest} "
            f"offset={held[longest].begin} waited_s={stuck[longest]:.0f}; let that application end it; "
            f"kafka-transactions.sh describe-producers --topic {topic} --partition {number} names it, and abort ends it"
        )
