"""Options that several commands of the offline side take."""

from collections.abc import Callable
from pathlib import Path

import click

from stream.settings import DEVICES

LOG_OPTIONS = (
    click.option("--user-col", help="Column of the user.  [default: user_id]"),
    click.option("--item-col", help="Column of the item.  [default: item_id]"),
    click.option(
        "--event-col", help="Column of the event type; without one every click is a view.  [default: event_type]"
    ),
    click.option(
        "--time-col", help="Column of the time: s, ms, µs or ns since 1970, dates or ISO.  [default: timestamp]"
    ),
    click.option(
        "--session-col", help="Column of the visit; without one, half an hour parts them.  [default: session_id]"
    ),
    click.option("--category-col", help="Column of the item's category, if any.  [default: category]"),
    click.option("--price-col", help="Column of the item's price, if any.  [default: price]"),
    click.option(
        "--in-order",
        is_flag=True,
        help="The rows are in time order: times are made from them, half a minute from click to click of a session, "
        "and a time column is ignored.",
    ),
    click.option("--drop-repeats", is_flag=True, help="Leave out rows equal to an earlier one."),
    click.option("--from", "start", metavar="TIME", help="Only clicks from this time on: ISO (UTC), s or ms."),
    click.option("--until", "end", metavar="TIME", help="Only clicks before this time."),
)

CELL_OPTION = click.option(
    "--cell",
    type=click.Choice(["lstm", "gru", "rnn"]),
    help="The recurrent cell; gru and rnn have half the state per user.  [default: lstm]",
)

THREADS_OPTION = click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Of torch. One is best on a machine that does other work: threads at these sizes mostly wait for each other.",
)

DEVICE_OPTION = click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    show_default=True,
    help="Where the network is trained; auto takes the GPU if torch sees one. All else runs on the CPU.",
)

Command = Callable[..., None]


def log_options(command: Command) -> Command:
    """The argument LOG, the flags that name its columns, and the cut in time."""
    for option in reversed(LOG_OPTIONS):
        command = option(command)
    return click.argument("log", type=click.Path(path_type=Path))(command)
