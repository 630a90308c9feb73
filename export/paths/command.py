"""The command `eddy paths`: a click log or a topic -> how sessions go, as tables, JSON and a page."""

import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from export.options import log_options, take_log, topic_or_file
from export.progress import Bar
from stream.errors import ConfigError
from stream.kafka_config import read_kafka_config
from stream.mapping.parse import read_mapping
from stream.ops.options import clicks_topic_option, connection_options, setting_option

if TYPE_CHECKING:
    from export.log.log import Log
    from export.record.recorded import Recorded

PAGE_START = b"<!doctype html>"
"""First bytes of a page, in lower case. `--html` replaces no other file: it may be the log."""

OF_A_FILE = ("user_col", "item_col", "event_col", "time_col", "session_col", "category_col", "price_col", "in_order")
"""Options for the columns of a file, which a topic does not have."""


@click.command()
@partial(log_options, required=False)
@clicks_topic_option("read up to its end, instead of a LOG", default=None)
@connection_options
@setting_option("schema_registry")
@setting_option("max_future_s")
@setting_option("max_message_bytes")
@click.option(
    "--by",
    type=click.Choice(["event_type", "category", "item"]),
    default="event_type",
    show_default=True,
    help="What a step of a path is. The same step in a row counts once.",
)
@click.option(
    "--stages",
    metavar="TYPE,TYPE,...",
    help="Event types of the funnel, in their order.  [default: the log's names of view, cart and purchase]",
)
@click.option(
    "--top",
    type=click.IntRange(1, 1000),
    default=30,
    show_default=True,
    help="So many values with the most clicks are steps of their own; the others are one step.",
)
@click.option(
    "--depth",
    type=click.IntRange(2, 12),
    default=6,
    show_default=True,
    help="Longest path in steps; the end of a session is one.",
)
@click.option("--show", type=click.IntRange(1, 1000), default=12, show_default=True, help="Rows of each table.")
@click.option("--compare", metavar="TIME", help="Compare the sessions before this time with those from it on.")
@click.option(
    "--compare-users",
    type=click.Path(path_type=Path),
    help="Compare the users in this file, one id a line, with the others.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the bootstrap of a comparison.")
@click.option("--html", type=click.Path(path_type=Path), help="Write a page with pictures and all tables to this file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
@click.pass_context
def paths(
    ctx: click.Context,
    /,
    log: Path | None,
    clicks_topic: str | None,
    broker: str,
    kafka_config: str,
    schema_registry: str,
    max_future_s: float,
    max_message_bytes: int,
    by: str,
    stages: str | None,
    top: int,
    depth: int,
    show: int,
    compare: str | None,
    compare_users: Path | None,
    seed: int,
    html: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Show how the sessions of a LOG or a topic go: funnel, paths, loops, first and last steps.

    LOG is read as by eddy train, and a topic as by eddy record; the command joins no group and commits no offsets. A
    session ends with its id or, without one, with half an hour without a click. A path is a finding only if a
    first-order Markov chain of the same sessions does not explain its last step. Intervals are 95%, and count the
    sessions of one user as alike. docs/paths.md explains every figure.

    \b
    Examples:
      eddy paths clicks.parquet
      eddy paths clicks.parquet --by category --html paths.html
      eddy paths clicks.parquet --stages view,cart,purchase --compare 2025-03-01 --json
      eddy paths --topic clicks --broker localhost:9092 --from 2025-03-01
    """
    from export.log.times import parse_time
    from export.paths.run import Asked, figures
    from export.paths.tables import text

    if compare is not None and compare_users is not None:
        raise ConfigError("--compare and --compare-users are two comparisons; omit one of the two")
    if compare is not None and given["in_order"]:
        raise ConfigError("--compare needs times, and --in-order ignores them; omit one of the two")
    topic = topic_or_file(ctx, clicks_topic, log, "give either a LOG or --topic")
    compare_ms = None if compare is None else parse_time(compare)
    if html is not None:
        _check_html(html)
    asked = Asked(by, stages, top, depth, show, compare_ms, compare_users, seed)
    read: Recorded | None = None
    if topic is not None:
        limits = max_message_bytes, int(max_future_s * 1000)
        clicks, read = _of_topic(broker, topic, kafka_config, schema_registry, limits, given)
    with Bar() as bar:
        if log is not None:
            clicks = take_log(bar, log, given)
        found = figures(clicks, asked, bar)
    if read is not None:
        from export.record.recorded import notes

        found |= {"messages": read.messages, "left_out": read.left_out}
        found["remarks"] += notes(read)
    if html is not None:
        from export.paths.page import page

        try:
            html.write_text(page(found), encoding="utf-8")
        except OSError as exc:
            raise _unwritable(html, exc) from exc
    click.echo(json.dumps(found) if as_json else text(found))
    if html is not None and not as_json:
        click.echo(f"\nwrote {html}")


def _of_topic(
    broker: str, topic: str, kafka_config: str, schema_registry: str, limits: tuple[int, int], given: dict[str, Any]
) -> "tuple[Log, Recorded]":
    """The clicks of a topic as a log, and what is left out. Raises ConfigError."""
    from export.paths.topic import log_of_topic
    from export.record.lines import lines_of
    from export.record.record import check_topic

    wrong = [name for name in OF_A_FILE if given[name]]
    if wrong:
        raise ConfigError(f"--{wrong[0].replace('_', '-')} is for a file; a topic of another shape needs a --mapping")
    mapping = read_mapping(Path(given["mapping"])) if given["mapping"] else None
    config = read_kafka_config(kafka_config, os.environ)
    check_topic(topic, mapping)
    with Bar("messages") as bar:
        lines = lines_of(mapping, schema_registry, limits, config)
        return log_of_topic(broker, topic, config, lines, given, bar)


def _check_html(html: Path) -> None:
    """Check before a long count that the page can be written, and replaces only a page. Raises ConfigError."""
    there = html.exists()
    try:
        if html.is_file():
            with html.open("rb") as file:
                start = file.read(len(PAGE_START))
            if start.lower() != PAGE_START[: len(start)]:
                raise ConfigError(f"--html {html}: this file is no page and is not replaced; give another file")
        with html.open("ab"):  # changes nothing in a file that is there
            pass
        if not there:
            html.unlink()  # the count may fail
    except OSError as exc:
        raise _unwritable(html, exc) from exc


def _unwritable(html: Path, exc: OSError) -> ConfigError:
    return ConfigError(f"--html {html}: the file cannot be written ({exc.strerror or exc}); give another file")
