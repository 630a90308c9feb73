"""Sends clicks at a fixed rate, and reads the results in threads."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
import numpy as np
import numpy.typing as npt
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.throughput.check import Stamp
from bench.throughput.clicks import Message

MOST = 5_000
"""Results that a reader takes at once."""


class Reader:
    """Reads a topic of results in a thread of its own. Use it in a `with` statement.

    isolation  read_committed or read_uncommitted
    take       is called in the thread: monotonic time, and the results that came then
    count      results so far
    """

    def __init__(
        self, broker: str, topic: str, partitions: int, isolation: str, take: Callable[[float, list[bytes]], None]
    ) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": broker,
                "group.id": "latency-reader",  # it does not join the group
                "enable.auto.commit": False,
                "isolation.level": isolation,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(topic, partition, 0) for partition in range(partitions)])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._take = take
        self.count = 0

    def _read(self) -> None:
        while not self._over.is_set():
            first = self._consumer.poll(0.1)  # returns with the first message; `consume` would wait for more
            if first is None:
                continue
            messages = [first, *self._consumer.consume(MOST, 0)]
            values = [message.value() for message in messages if message.error() is None]
            self._take(time.monotonic(), values)
            self.count += len(values)

    def __enter__(self) -> "Reader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._consumer.close()


def send_at(rate: float, producer: Producer, topic: str, clicks: Iterable[Message]) -> dict[int, float]:
    """Send `rate` clicks per second. Returns the timestamp of each click -> monotonic time when it was given away."""
    sent = dict(paced(rate, producer, topic, clicks))
    producer.flush(30)
    return sent


def paced(rate: float, producer: Producer, topic: str, clicks: Iterable[Message]) -> Iterator[tuple[int, float]]:
    """Send `rate` clicks per second. Yields timestamp and monotonic time of each just before it is given away."""
    began = time.monotonic()
    for number, click in enumerate(clicks):
        early_s = began + number / rate - time.monotonic()
        if early_s > 0:
            producer.poll(0)
            time.sleep(early_s)
        yield click.timestamp, time.monotonic()  # first, so that the time is known before there can be a result
        producer.produce(topic, click.value, click.key)


def latencies_ms(
    sent: Mapping[int, float], arrivals: Iterable[tuple[float, list[bytes]]]
) -> tuple[npt.NDArray[np.float64], int]:
    """(n,) ms from the sending of each of n clicks to its first result, and how many results were repeated.

    Raises ValueError if a click has no result.
    """
    decode = msgspec.json.Decoder(Stamp).decode
    first: dict[int, float] = {}
    repeated = 0
    for at, values in arrivals:
        for value in values:
            timestamp = decode(value).timestamp
            repeated += timestamp in first
            first.setdefault(timestamp, at)
    missing = sent.keys() - first.keys()
    if missing:
        raise ValueError(f"{len(missing)} of {len(sent)} clicks have no result")
    return np.array([1e3 * (first[timestamp] - at) for timestamp, at in sent.items()]), repeated
