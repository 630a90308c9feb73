"""The commands `eddy sink redis|postgres|parquet|avro|webhook` and `eddy schema`."""

import json
import math
import os
from pathlib import Path
from typing import Any

import click

from stream.kafka_config import check_registry_url, read_kafka_config
from stream.number_range import NumberRange
from stream.ops.options import setting_option
from stream.ops.text import Nearest
from stream.outputs import IN_AVRO, OUTPUTS, avro_schema, flat_avro_schema, json_schema
from stream.sinks.options import URL_VARIABLE, given_url, secret_url, sink_options, sources, url_option, webhook_options
from stream.sinks.start import copy, post

SERVER_ROWS = 2_000
"""Most messages of one write to a server."""

MOST_PER_MINUTE = 20
"""A person reads no more in a chat, and Slack takes one a second."""


@click.group(cls=Nearest)
def sink() -> None:
    """Copy recommendations, alerts, sessions and triggers from Kafka to Redis, PostgreSQL, Parquet files or Avro, or
    post them to a webhook.

    The offset of each partition is stored with the data, so that nothing is written twice or left out, also if the
    process is killed; a webhook gets an event again then. Start one process for each place. docs/sinks.md has the keys,
    tables, files and topics.

    \b
    Examples:
      eddy sink redis --url redis://localhost:6379/0
      eddy sink postgres --url postgresql://eddy@localhost/shop --create
      eddy sink parquet --directory history
      eddy sink avro --schema-registry http://localhost:8081 --create
      eddy sink webhook --url-file url.txt
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
    type=NumberRange(0, min_open=True),
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


@sink.command("webhook", short_help="Post alerts to a webhook, such as that of a chat.")
@webhook_options
@click.pass_context
def to_webhook(
    ctx: click.Context,
    /,
    url: str | None,
    url_file: Path | None,
    form: str,
    only_opened: bool | None,
    most_per_minute: int | None,
    of_group: str,
    begins: str,
    **given: Any,
) -> None:
    """Post each event to a webhook: an address that takes HTTP requests, such as that of a chat or of a program.

    Each event is posted at least once, in the order of its partition. An event that is posted again, as after a crash,
    has the same header Idempotency-Key. docs/sinks.md has what answers of the receiver mean.

    \b
    Examples:
      EDDY_SINK_URL=https://shop.example/hooks/SECRET eddy sink webhook --topics anomalies,triggers
      eddy sink webhook --url-file url.txt --format slack --topics anomalies,system-alerts
    """
    from stream.places.webhook import Webhook

    if form == "json" and most_per_minute is not None:
        raise click.UsageError("--most-per-minute is for --format slack; as JSON, each event is posted.")
    webhook = Webhook(secret_url(ctx, url, url_file))
    slack = form == "slack"
    most = most_per_minute or (MOST_PER_MINUTE if slack else math.inf)
    post(webhook, form, slack if only_opened is None else only_opened, most, of_group, begins, **given)


@click.command()
@click.argument("output", type=click.Choice(list(OUTPUTS)), required=False, metavar=f"[{'|'.join(OUTPUTS)}]")
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
