"""The command `eddy forget`: asks the workers to delete the states of users."""

import json
import os
from pathlib import Path

import click

from stream.errors import ConfigError
from stream.kafka_config import read_kafka_config
from stream.log_lines import counted
from stream.ops.options import connection_options, topic_option
from stream.ops.text import read_ids
from stream.wire.fields import LONGEST_ID, Unusable, word


@click.command()
@click.argument("users", metavar="[USER]...", nargs=-1)
@click.option("--file", "path", type=click.Path(path_type=Path), help="A file with one user id a line, in UTF-8.")
@connection_options
@topic_option("clicks")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def forget(
    users: tuple[str, ...], path: Path | None, broker: str, kafka_config: str, clicks_topic: str, as_json: bool
) -> None:
    """Delete the states of users.

    The command writes a request for each USER to every partition of the clicks topic. A worker that reaches it deletes
    the user's state, in memory and in the changelog (a tombstone). Clicks before the request are decided first; a
    click after it is one of a new user. Workers may run or start later. With --pseudonymise, give the raw ids. If the
    workers re-key the clicks, --clicks-topic is the topic that the producers write.

    What it does not delete: messages on the clicks topic and on the output topics, also triggers. Kafka deletes these
    by the topics' retention. docs/operations.md lists what is where.

    \b
    Examples:
      eddy forget u17
      eddy forget --file users.txt --broker k1:9092 --kafka-config client.properties
    """
    from stream.answers.admin import request_to_forget
    from stream.rekey.topic import by_user

    given = [*users, *([] if path is None else read_ids(path, "--file"))]
    keys = list(dict.fromkeys(_key(user) for user in given))
    if not keys:
        raise click.UsageError("no user: give USER or --file.")
    odd = [user for user in given if user != user.strip() or user[0] + user[-1] in QUOTES]
    if odd:
        click.echo(
            f"warning: {counted(len(odd), 'id')} with a blank or quotes around it, such as {odd[0]!r}, which are part "
            "of the id here: if the clicks do not have them, another user is meant, and the state stays",
            err=True,
        )
    config = read_kafka_config(kafka_config, os.environ)
    with click.progressbar(keys, label=f"writing to {clicks_topic}", file=click.get_text_stream("stderr")) as bar:
        partitions = request_to_forget(broker, clicks_topic, config, bar)
    if clicks_topic.endswith(by_user("")):
        source = clicks_topic.removesuffix(by_user(""))
        click.echo(
            f"warning: {clicks_topic} has the name of a topic of re-keyed copies. Clicks that are copied after these "
            f"requests begin a new state of the user. If workers re-key {source}, give --clicks-topic {source}, too",
            err=True,
        )
    done = {"topic": clicks_topic, "users": len(keys), "partitions": partitions}
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(
        f"requests about {counted(len(keys), 'user')} written to {counted(partitions, 'partition')} of {clicks_topic}. "
        "The workers delete the states when they reach them."
    )


QUOTES = ('""', "''")
"""What a program may write around a text."""


def _key(user: str) -> bytes:
    """The message key of a user. Raises ConfigError if it cannot be a user id."""
    try:
        read = word(user, LONGEST_ID)
        if read is not None:
            return read.encode()
        why = "empty"
    except ValueError as exc:  # Unusable, or half of a surrogate pair
        why = str(exc) if isinstance(exc, Unusable) else "not UTF-8"
    raise ConfigError(f"user {user[:64]!r} is {why}: no click can have this user id")
