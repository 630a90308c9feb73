"""A click log -> messages on the clicks topic, keyed by user, in time order, at the log's own pace or faster.

A click that a worker would reject is left out and counted, so that faults of the log do not fill the dead letters.

The partitioner is that of the Java client (murmur2), so all clicks of a user are in the same partition as those that a
Java producer writes. The producer is idempotent: a retry neither repeats nor reorders messages.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from export.log.log import Log, log_clicks
from stream.access.credentials import connect
from stream.access.refusal import Admin, refused
from stream.errors import BadClick, ConfigError
from stream.events import Click
from stream.kafka_config import PLAINTEXT, KafkaConfig
from stream.wire.fields import time_ms
from stream.wire.json import JsonCodec, encode

CONNECT_S = 10.0
FLUSH_S = 60.0
REPORT_EVERY = 500
"""Clicks between two calls of `seen`."""


class Publisher:
    """Sends messages to one topic; `close` returns when the broker has acknowledged all of them."""

    def __init__(self, broker: str, topic: str, config: KafkaConfig = PLAINTEXT) -> None:
        """Raises ConfigError if the broker cannot be reached, refuses this client or has no such topic."""
        self._topic = topic
        self._broker = broker
        self._failure: KafkaError | None = None
        admin = Admin(broker, config)
        try:
            topics = admin.list_topics(timeout=CONNECT_S).topics
        except KafkaException as exc:
            raise admin.refusal() or ConfigError(
                f"broker {broker} cannot be reached ({exc.args[0].str()}); is it up? See --broker"
            ) from exc
        if topic not in topics:
            raise ConfigError(
                f"broker {broker} has no topic {topic!r} that this user may see; make it with `eddy topics create`, or "
                "see --topic"
            )
        self._producer = connect(
            Producer,
            broker,
            config,
            {
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "compression.type": "lz4",
                "error_cb": lambda error: None,  # errors that matter also fail a delivery
                "log_level": 0,
            },
        )

    def send(self, key: bytes, value: bytes) -> None:
        """Queue one message. Raises ConfigError if the broker rejected an earlier one."""
        while True:
            try:
                self._producer.produce(self._topic, key=key, value=value, on_delivery=self._delivered)
                break
            except BufferError:  # the queue is full: the log is read faster than the broker accepts messages
                self._producer.poll(0.1)
        self._producer.poll(0)
        self._check()

    def close(self) -> None:
        """Wait for all acknowledgements. Raises ConfigError if the broker did not accept a message."""
        left = self._producer.flush(FLUSH_S)
        self._check()
        if left:
            raise ConfigError(
                f"broker {self._broker} did not accept {left:,} clicks within {FLUSH_S:g} s; is it still up?"
            )

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and self._failure is None:
            self._failure = error

    def _check(self) -> None:
        if self._failure is None:
            return
        raise refused(KafkaException(self._failure)) or ConfigError(
            f"topic {self._topic} on {self._broker} did not accept a click ({self._failure.str()})"
        )


def replay(
    log: Log,
    broker: str,
    topic: str,
    speed: float | None,
    codec: JsonCodec,
    seen: Callable[[int], None] = lambda count: None,
    config: KafkaConfig = PLAINTEXT,
) -> dict[str, Any]:
    """Publish the log.

    speed    multiple of the log's own pace; None = as fast as the broker accepts messages
    codec    the worker's codec, which decides which clicks a worker would reject
    seen     called with the count of clicks since its last call
    config   TLS and SASL of the connection
    returns  topic, clicks (published), left_out (reason -> clicks that a worker would reject), seconds, clicks_per_s
    Raises ConfigError if the broker cannot be reached, has no such topic or does not accept a click, or if a worker
    would reject every click of the log.
    """
    publisher = Publisher(broker, topic, config)
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
            first_ms = click.timestamp  # the time of a rejected click may be years away; all later clicks would wait
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
        raise ConfigError(f"a worker would reject every click of the log: {counted(left_out)}; see docs/events.md")
    seconds = time.monotonic() - begun
    return {
        "topic": topic,
        "clicks": sent,
        "left_out": dict(left_out),
        "seconds": round(seconds, 3),
        "clicks_per_s": round(sent / max(seconds, 1e-9)),
    }


def counted(left_out: Mapping[str, int]) -> str:
    """Counts by reason as text, the most frequent first: "2 future_timestamp, 1 too_early"."""
    return ", ".join(f"{count:,} {reason}" for reason, count in Counter(left_out).most_common())


def _refused(click: Click, key: bytes, value: bytes, codec: JsonCodec) -> str | None:
    """The reason for which a worker would reject the message, as in its dead letters; None if it would accept it."""
    read = time_ms(click.timestamp)
    if read is None or read[0] != click.timestamp:  # a worker reads such ms as seconds or as a date, without an error
        return "too_early"
    try:
        codec.decode(key, value, time.time_ns() // 1_000_000)
    except BadClick as exc:
        return exc.reason
    return None
