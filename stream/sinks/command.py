"""The commands `eddy sink redis|postgres|parquet|avro` and `eddy schema`."""

import json
import logging
import math
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Event as Flag
from typing import TYPE_CHECKING, Any

import click
import msgspec

from stream.errors import ConfigError
from stream.kafka_config import check_registry_url, read_kafka_config
from stream.log_lines import log_to_stderr
from stream.ops.options import setting_option
from stream.ops.text import Nearest
from stream.outputs import IN_AVRO, OUTPUTS, avro_schema, flat_avro_schema, json_schema
from stream.sinks.options import URL_VARIABLE, given_url, sink_options, sources, url_option

if TYPE_CHECKING:
    from stream.places.sink import Sink

SERVER_ROWS = 2_000
"""Most messages of one write to a server."""


@click.group(cls=Nearest)
def sink() -> None:
    """Copy recommendations, alerts, sessions and triggers from Kafka to Redis, PostgreSQL, Parquet files or Avro.

    The offset of each partition is stored with the data, so that nothing is written twice or left out, also if the
    process is killed. Start one process for each place. docs/sinks.md has the keys, tables, files and topics.

    \b
    Examples:
      eddy sink redis --url redis://localhost:6379/0
      eddy sink postgres --url postgresql://eddy@localhost/shop --create
      eddy sink parquet --directory history
      eddy sink avro --schema-registry http://localhost:8081 --create
    """


@sink.command("redis", short_help="Keep the latest list and alert of each user in Redis.")
@url_option
@click.option("--prefix", default="eddy:", show_default=True, help="Prefix of all keys.")
@click.option(
    "--ttl-s",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Delete a user's key that was not written for so many seconds. 0: never.",
)
@sink_options
@click.pass_context
def to_redis(ctx: click.Context, /, url: str, prefix: str, ttl_s: int, **given: Any) -> None:
    """Keep the latest recommendation and the latest alert of each user in Redis.

    The keys are eddy:recs:USER and eddy:alerts:USER; with --topics also eddy:sessions:USER and eddy:triggers:RULE USER.
    The value is the message as it is on the topic.

    \b
    Examples:
      eddy sink redis --url redis://localhost:6379/0 --ttl-s 2592000
      EDDY_SINK_URL=rediss://eddy:SECRET@r1:6380/0 eddy sink redis --topics recommendations
    """
    from stream.places.redis import RedisSink

    copy(RedisSink(given_url(ctx, url), prefix, ttl_s), SERVER_ROWS, 0.0, **given)


@sink.command("postgres", short_help="Keep the latest lists and all alerts in PostgreSQL.")
@click.option("--url", envvar=URL_VARIABLE, help="URL of the database. Give one with a password in EDDY_SINK_URL.")
@click.option("--prefix", default="eddy_", show_default=True, help="Prefix of the names of all tables.")
@click.option("--create", is_flag=True, help="Create the tables and columns that are missing.")
@click.option("--ddl", is_flag=True, help="Print the SQL that creates what is missing, and end.")
@sink_options
@click.pass_context
def to_postgres(ctx: click.Context, /, url: str | None, prefix: str, create: bool, ddl: bool, **given: Any) -> None:
    """Keep the latest recommendation of each user, and all alerts, in tables of PostgreSQL.

    Nothing is ever dropped or emptied.

    \b
    Examples:
      eddy sink postgres --ddl
      eddy sink postgres --url postgresql://eddy@localhost/shop --create
      eddy sink postgres --url postgresql://eddy@localhost/shop --create --topics sessions,triggers
    """
    from stream.places import postgres

    if ddl:
        click.echo(postgres.ddl(given["outputs"], postgres.checked(prefix)))
        return
    if url is None:
        raise click.UsageError(f"no URL: give --url or {URL_VARIABLE}.")
    place = postgres.PostgresSink(given_url(ctx, url), given["outputs"], prefix, create)
    copy(place, SERVER_ROWS, 0.0, **given)


@sink.command("parquet", short_help="Write all messages to Parquet files.")
@click.option("--directory", required=True, type=click.Path(path_type=Path), help="Directory of the files.")
@click.option(
    "--every-s",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    show_default=True,
    help="Write the files after so many seconds at the latest.",
)
@click.option(
    "--rows",
    type=click.IntRange(1, 1_000_000),
    default=50_000,
    show_default=True,
    help="Write the files after so many messages at the latest. They are in memory until then.",
)
@sink_options
def to_parquet(directory: Path, every_s: float, rows: int, **given: Any) -> None:
    """Write all messages to Parquet files, one for each partition and interval.

    \b
    Examples:
      eddy sink parquet --directory history
      eddy sink parquet --directory history --once --topics recommendations
    """
    from stream.places.parquet import ParquetSink

    copy(ParquetSink(directory), rows, every_s, **given)


@sink.command("avro", short_help="Copy the messages to topics in Avro.")
@setting_option("schema_registry")
@click.option("--suffix", show_default="-avro; with --flat -rows", help="What a topic's name gets at its end.")
@click.option(
    "--create",
    is_flag=True,
    help="Create the topics that are missing, with the partitions and the retention of their sources.",
)
@click.option(
    "--flat",
    is_flag=True,
    help="Write lists, maps and records as texts with JSON, for connectors that write rows.",
)
@sink_options
def to_avro(schema_registry: str, suffix: str | None, create: bool, flat: bool, **given: Any) -> None:
    """Copy the messages to topics in Avro, with schemas in a Schema Registry.

    RECOMMENDATIONS-avro has the messages of RECOMMENDATIONS with their keys and timestamps, in Confluent's wire format.

    \b
    Examples:
      eddy sink avro --schema-registry http://localhost:8081 --create
      eddy sink avro --schema-registry http://localhost:8081 --topics recommendations,sessions --once
      eddy sink avro --schema-registry http://localhost:8081 --create --flat
    """
    from stream.places.avro import FLAT, NESTED, AvroSink
    from stream.registry.client import Registry

    if not schema_registry:
        raise click.UsageError("no Schema Registry: give --schema-registry or EDDY_SCHEMA_REGISTRY.")
    check_registry_url(schema_registry)
    config = read_kafka_config(given["kafka_config"], os.environ)
    registry = Registry(schema_registry, config)
    ending, form = ("-rows", FLAT) if flat else ("-avro", NESTED)
    ending = ending if suffix is None else suffix
    place = AvroSink(given["broker"], config, sources(given), ending, registry, create, form)
    copy(place, SERVER_ROWS, 0.0, place.topics, place.topics if create else (), **given)


def copy(
    place: "Sink",
    rows: int,
    every_s: float,
    written: Sequence[str] = (),
    created: Sequence[str] = (),
    *,
    broker: str,
    kafka_config: str,
    outputs: tuple[str, ...],
    once: bool,
    log_format: str,
    as_json: bool,
    **topics: str,
) -> None:
    """Copy the topics of the outputs to a sink until SIGTERM or Ctrl-C, and print what was done.

    written  topics that the sink reads and writes, with a group and a transactional id of the same name
    created  those of them that it creates if they are missing
    topics   name of each topic, as recommendations_topic
    Raises ConfigError.
    """
    from stream.access.rights import check_access
    from stream.kafka.waiting import watch_kafka
    from stream.sinks.patience import ONCE_S, Patience, at_start
    from stream.sinks.run import Copying
    from stream.sinks.source import Source

    config = read_kafka_config(kafka_config, os.environ)
    log_to_stderr(log_format)
    logging.getLogger("stream").setLevel(logging.INFO)
    names = sources({"outputs": outputs, **topics})
    watch = watch_kafka(broker, next(iter(names)), config)
    watch.wait(partial(at_start, broker, Patience(ONCE_S if once else math.inf)))
    check_access(broker, config, [*names, *written], written, members=written, creates=created)
    stopped = Flag()
    for number in (signal.SIGTERM, signal.SIGINT):  # until here there is nothing to finish
        signal.signal(number, lambda *_: stopped.set())
    refusals: list[ConfigError] = []

    def refuse(refusal: ConfigError) -> None:
        refusals.append(refusal)
        stopped.set()

    watch.start(refuse)
    source = Source(broker, list(names), config, stopped)
    done = Copying(source, place, names, rows, every_s, stopped, _line if sys.stderr.isatty() else _nothing).run(once)
    if refusals:
        raise refusals[0]
    if as_json:
        click.echo(msgspec.json.encode(done))
        return
    counts = ", ".join(f"{count:,} {output}" for output, count in done.written.items())
    click.echo(f"{counts} written to {place.where}; {done.left_out:,} messages left out")


def _line(text: str) -> None:
    click.echo(f"\r{text}\x1b[K", nl=False, err=True)


def _nothing(_: str) -> None:
    pass


@click.command()
@click.argument("output", type=click.Choice(list(OUTPUTS)), required=False)
@click.option("--avro", is_flag=True, help="The Avro schema, of a topic that `eddy sink avro` writes.")
@click.option("--flat", is_flag=True, help="With --avro: that of `eddy sink avro --flat`.")
def schema(output: str | None, avro: bool, flat: bool) -> None:
    """Print the JSON Schema of the messages of an output topic; without OUTPUT, those of all, keyed by output.

    \b
    Examples:
      eddy schema recommendations
      eddy schema --avro recommendations
    """
    if flat and not avro:
        raise click.UsageError("--flat is for --avro.")
    make = flat_avro_schema if flat else avro_schema if avro else json_schema
    names = IN_AVRO if avro else tuple(OUTPUTS)
    if output is not None and output not in names:
        raise click.UsageError(f"{output} has no Avro schema; those that have one are {', '.join(names)}.")
    found = {name: make(name) for name in names} if output is None else make(output)
    click.echo(json.dumps(found, indent=2))
