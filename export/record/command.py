"""The command `eddy record`: a topic -> a log for `eddy train`. Kafka's client is imported when it is called."""

import os
import shlex
import time
from pathlib import Path

import click
import msgspec

from export.progress import Bar
from stream.errors import ConfigError
from stream.kafka_config import read_kafka_config
from stream.mapping.parse import read_mapping
from stream.ops.feedback import DURATION, UNITS_MS
from stream.ops.options import clicks_topic_option, connection_options, setting_option
from stream.ops.text import time_of
from stream.settings import variable
from stream.start_at import EARLIEST


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@connection_options
@clicks_topic_option("read")
@click.option(
    "--mapping",
    envvar=variable("mapping"),
    default="",
    help="File that defines how the messages are read as clicks; `eddy init` writes one. Empty: they have Eddy's "
    "fields.",
)
@setting_option("schema_registry")
@click.option(
    "--from",
    "start",
    metavar="TIME",
    default=EARLIEST,
    show_default=True,
    help="Only messages that Kafka has from this time on: ISO (UTC), s or ms, or 7d for the last 7 days (also m, h).",
)
@click.option("--limit", type=click.IntRange(1), help="At most so many clicks, the first ones that are read.")
@setting_option("max_future_s")
@setting_option("max_message_bytes")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as one JSON object.")
def record(
    out: Path,
    broker: str,
    kafka_config: str,
    clicks_topic: str,
    mapping: str,
    schema_registry: str,
    start: str,
    limit: int | None,
    max_future_s: float,
    max_message_bytes: int,
    as_json: bool,
) -> None:
    """Write the clicks of a topic to the log OUT, for eddy train: the opposite of eddy replay.

    OUT is a new file of JSON lines: its name ends in .jsonl or .jsonl.gz. The topic is read up to its end at the start;
    the command joins no group and commits no offsets.

    A line is the value of a message, unchanged. Read the log with the same --mapping. Messages in Avro or Protobuf are
    decoded to JSON, and with a mapping that has [log.fields], the lines have these fields.

    What a worker would not take as a click is left out and counted by its reason: docs/events.md. Clicks of a user
    before a request to forget the user are left out too (forgotten). To find the requests, the topic is read to its end
    also with --limit, and a second time if there are any.

    \b
    Examples:
      eddy record events.jsonl --topic shop-events --broker localhost:9092 --mapping shop.toml
      eddy record events.jsonl.gz --topic shop-events --mapping shop.toml --from 30d
      eddy record clicks.jsonl --from 2026-11-01 --limit 100000 --json
    """
    from export.record.lines import lines_of
    from export.record.record import check_name, check_topic
    from export.record.record import record as write
    from export.record.recorded import notes

    check_name(out)
    since_ms = since(start, time.time_ns() // 1_000_000)
    file = read_mapping(Path(mapping)) if mapping else None
    config = read_kafka_config(kafka_config, os.environ)
    check_topic(clicks_topic, file)
    limits = max_message_bytes, int(max_future_s * 1000)
    with Bar("messages") as bar:
        lines = lines_of(file, schema_registry, limits, config)
        done = write(out, broker, clicks_topic, lines, bar, config, since_ms, limit)
    if as_json:
        click.echo(msgspec.json.encode(done))
        return
    click.echo(
        f"wrote {out}: {done.clicks:,} clicks from {time_of(done.first_ms)} to {time_of(done.last_ms)}, "
        f"{done.bytes:,} bytes"
    )
    for line in notes(done):
        click.echo(line)
    words = ["eddy", "train", str(out), *(["--mapping", mapping] if mapping else []), "--out", "models/mine/1"]
    click.echo(f"Next: {shlex.join(words)}")


def since(text: str, now_ms: int) -> int:
    """The time of --from, ms since the epoch; 0 = from the beginning. Raises ConfigError.

    text  earliest, a duration before now such as 7d or -7d, or a time as `eddy train --from` reads it
    """
    from export.log.times import parse_time

    text = text.strip()
    if text == EARLIEST:
        return 0
    duration = DURATION.fullmatch(text.removeprefix("-"))
    try:
        found = now_ms - int(duration[1]) * UNITS_MS[duration[2]] if duration else parse_time(text)
    except ConfigError:
        found = -1
    if found < 0:  # Kafka reads some negative times as other requests
        raise ConfigError(
            f"--from is {text!r}; it must be {EARLIEST}, a duration up to now such as 30m, 8h or 7d, or a time such as "
            "2026-11-01T00:00:00"
        )
    return found
