"""The commands `eddy state export` and `eddy state import`."""

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream.kafka_config import read_kafka_config
from stream.ops.options import connection_options, setting_option, topic_option
from stream.ops.text import Nearest
from stream.settings import Topics
from stream.start_at import start_time_ms

if TYPE_CHECKING:
    from stream.snapshot.cluster import Cluster

Command = Callable[..., None]


def state_options(command: Command) -> Command:
    """Add the options of both commands: those of the workers of the group."""
    options: tuple[Callable[[Command], Command], ...] = (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        topic_option("changelog"),
        topic_option("clicks"),
        setting_option("pseudonymise"),
        setting_option("group"),
        setting_option("model"),
        connection_options,
    )
    for option in options:
        command = option(command)
    return command


@click.group(cls=Nearest)
def state() -> None:
    """Write the states of all users to Parquet files, and restore them from there.

    \b
    Examples:
      eddy state export --model models/mine/1 --out states
      eddy state import --model models/mine/1 --group eddy-2 --changelog-topic eddy-changelog-2 states
    """


@state.command("export", short_help="Write the states of a group to Parquet files.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="New directory for the files.")
@state_options
def export(
    out: Path,
    model: str,
    broker: str,
    kafka_config: str,
    group: str,
    pseudonymise: str,
    clicks_topic: str,
    changelog_topic: str,
    as_json: bool,
) -> None:
    """Write the states of a group to Parquet files, one for each partition.

    A file has a row for each user: columns that can be read (user, last item, last click, session, the tensors of the
    model ...) and the bytes that `eddy state import` needs. Each file holds what one transaction left, with the offset
    of the next click. Workers may run meanwhile; nothing in Kafka changes. Memory: the states of one partition.

    Give the options of the group's workers. With re-keying, --clicks-topic is the topic of the copies.

    \b
    Examples:
      eddy state export --broker localhost:9092 --model models/mine/1 --out states
      eddy state export --settings eddy.toml --out /backup/states-2026-11-28 --json
    """
    from stream.snapshot.cluster import look
    from stream.snapshot.save import export_states, length
    from stream.snapshot.tables import open_layout

    layout = open_layout(Path(model), pseudonymise)
    topics = Topics(clicks=clicks_topic, changelog=changelog_topic)
    cluster = look(broker, read_kafka_config(kafka_config, os.environ), group, topics)
    _warn_of_copies(cluster)
    with _bar("reading the states", length(cluster)) as bar:
        done = export_states(cluster, layout, out, bar.update)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(
        f"{done['users']:,} users of {len(done['partitions'])} partitions written to {out} "
        f"({done['bytes'] / 1e6:,.1f} MB)"
    )
    if done["broken"]:
        click.echo(
            f"eddy: WARNING: {done['broken']:,} broken rows were left out; a worker, too, lets their users begin again",
            err=True,
        )


@state.command("import", short_help="Restore the states into an empty changelog.")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--start-at",
    default="",
    help="Where reading begins. Without it: at the offsets of the snapshot, if the clicks topic is the one of which it "
    "was made. snapshot: at these offsets in another topic, too. undecided, earliest, latest or a time: as for a "
    "worker.",
)
@topic_option("recommendations")
@state_options
def import_(
    directory: Path,
    start_at: str,
    model: str,
    broker: str,
    kafka_config: str,
    group: str,
    pseudonymise: str,
    clicks_topic: str,
    changelog_topic: str,
    recommendations_topic: str,
    as_json: bool,
) -> None:
    """Restore the states in DIRECTORY, into an empty changelog and a new group.

    A worker that starts then with this group and changelog continues as the one would that wrote the states. Before
    anything is written, all files are checked. Rows and offsets are written in one transaction, so a command that was
    killed can be run again.

    It is refused if the changelog has a row or another number of partitions, if the group has an offset or a member,
    and if the states are of another model. On another cluster, give --start-at.

    \b
    Examples:
      eddy topics create --broker localhost:9092 --partitions 8 --changelog-topic eddy-changelog-2
      eddy state import --broker localhost:9092 --model models/mine/1 --group eddy-2 \\
        --changelog-topic eddy-changelog-2 states
      eddy state import --settings new-cluster.toml --start-at earliest states
    """
    from stream.snapshot.cluster import look
    from stream.snapshot.files import check_rows, read_headers
    from stream.snapshot.restore import SAME_TOPIC, SNAPSHOT, import_states
    from stream.snapshot.tables import open_layout

    if start_at not in (SAME_TOPIC, SNAPSHOT):
        start_time_ms(start_at)  # raises ConfigError
    layout = open_layout(Path(model), pseudonymise)
    headers = read_headers(directory)
    users = sum(header.users for header in headers)
    with _bar("checking the files", users) as bar:
        check_rows(directory, headers, layout, bar.update)
    topics = Topics(clicks=clicks_topic, changelog=changelog_topic, recommendations=recommendations_topic)
    cluster = look(broker, read_kafka_config(kafka_config, os.environ), group, topics)
    _warn_of_copies(cluster)
    with _bar("writing the states", users) as bar:
        done = import_states(cluster, directory, headers, start_at, bar.update)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(
        f"{done['users']:,} users written to {changelog_topic}; start the workers with --group {group} "
        f"--changelog-topic {changelog_topic}. Clicks after the snapshot that another group has decided are decided "
        "again, under the same ids"
    )


def _warn_of_copies(cluster: "Cluster") -> None:
    """A worker finds the topic of the copies by its mapping, which these commands do not read."""
    if cluster.copies:
        click.echo(
            f"eddy: WARNING: {cluster.copies} has re-keyed copies of {cluster.topics.clicks}; if the group reads them, "
            f"the offsets are of another topic: give --clicks-topic {cluster.copies}",
            err=True,
        )


def _bar(label: str, length: int) -> AbstractContextManager[Any]:
    return click.progressbar(length=max(1, length), label=label, file=click.get_text_stream("stderr"))
