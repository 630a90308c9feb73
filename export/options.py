"""Command line options shared by several commands of export/."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from export.progress import Progress
from stream.errors import ConfigError
from stream.manifest import read_manifest
from stream.mapping.parse import mapping_of_model, read_mapping
from stream.settings import DEVICES, variable

if TYPE_CHECKING:
    from export.log.log import Log

LOG_OPTIONS = (
    click.option("--user-col", help="Column of the user.  [default: user_id]"),
    click.option("--item-col", help="Column of the item.  [default: item_id]"),
    click.option(
        "--event-col", help="Column of the event type; without it every click is a view.  [default: event_type]"
    ),
    click.option(
        "--time-col",
        help="Column of the time: s, ms, µs or ns since 1970, a date type or ISO 8601.  [default: timestamp]",
    ),
    click.option(
        "--session-col",
        help="Column of the session; without it, half an hour without clicks ends one.  [default: session_id]",
    ),
    click.option("--category-col", help="Column of the item's category, if any.  [default: category]"),
    click.option("--price-col", help="Column of the item's price, if any.  [default: price]"),
    click.option(
        "--mapping",
        envvar=variable("mapping"),
        default="",
        help="File that defines how the rows are read as clicks, instead of the options above; `eddy init` writes one.",
    ),
    click.option(
        "--in-order",
        is_flag=True,
        help="The rows are in time order. A time column is ignored; clicks get synthetic times, half a minute apart "
        "within a session.",
    ),
    click.option("--drop-repeats", is_flag=True, help="Leave out rows that repeat an earlier row."),
    click.option("--from", "start", metavar="TIME", help="Only clicks from this time on: ISO (UTC), s or ms."),
    click.option("--until", "end", metavar="TIME", help="Only clicks before this time."),
)

NETWORK_OPTION = click.option(
    "--network",
    "cell",
    type=click.Choice(["lstm", "gru", "rnn", "attention", "cnn", "ffn"]),
    help="Kind of the network. lstm, gru and rnn are recurrent; the others read the user's last 16 clicks.  "
    "[default: lstm]",
)

THREADS_OPTION = click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Threads of torch. At these sizes threads mostly wait for each other; use 1 on a machine with other work.",
)

DEVICE_OPTION = click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    show_default=True,
    help="Device of the training; auto = the GPU if torch sees one. Everything else runs on the CPU.",
)

Command = Callable[..., None]


def log_options(command: Command, required: bool = True) -> Command:
    """Add the argument LOG and LOG_OPTIONS (column names, order, time range) to a command."""
    for option in reversed(LOG_OPTIONS):
        command = option(command)
    return click.argument("log", type=click.Path(path_type=Path), required=required)(command)


def topic_or_file(ctx: click.Context, topic: str | None, file: Path | None, choice: str) -> str | None:
    """The topic that a command with `clicks_topic_option` reads; None if it reads the file.

    choice  what is to be given, for the error
    A file precedes a topic of the settings file or of a variable. Raises ConfigError if both are typed, or neither is
    given.
    """
    if file is None and topic is not None:
        return topic
    if file is None or ctx.get_parameter_source("clicks_topic") is ParameterSource.COMMANDLINE:
        raise ConfigError(choice)
    return None


def take_log(progress: Progress, log: Path, given: dict[str, Any], model: Path | None = None, name: str = "") -> "Log":
    """Read the log of a command with `log_options`, restricted to its time range.

    progress  receives the notes about the log
    given     the command's keyword arguments
    model     directory of the model that the log is for; its mapping is used, also if no option names it
    name      is shown, and is the name of the log, instead of its path
    Raises ConfigError if the log cannot be read or has no clicks, or if the mapping is not the model's.
    """
    from export.log.log import read_log
    from export.log.reader import ColumnNames
    from export.log.times import parse_time

    if given["in_order"] and (given["start"] or given["end"]):
        raise ConfigError(
            "--from and --until need times, and --in-order ignores them; omit --in-order, or omit --from and --until"
        )
    names = ColumnNames(*(given[f"{name}_col"] for name in ColumnNames._fields))
    mapping = read_mapping(Path(given["mapping"])) if given["mapping"] else None
    if model is not None:
        mapping = mapping_of_model(mapping, read_manifest(model), model)
    name = name or str(log)
    progress.say(f"{name}: reading")
    read = replace(read_log(log, names, given["drop_repeats"], given["in_order"], mapping), name=name)
    for note in read.notes:
        progress.say(f"{name}: {note}")
    if given["start"] is None and given["end"] is None:
        return read
    return read.between(*(None if text is None else parse_time(text) for text in (given["start"], given["end"])))
