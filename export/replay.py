"""A click log -> messages on the clicks topic, keyed by user, in time order, at the log's own pace or faster.

A click that a worker would reject is left out and counted, so that faults of the log do not fill the dead letters. With
a mapping, the messages have the shape of the mapping's topic; Avro and Protobuf have its newest schema.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from export.log.log import Log, log_clicks
from stream.access.publish import Publisher
from stream.errors import BadClick, ConfigError
from stream.events import Click
from stream.kafka_config import PLAINTEXT, KafkaConfig
from stream.mapping.decoding import registry_of
from stream.mapping.mapping import MappingFile
from stream.mapping.reading import UNITS
from stream.mapping.shape import decoded_shape, message_shape
from stream.mapping.written import values, written
from stream.wire.fields import time_ms
from stream.wire.json import JsonCodec, encode

REPORT_EVERY = 500
"""Clicks between two calls of `seen`."""


class Form(NamedTuple):
    """How the clicks are on the topic.

    message  makes the message of a click. It raises BadClick if the topic's schema cannot hold it
    codec    the worker's codec, which decides which clicks a worker would reject
    """

    message: Callable[[Click], bytes]
    codec: JsonCodec


def form_of(
    file: MappingFile | None, topic: str, schema_registry: str, limits: tuple[int, int], config: KafkaConfig = PLAINTEXT
) -> Form:
    """How the clicks of a log with this mapping are on a topic. limits: the arguments of JsonCodec

    Raises ConfigError if the registry of the mapping's format does not answer, or has no usable schema of the topic.
    """
    if file is None:
        return Form(encode, JsonCodec(*limits))
    mapping, reading = file.mapping, file.mapping.of_topic()
    if mapping.format == "json":
        return Form(partial(written, mapping), JsonCodec(*limits, message_shape(reading)))
    from stream.registry.framed import Framed  # the extra `registry` installs what these need
    from stream.registry.framing import Framing

    registry = registry_of(file, schema_registry, config)
    registry.check()
    write = Framing(registry, mapping.format, f"{topic}-value", UNITS.get(mapping.topic.unit))
    shape = decoded_shape(reading, Framed(registry, mapping.format))
    return Form(lambda click: write(values(mapping, click)), JsonCodec(*limits, shape))


def replay(
    log: Log,
    broker: str,
    topic: str,
    speed: float | None,
    form: Form,
    seen: Callable[[int], None] = lambda count: None,
    config: KafkaConfig = PLAINTEXT,
) -> dict[str, Any]:
    """Publish the log.

    speed    multiple of the log's own pace; None = as fast as the broker accepts messages
    form     how the clicks are on the topic
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
    first = ""  # why the first one is left out
    sent = done = reported = 0
    for click, _ in log_clicks(log):
        done += 1
        key = click.user_id.encode()
        try:
            value = _accepted(click, key, form)
        except BadClick as exc:
            first = first or exc.detail
            left_out[exc.reason] += 1
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
        raise ConfigError(
            f"a worker would reject every click of the log: {counted(left_out)}; the first one: {first}; see "
            "docs/events.md"
        )
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


def _accepted(click: Click, key: bytes, form: Form) -> bytes:
    """The message of a click. Raises BadClick, as in the dead letters, if a worker would reject it."""
    read = time_ms(click.timestamp)
    if read is None or read[0] != click.timestamp:  # a worker reads such ms as seconds or as a date, without an error
        raise BadClick("too_early", f"{click.timestamp} ms is before 1973")
    value = form.message(click)
    read_back = form.codec.decode(key, value, time.time_ns() // 1_000_000)
    form.codec.check_key(key, read_back.user_id)  # a schema may hold another user than it was given
    return value
