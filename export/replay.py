"""A click log -> messages on the clicks topic, keyed by user, in time order, at the log's own pace or faster.

A click that a worker would reject is left out and counted, so that faults of the log do not fill the dead letters. With
a mapping, the messages have the shape of the mapping's topic.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from export.log.log import Log, log_clicks
from stream.access.publish import Publisher
from stream.errors import BadClick, ConfigError
from stream.events import Click
from stream.kafka_config import PLAINTEXT, KafkaConfig
from stream.mapping.written import written
from stream.wire.fields import time_ms
from stream.wire.json import JsonCodec, encode

REPORT_EVERY = 500
"""Clicks between two calls of `seen`."""


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
    message = encode if log.mapping is None else partial(written, log.mapping.mapping)
    first_ms: int | None = None
    begun = time.monotonic()
    left_out: Counter[str] = Counter()
    sent = done = reported = 0
    for click, _ in log_clicks(log):
        done += 1
        key, value = click.user_id.encode(), message(click)
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
