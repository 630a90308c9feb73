"""What commands show in a terminal: times, texts that a producer has chosen, and a bar while a topic is read."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click

from stream.kafka_config import KafkaConfig


def messages_shown(broker: str, topic: str, config: KafkaConfig) -> Iterator[Any]:
    """The messages of a topic up to its end, with a bar on stderr. Raises ConfigError as `read_messages` does."""
    from stream.access.messages import read_messages  # here, because --help needs no Kafka client

    messages, stderr = read_messages(broker, topic, config), click.get_text_stream("stderr")
    with click.progressbar(messages, label=f"reading {topic}", file=stderr, show_pos=True) as bar:
        yield from bar


def time_of(ms: int | None) -> str:
    """ISO 8601 in UTC; the number itself if it is no time of the years 1 to 9999."""
    try:
        return datetime.fromtimestamp((ms or 0) / 1000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"
