"""Sends the simulated clicks to the clicks topic, in its own thread, at a constant rate of the wall clock.

The feed sends the first click alone and waits for its decision: then the worker is ready, and its start does not count
as latency. The feed pauses while too many clicks have no decision, because the embedded broker keeps only 5 MB per
partition.
"""

import random
import threading
import time
from collections.abc import Iterator

import msgspec
from confluent_kafka import KafkaException, Producer

from stream.demo.simulate import Simulated, break_message
from stream.demo.tally import Tally

MOST_UNDECIDED = 4_000
"""Two partitions of 5 MB hold about 10,000 recommendations, so a reader that is 4,000 clicks behind loses none."""
BROKEN_PER_CLICK = 0.004
TICK_S = 0.02
LINGER_MS = 20
"""The embedded broker searches the batches of a partition from the oldest one, and returns one batch per fetch. With
one click per batch it became slower with every batch, and after two minutes it was slower than 400 clicks/s."""


class Feed(threading.Thread):
    """A thread that sends clicks until `stop()`; `failed` is the error that ended it early, or "".

    stream  in time order. The feed ends when a timestamp is at the wall clock, because the worker refuses clicks that
            are in the future
    rate    clicks per second of the wall clock
    """

    def __init__(
        self, broker: str, topic: str, stream: Iterator[Simulated], rate: float, seed: int, tally: Tally
    ) -> None:
        super().__init__(name="feed", daemon=True)
        self._producer = Producer({"bootstrap.servers": broker, "linger.ms": LINGER_MS, "log_level": 0})
        self._topic, self._stream, self._rate, self._tally = topic, stream, rate, tally
        self._rng = random.Random(f"{seed}/broken")
        self._stopping = threading.Event()
        self.started_s: float | None = None
        self.ended_s: float | None = None
        self.failed: str = ""

    @property
    def seconds(self) -> float:
        """Seconds for which clicks have been sent, since the first decision."""
        if self.started_s is None:
            return 0.0
        return (self.ended_s or time.monotonic()) - self.started_s

    def stop(self) -> None:
        """Stop sending. The thread delivers the clicks that it has sent before it ends."""
        self._stopping.set()

    def run(self) -> None:
        try:
            self._send(next(self._stream))
            self._producer.flush()
            while self._tally.undecided and not self._stopping.is_set():
                self._stopping.wait(TICK_S)
            self._tally.latencies_ms.clear()
            self._pace()
            if self._producer.flush(30) != 0:
                self.failed = "the broker did not accept every click within 30 s"
        except KafkaException as exc:
            self.failed = f"clicks could not be sent: {exc.args[0].str()}"

    def _pace(self) -> None:
        self.started_s = due_s = time.monotonic()
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            due_s = max(due_s + TICK_S, time.monotonic() - 10 * TICK_S)
            for _ in range(self._due(TICK_S)):
                simulated = next(self._stream)
                if simulated.timestamp > time.time() * 1000:
                    self._stopping.set()
                    break
                self._send(simulated)
            self._producer.poll(0)
        self.ended_s = time.monotonic()

    def _due(self, interval_s: float) -> int:
        """Number of clicks to send in this tick: the rate, rounded at random; 0 while the worker is behind."""
        if self._tally.undecided >= MOST_UNDECIDED:
            return 0
        exact = self._rate * interval_s
        return int(exact) + (self._rng.random() < exact % 1)

    def _send(self, simulated: Simulated) -> None:
        click = simulated.click
        key, value = click.user_id.encode(), msgspec.json.encode(click)
        self._tally.sent(simulated, time.monotonic())
        self._producer.produce(self._topic, key=key, value=value)
        if self._rng.random() < BROKEN_PER_CLICK:
            self._tally.broken += 1
            self._producer.produce(self._topic, key=key, value=break_message(self._rng, click, value))
