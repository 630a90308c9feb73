"""Measures pauses as a reader of the decisions sees them, who knows nothing of workers and faults."""

import itertools
import threading
import time
from collections.abc import Sequence
from typing import Self

from confluent_kafka import Consumer, TopicPartition

from bench.chaos.faults import Done


class Watch:
    """Reads a topic of decisions (read_committed) in a thread, and notes when those of each clicks partition arrive.

    arrivals  for each partition of the clicks, monotonic times in seconds, ascending
    """

    def __init__(self, broker: str, topic: str, partitions: int) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self.arrivals: list[list[float]] = [[] for _ in range(partitions)]
        self._consumer = Consumer(
            {
                "bootstrap.servers": broker,
                "group.id": "watch",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 20,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])

    def _read(self) -> None:
        while not self._over.is_set():
            messages = self._consumer.consume(1_000, 0.02)
            now = time.monotonic()
            keys = {message.value()[:80] for message in messages if message.error() is None}
            for partition in {int(key.split(b'"', 4)[3].rsplit(b"-", 2)[1]) for key in keys}:
                self.arrivals[partition].append(now)

    def flows_since(self, since: float) -> bool:
        """True if every partition has had a decision since then, monotonic seconds."""
        return all(times and times[-1] >= since for times in self.arrivals)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._consumer.close()


def longest_pauses(arrivals: Sequence[Sequence[float]], faults: Sequence[Done]) -> list[float]:
    """The longest pause of any partition that each fault caused, seconds; 0 if it caused none.

    A pause between two arrivals belongs to the first fault that began within it. If none did, it belongs to the last
    fault before it, whose consequences it is then counted among.

    arrivals  for each partition, times in seconds, ascending
    faults    in the order of their beginnings
    """
    longest = [0.0] * len(faults)
    for times in arrivals:
        cause = -1
        for before, after in itertools.pairwise(times):
            while cause + 1 < len(faults) and faults[cause + 1].began <= before:
                cause += 1
            first = cause + 1 if cause + 1 < len(faults) and faults[cause + 1].began < after else cause
            if first >= 0:
                longest[first] = max(longest[first], after - before)
    return longest
