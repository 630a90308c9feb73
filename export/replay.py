"""A click log -> messages on the clicks topic, keyed by user, in time order, at the log's own pace or faster.

A click that a worker would refuse is left out and counted, so that the log's faults do not fill the dead letters.

The partitioner is the Java client's (murmur2), so a user's clicks lie in the same partition whoever produces them. The
producer is idempotent: a retry neither repeats nor reorders. Source: any Kafka client can do the same.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from export.log.log import Log, log_clicks
from stream.errors import BadClick, ConfigError
from stream.events import Click
from stream.wire.fields import time_ms
from stream.wire.json import JsonCodec, encode

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
    log: Log,
    broker: str,
    topic: str,
    speed: float | None,
    codec: JsonCodec,
    seen: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Publish the log.

    speed    times the log's own pace; None = as fast as the broker takes it
    codec    the worker's, which says what it would refuse
    returns  topic, clicks (published), left_out (reason -> clicks that a worker would refuse), seconds, clicks_per_s
    Raises ConfigError if the broker cannot be reached, has no such topic or does not take a click, or if a worker would
    refuse every click of the log.
    """
    publisher = Publisher(broker, topic)
    first_ms: int | None = None
    begun = time.monotonic()
    left_out: Counter[str] = Counter()
    sent = done = reported = 0
    for click, _ in log_clicks(log):
        done += 1
        key, value = click.user_id.encode(), encode(click)
        reason = _refused(click, key, value, codec)
        if reason is not None:
            left_out[reason] += 1
            continue
        if first_ms is None:
            first_ms = click.timestamp  # not of a click left out: the others could wait for years
        if speed is not None:
            due = begun + (click.timestamp - first_ms) / 1000 / speed
            while (wait := due - time.monotonic()) > 0:
                seen(done - reported)
                reported = done
                time.sleep(min(wait, 0.2))
        publisher.send(key, value)
        sent += 1
        if sent % REPORT_EVERY == 0:
            seen(done - reported)
            reported = done
    publisher.close()
    seen(done - reported)
    if not sent:
        raise ConfigError(f"a worker would refuse every click of the log: {counted(left_out)}; see docs/events.md")
    seconds = time.monotonic() - begun
    return {
        "topic": topic,
        "clicks": sent,
        "left_out": dict(left_out),
        "seconds": round(seconds, 3),
        "clicks_per_s": round(sent / max(seconds, 1e-9)),
    }


def counted(left_out: Mapping[str, int]) -> str:
    """ "2 future_timestamp, 1 too_early": the commonest reason first."""
    return ", ".join(f"{count:,} {reason}" for reason, count in Counter(left_out).most_common())


def _refused(click: Click, key: bytes, value: bytes, codec: JsonCodec) -> str | None:
    """Why a worker would not take the message, as its dead letter says; None if it would."""
    read = time_ms(click.timestamp)
    if (
        read is None or read[0] != click.timestamp
    ):  # such ms are read as seconds or as a date's digits, without an error
        return "too_early"
    try:
        codec.decode(key, value, time.time_ns() // 1_000_000)
    except BadClick as exc:
        return exc.reason
    return None
