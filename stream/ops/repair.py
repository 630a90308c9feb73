"""`eddy topics repair`: prints what a repair would change, and changes it with --apply."""

import json
import os
from typing import Any

import click

from stream.kafka_config import read_kafka_config
from stream.ops.options import connection_options, setting_option, take_topics, topic_options

PARTITIONER_NAMES = ("auto", "murmur2", "crc32", "fnv1a", "none")


@click.command(short_help="Make the states fit the clicks again.")
@connection_options
@setting_option("group")
@topic_options
@click.option(
    "--partitioner",
    type=click.Choice(PARTITIONER_NAMES),
    default="auto",
    show_default=True,
    help="Partitioner of the producers of clicks, if partitions were added. auto: find it out. none: move no row.",
)
@click.option(
    "--clicks",
    type=click.Choice(["auto", "same", "new"]),
    default="auto",
    show_default=True,
    help="Whether the clicks topic is the one that the workers have read, or was created again. auto: compare clicks "
    "with rows.",
)
@click.option("--accept-lost-rows", is_flag=True, help="Go on although rows are missing: their users begin again.")
@click.option("--apply", "apply_it", is_flag=True, help="Change it. Without this the command only prints the plan.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def repair(
    broker: str,
    kafka_config: str,
    group: str,
    partitioner: str,
    clicks: str,
    accept_lost_rows: bool,
    apply_it: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Make the states fit the clicks again, after a change of the topics that workers refuse.

    \b
    Use it after a worker ended with exit code 2 and named this command:
      partitions were added      users' states move to the partitions where their clicks go now
      clicks topic created again the new topic is read from its first click, with the states as they are
      offsets expired, deleted   reading continues where the states end
      or set back
      rows or changelog lost     with --accept-lost-rows: users without a state begin again

    Stop all workers first. The command changes nothing without --apply, and can be run again at any time, also
    after a crash. Rows and offsets change in one transaction. It needs memory for all states.

    If partitions were added, the clicks that were sent to the old partitions must be decided first: when all
    producers use the new partitions, run `eddy worker --drain` with the worker's options until it ends.

    \b
    Examples:
      eddy topics repair --broker localhost:9092 --group eddy
      eddy topics repair --broker localhost:9092 --group eddy --apply
      eddy topics repair --partitioner murmur2 --apply
    """
    from stream.repair.repair import repair_topics

    topics = take_topics(given)
    done = repair_topics(
        broker,
        read_kafka_config(kafka_config, os.environ),
        group,
        topics,
        partitioner,
        clicks,
        accept_lost_rows,
        apply_it,
        lambda line: click.echo(line, err=True),
    )
    click.echo(json.dumps(done) if as_json else "\n".join(_lines(done)))


def _lines(done: dict[str, Any]) -> list[str]:
    """The plan for a person: one line per partition that changes."""
    lines = [
        f"{name}: continue at offset {one['offset']} (was {'none' if one['committed'] is None else one['committed']}); "
        f"users={one['users']} arrived={one['arrived']} left={one['left']} merged={one['merged']} "
        f"broken={one['broken']}; {one['why']}"
        for name, one in done["partitions"].items()
        if one["changed"]
    ]
    if done["partitions_before"] < done["partitions_now"]:
        lines.append(
            f"partitions: {done['partitions_before']} -> {done['partitions_now']}, partitioner: "
            f"{done['partitioner'] or 'none, no row moves'}"
        )
    if not lines and not done["grow"]:
        return ["nothing to repair: offsets, states and partitions belong together"]
    return [*lines, "repaired" if done["applied"] else "nothing was changed; add --apply to change it"]
