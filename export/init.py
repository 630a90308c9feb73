"""The command `eddy init`: a sample of a topic or a file -> a guessed mapping, shown and written.

It is here and not in stream/ops, because files are read by polars.
"""

import json
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import click
import msgspec

from export.options import topic_or_file
from stream.errors import ConfigError
from stream.kafka.partitioners import KeySample
from stream.kafka_config import KafkaConfig, check_registry_url, read_kafka_config
from stream.log_lines import printable
from stream.ops.options import clicks_topic_option, connection_options, setting_option

MOST_EVENTS = 5_000
"""Events of a sample."""

LOG = "events.jsonl"
"""The name of the log that `eddy record` is to write from a topic."""

MOST_ASKED = 20
"""Messages whose schemas are asked for to find out the format."""


@click.command()
@clicks_topic_option("look at", default=None)
@click.option("--file", type=click.Path(path_type=Path), help="Look at the first rows of this file of events.")
@connection_options
@setting_option("schema_registry")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("mapping.toml"),
    show_default=True,
    help="Mapping file to write. An existing file is not changed.",
)
@setting_option("max_future_s")
@setting_option("max_message_bytes")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@click.pass_context
def init(
    ctx: click.Context,
    /,
    clicks_topic: str | None,
    file: Path | None,
    broker: str,
    kafka_config: str,
    schema_registry: str,
    out: Path,
    max_future_s: float,
    max_message_bytes: int,
    as_json: bool,
) -> None:
    """Look at a sample of events and write a mapping: a file that defines how they are read as clicks.

    Nothing has to be changed at the producers. The fields are guessed by their names and values. The command shows what
    each field of a click is read from, the first events as it understood them, what it did not use, and what you should
    check. Edit the file where the guess is wrong: docs/mapping.md has examples.

    A file is CSV, Parquet, JSON lines or Avro. A topic has messages in JSON or, with --schema-registry, in Avro or
    Protobuf; the command commits no offsets and joins no group.

    \b
    Examples:
      eddy init --topic shop-events --broker localhost:9092 --out shop.toml
      eddy init --file events.jsonl --out shop.toml
      eddy record events.jsonl --topic shop-events --broker localhost:9092 --mapping shop.toml
      eddy train events.jsonl --mapping shop.toml --out models/mine/1
      eddy worker --model models/mine/1 --clicks-topic shop-events
    """
    from stream.guess.guess import guess, unused
    from stream.guess.sample import describe
    from stream.guess.text import report, toml, understand
    from stream.log_lines import counted
    from stream.mapping.parse import parse_mapping
    from stream.mapping.paths import path_text

    choice = "give either --topic, to look at a topic, or --file, to look at a file of events"
    topic = topic_or_file(ctx, clicks_topic, file, choice)
    if out.exists():
        raise ConfigError(f"{out} exists, and eddy init does not replace a file; give another --out or remove it")
    form = "json"
    if topic is not None:
        config = read_kafka_config(kafka_config, os.environ)
        events, keys, places, left_out, form = _of_topic(broker, topic, schema_registry, config)
        sample, source = describe(events, keys), f"topic {topic}"
        mixed = places.verdict().mixed
    else:
        assert file is not None
        if file.is_dir():
            raise ConfigError(f"--file {file} is a directory; give one of its files")
        events, left_out, mixed = list(islice(rows(file), MOST_EVENTS)), [], False
        sample, source = describe(events), f"file {file.name}"
    if not events:
        others = f": {counted(len(left_out), 'message')} that cannot be decoded. Of the last one: " if left_out else ""
        raise ConfigError(f"{source} has no events to look at{others}{''.join(left_out[-1:])}")
    found = guess(sample, mixed, form)
    text = toml(found, source)
    assert parse_mapping(text, str(out)) == found.mapping
    now_ms = time.time_ns() // 1_000_000
    understood = understand(sample, found.mapping, max_message_bytes, int(max_future_s * 1000), now_ms)
    if as_json:
        shown = {
            "events": len(events),
            "clicks": len(understood.clicks),
            "dropped": understood.dropped,
            "dead_letters": understood.refused,
            "no_json": len(left_out),
            "mapping": msgspec.to_builtins(msgspec.structs.asdict(found.mapping)),
            "first": msgspec.to_builtins(understood.clicks[:3]),
            "not_used": [path_text(seen.path) for seen in unused(sample, found.mapping)],
            "to_check": found.unsure,
            "file": str(out),
        }
        click.echo(json.dumps(shown))
    else:
        if len(events) + len(left_out) == MOST_EVENTS:
            click.echo(f"{source}: its {'first' if topic is None else 'last'} {MOST_EVENTS:,} events were looked at\n")
        click.echo(report(sample, found, understood))
        if left_out:
            what = "a JSON object" if form == "json" else f"{form} of a known schema"
            click.echo(f"\n{counted(len(left_out), 'message')} without {what}, which a worker makes dead letters of")
    try:
        with out.open("x", encoding="utf-8") as written:  # x: never replaces a file that came meanwhile
            written.write(text)
    except OSError as exc:
        raise ConfigError(f"{out} cannot be written ({exc.strerror}); give another --out") from None
    if not as_json:
        if found.mapping.rekey and topic is not None:
            made = ["eddy", "topics", "create", "--broker", broker, "--clicks-topic", topic, "--mapping", str(out)]
            made += ["--kafka-config", kafka_config] if kafka_config else []
            click.echo(f"\nThe workers re-key the messages. They need a topic for it: {shlex.join(made)}")
        log, steps = LOG if file is None else str(file), []
        if topic is not None:
            steps.append(["eddy", "record", log, "--topic", topic, "--broker", broker, "--mapping", str(out)])
            steps[0] += ["--kafka-config", kafka_config] if kafka_config else []
            steps[0] += ["--schema-registry", schema_registry] if form != "json" else []
        steps.append(["eddy", "train", log, "--mapping", str(out), "--out", "models/mine/1"])
        click.echo(f"\nwrote {out}. Next: " + "\nThen: ".join(map(shlex.join, steps)))


def _of_topic(
    broker: str, topic: str, schema_registry: str, config: KafkaConfig
) -> tuple[list[dict[str, Any]], list[bytes | None], KeySample, list[str], str]:
    """The last messages of a topic that can be decoded, their keys, where these are, why others cannot, the format.

    The format is that of the last message that has a schema in the registry; json if none has.
    """
    from stream.access.messages import read_messages
    from stream.access.publish import partitions_of
    from stream.errors import BadClick
    from stream.mapping.shape import with_headers

    events: list[dict[str, Any]] = []
    keys: list[bytes | None] = []
    places = KeySample(len(partitions_of(broker, topic, config)))
    left_out: list[str] = []
    messages = list(islice(read_messages(broker, topic, config, last=MOST_EVENTS), MOST_EVENTS))
    form, decode = _decoder([message.value() for message in messages], topic, schema_registry, config)
    for message in messages:
        value, why = message.value(), "it is no JSON object"
        if form == "json":
            value = with_headers(value, message.headers(), None)
        try:
            event = decode(value or b"")
        except BadClick as exc:
            event, why = None, printable(exc.detail)
        if not isinstance(event, dict):
            left_out.append(why if value else "it has no value")
            continue
        events.append(event)
        key = message.key()
        keys.append(key)
        if key:
            places.add(key, message.partition(), message.offset())
    return events, keys, places, left_out, form


def _decoder(
    values: Sequence[bytes | None], topic: str, schema_registry: str, config: KafkaConfig
) -> tuple[str, Callable[[bytes], Any]]:
    """The format of messages, and the function that decodes one. It raises BadClick. Raises ConfigError."""
    from stream.wire.json import UNDECODABLE, loosely

    framed = [value for value in values if value and value[0] == 0]
    if framed and schema_registry:
        from stream.registry.client import Registry
        from stream.registry.framed import Framed, form_of

        check_registry_url(schema_registry)
        registry = Registry(schema_registry, config)
        registry.check()
        form = next((form for value in reversed(framed[-MOST_ASKED:]) if (form := form_of(registry, value))), None)
        if form is not None:
            return form, Framed(registry, form)
    if 2 * len(framed) > len(values):
        what = "none of their schemas is known there" if schema_registry else "give --schema-registry"
        raise ConfigError(
            f"the messages of topic {topic} begin with the byte 0, as Avro and Protobuf of a Schema Registry do; {what}"
        )
    decode = msgspec.json.Decoder(dict[str, Any]).decode

    def of_json(value: bytes) -> Any:
        try:
            return decode(value)
        except UNDECODABLE as exc:
            return loosely(value, exc)

    return "json", of_json


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a log as JSON objects, without any rule: the lines, or the cells by the names of their columns.

    Raises ConfigError if a file cannot be read.
    """
    from export.files.files import files, open_file
    from export.log.mapped import of_table, value_of
    from export.log.reader import readable

    def as_json(value: Any) -> Any:
        """As a mapped log is read: what JSON does not have is text, or an empty list."""
        if value is None or isinstance(value, str | int | float):
            return value
        try:
            return json.loads(json.dumps(value, default=of_table))
        except (RecursionError, ValueError):
            return []

    with readable(path):
        found = files(path)
    for path_of_file in found:
        with readable(path_of_file):
            file = open_file(path_of_file)
            for row in file.rows():
                yield {name: as_json(value_of(file, cell)) for name, cell in row.items() if cell is not None}
