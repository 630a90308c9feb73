"""Whether a worker lives and whether it is ready, and why not.

    live   it makes progress, or waits for something that comes: Kafka, the group, the states. If not, restart it
    ready  it decides clicks now, or would, if the group gave it partitions

Both are computed when somebody asks, from what the worker does at this moment.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

BEAT_S = 0.5
SILENT_S = 10.0
"""A worker is not live if its event loop has run nothing for so long."""

WHY_NOT_READY = {
    "starting": "the worker loads its model and checks the topics",
    "joining": "the group has not given partitions yet",
    "recovering": "the states of the partitions are read from the changelog",
    "rebalancing": "the group has taken the partitions back and gives new ones",
    "rejoining": "the group has refused this worker's offsets, so it waits for new partitions",
    "assigned": "",
    "spare": "",
    "stopping": "the worker was asked to end",
}
"""Phase of a worker -> why it is not ready; empty if it is. A spare has joined, and the group has given it nothing."""


class Doing(NamedTuple):
    """What a worker does now.

    phase       one of WHY_NOT_READY
    partitions  number of partitions whose clicks it decides
    cycle_s     for how long its cycle, or a call in the engine, runs while Kafka answers; 0 = none runs
    slow        the cycle takes too long to call the worker ready
    hangs       the engine takes too long to call the worker live
    """

    phase: str
    partitions: int = 0
    cycle_s: float = 0.0
    slow: bool = False
    hangs: bool = False


class Kafka(Protocol):
    """What is known of Kafka: `out` while it does not answer, and how often a connection was lost."""

    @property
    def out(self) -> bool: ...
    @property
    def breaks(self) -> int: ...


class Verdict(NamedTuple):
    """An answer: yes if `reason` is empty. `facts` are for the reader."""

    reason: str
    facts: Mapping[str, object]


class Health:
    """The health of one worker. The methods may be called in any thread.

    doing  what the worker does; the worker replaces it when it is far enough
    kafka  None until the worker asks Kafka for the first time
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.doing: Callable[[], Doing] = lambda: Doing("starting")
        self.kafka: Kafka | None = None
        self._clock_s = clock_s
        self._beat_s: float | None = None  # when the event loop ran last; None before it runs

    def beat(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that the worker's event loop runs, now and from now on. Call it once, in the loop."""
        self._beat_s = self._clock_s()
        loop.call_later(BEAT_S, self.beat, loop)

    def live(self) -> Verdict:
        """Whether the worker makes progress or waits for something that comes."""
        return self._verdict(self.doing(), ready=False)

    def ready(self) -> Verdict:
        """Whether the worker has joined, has the states of its partitions, and commits."""
        return self._verdict(self.doing(), ready=True)

    def _verdict(self, doing: Doing, ready: bool) -> Verdict:
        out = self.kafka is not None and self.kafka.out
        facts: dict[str, object] = {
            "phase": doing.phase,
            "partitions": doing.partitions,
            "kafka_answers": self.kafka is not None and not out,
            "cycle_s": round(doing.cycle_s, 1),
        }
        silent_s = 0.0 if self._beat_s is None else self._clock_s() - self._beat_s
        if silent_s > SILENT_S:
            return Verdict(f"the event loop has run nothing for {silent_s:.0f} s", facts)
        if doing.hangs:
            return Verdict(f"the engine hangs, for {doing.cycle_s:.0f} s", facts)
        if not ready:
            return Verdict("", facts)
        if out and doing.phase != "stopping":
            return Verdict("Kafka does not answer", facts)
        if doing.slow:
            return Verdict(f"the running cycle has taken {doing.cycle_s:.0f} s", facts)
        return Verdict(WHY_NOT_READY[doing.phase], facts)
