"""What commands show in a terminal: the nearest command, times, and a bar while a topic is read."""

from collections.abc import Iterator
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any

import click

from stream.kafka_config import KafkaConfig


class Nearest(click.Group):
    """A group of commands that names the nearest one if there is none of the given name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            near = get_close_matches(args[0], self.list_commands(ctx), 1)
            if near:
                exc.message = f"{exc.message.removesuffix('.')}; did you mean {near[0]!r}?"
            raise


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
