"""A click log -> messages on the clicks topic, keyed by user, in time order, at the log's own pace or faster.

The partitioner is the Java client's (murmur2), so a user's clicks lie in the same partition whoever produces them. The
producer is idempotent: a retry neither repeats nor reorders. Source: any Kafka client can do the same.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from export.log.log import Log, log_clicks
from stream.errors import ConfigError

CONNECT_S = 10.0
FLUSH_S = 60.0
REPORT_EVERY = 500
"""Clicks between two reports to `seen`, and between two looks at the clock."""


class Publisher:
    """Sends clicks to one topic; `close` returns once the broker has them all."""

    def __init__(self, broker: str, topic: str) -> None:
        """Raises ConfigError if the broker cannot be reached or has no such topic."""
        self._topic = topic
        self._broker = broker
        self._failure: KafkaError | None = None
        self._producer = Producer(
            {
                "bootstrap.servers": broker,
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "compression.type": "lz4",
                "error_cb": lambda error: None,  # what matters fails a delivery or the look at the topics
                "log_level": 0,
            }
        )
        try:
            topics = self._producer.list_topics(timeout=CONNECT_S).topics
        except KafkaException as exc:
            raise ConfigError(
                f"broker {broker} cannot be reached ({exc.args[0].str()}); is it up? See --broker"
            ) from exc
        if topic not in topics:
            raise ConfigError(
                f"broker {broker} has no topic {topic!r}; make it with `eddy topics create`, or see --topic"
            )

    def send(self, key: bytes, value: bytes) -> None:
        while True:
            try:
                self._producer.produce(self._topic, key=key, value=value, on_delivery=self._delivered)
                break
            except BufferError:  # the broker is slower than the log is read
                self._producer.poll(0.1)
        self._producer.poll(0)
        self._check()

    def close(self) -> None:
        """Raises ConfigError if a click was not taken."""
        left = self._producer.flush(FLUSH_S)
        self._check()
        if left:
            raise ConfigError(
                f"broker {self._broker} did not take {left:,} clicks within {FLUSH_S:g} s; is it still up?"
            )

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    def _check(self) -> None:
        if self._failure is not None:
            raise ConfigError(f"topic {self._topic} on {self._broker} did not take a click ({self._failure.str()})")


def replay(
    log: Log, broker: str, topic: str, speed: float | None, seen: Callable[[int], None] = lambda count: None
) -> dict[str, Any]:
    """Publish the log. speed: times the log's own pace, None = as fast as the broker takes it.

    returns  clicks, seconds, clicks_per_s, topic
    Raises ConfigError if the broker cannot be reached, has no such topic, or does not take a click.
    """
    publisher = Publisher(broker, topic)
    encode = msgspec.json.Encoder().encode
    first_ms = int(log.time_ms.min())
    begun = time.monotonic()
    sent = reported = 0
    for click, _ in log_clicks(log):
        if speed is not None:
            due = begun + (click.timestamp - first_ms) / 1000 / speed
            while (wait := due - time.monotonic()) > 0:
                seen(sent - reported)
                reported = sent
                time.sleep(min(wait, 0.2))
        publisher.send(click.user_id.encode(), encode(click))
        sent += 1
        if sent % REPORT_EVERY == 0:
            seen(sent - reported)
            reported = sent
    publisher.close()
    seen(sent - reported)
    seconds = time.monotonic() - begun
    return {
        "topic": topic,
        "clicks": sent,
        "seconds": round(seconds, 3),
        "clicks_per_s": round(sent / max(seconds, 1e-9)),
    }
