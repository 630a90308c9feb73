"""The command `eddy`: turns options into Settings and calls the command; prints every error as one line.

Exit codes:

    0    success
    1    a bug in Eddy; EDDY_TRACEBACK=1 prints the stack trace
    2    an error that the operator can correct: EddyError, a wrong option, a missing extra, a full disk
    70   only `eddy worker`: it crashed or lost its partitions; start it again
    130  Ctrl-C

`eddy --help` imports no heavy module: the commands of other packages are entry points, loaded when called.
"""

import errno
import json
import os
import signal
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn

import click

from stream import DISTRIBUTION
from stream.environment import check_unknown
from stream.errors import EddyError
from stream.kafka_config import read_kafka_config
from stream.log_lines import last_line, open_streams
from stream.ops.dead_letters import dead_letters
from stream.ops.explain import explain
from stream.ops.feedback import calibrate, feedback, feedback_topic_option
from stream.ops.forget import forget
from stream.ops.options import (
    config,
    connection_options,
    mapping_option,
    setting_option,
    take_settings,
    take_topics,
    topic_options,
    worker_options,
)
from stream.ops.repair import repair
from stream.ops.text import Nearest, missing_module

MOUNTED = {
    "demo": "Show Eddy on a simulated shop, live in the terminal.",
    "init": "Look at a sample of events and write a mapping of its fields.",
    "train": "Train a model on a click log and convert it to ONNX.",
    "evaluate": "Compare a model with baselines on a click log: recall, MRR.",
    "paths": "Show how the sessions of a click log go: funnel, paths, loops.",
    "replay": "Publish a click log to Kafka, keyed by user.",
    "record": "Write the clicks of a topic to a log: the opposite of replay.",
    "sink": "Copy recommendations and alerts from Kafka to Redis, PostgreSQL, Parquet, Avro or a webhook.",
    "state": "Write the states of all users to Parquet files, or restore them.",
    "schema": "Print the JSON Schema of the messages of an output topic.",
    "triggers": "Check the rules for marketing, and report what they have caused.",
}
"""The help line of each mounted command. It is here so that `eddy --help` does not import the command."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}
"""Error numbers of a full, read-only or broken disk. They are no bug in Eddy."""

EPILOG = """\b
From a click log to recommendations:
  eddy demo                                              # no Kafka needed
  eddy train clicks.parquet --out models/mine/1
  eddy topics create --broker localhost:9092 --partitions 8
  eddy worker --model models/mine/1 --broker localhost:9092
  eddy replay clicks.parquet --broker localhost:9092 --speed max
If your events have other fields than Eddy's, begin with eddy init.

Each option of a worker is also an environment variable: EDDY_BROKER, EDDY_MODEL ..."""

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, keyed by topic.")


class Commands(Nearest):
    """The command group: Eddy's own commands, and those of the entry points `eddy.commands`, loaded when called."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse variables with mistyped names, and warn of others that nothing reads.

        Help and the completion of a shell work with any variables.
        """
        helps = ctx.resilient_parsing or not {"-h", "--help"}.isdisjoint(args)
        rest = super().parse_args(ctx, args)
        if not helps:
            for line in check_unknown(os.environ):
                click.echo(f"eddy: WARNING: {line}", err=True)
        return rest

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_mounted()})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        own = super().get_command(ctx, name)
        if own is not None or name not in _mounted():
            return own
        command = _mounted()[name].load()
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self._summary(name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def _summary(self, name: str) -> str:
        if name in self.commands:
            return self.commands[name].get_short_help_str(limit=100)
        return MOUNTED.get(name, f"From {_mounted()[name].module}.")


def _mounted() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group="eddy.commands")}


@click.group(
    cls=Commands, epilog=EPILOG, context_settings={"max_content_width": 110, "help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name=DISTRIBUTION, prog_name="eddy")
def eddy() -> None:
    """Recommend items and report anomalies in a shop's clickstream, with one recurrent state per user in Kafka."""


for _command in (forget, dead_letters, explain, feedback, calibrate, config):
    eddy.add_command(_command)


@eddy.command()
@worker_options
def worker(**given: Any) -> None:
    """Turn clicks into recommendations and anomalies.

    The worker reads the clicks topic and updates the state of each user. In one Kafka transaction per cycle it writes
    one recommendation per click, the alerts, the dead letters and the users' states. Start more workers with the
    same --group to share the partitions. Stop a worker with Ctrl-C or SIGTERM. Always start it again with the same
    --worker-id. Exit code 2: correct the error that is printed. Exit code 70: start the worker again.

    \b
    Examples:
      eddy worker --model models/mine/1
      eddy worker --model models/mine/1 --broker k1:9092,k2:9092 --worker-id 0 --device cuda
      EDDY_MODEL=models/mine/1 EDDY_BROKER=k1:9092 eddy worker
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)  # there is nothing to finish before Faust starts, which has its own handlers
    settings = take_settings(given)
    from stream.process import check_address_space, end_process
    from stream.worker.app import run_worker  # here, because Faust takes a second to import and --help needs none of it

    check_address_space()
    end_process(run_worker(settings))


def _end(number: int, _: Any) -> NoReturn:
    last_line(f"eddy: ended before the start by {signal.Signals(number).name}")
    os._exit(0)


@eddy.group(cls=Nearest)
def topics() -> None:
    """Create, check or repair the topics of a worker.

    \b
    Examples:
      eddy topics create --broker localhost:9092 --partitions 8 --replication 3
      eddy topics check --broker localhost:9092
      eddy topics repair --broker localhost:9092 --group eddy
    """


topics.add_command(repair)


@topics.command()
@connection_options
@click.option(
    "--partitions",
    type=click.IntRange(1, 10_000),
    default=8,
    show_default=True,
    help="Partitions of the clicks and of the changelog: the largest number of workers that can share the work.",
)
@click.option(
    "--replication",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Copies of each partition. Use 3 with three or more brokers.",
)
@mapping_option
@topic_options
@feedback_topic_option
@JSON_OPTION
def create(
    broker: str,
    kafka_config: str,
    partitions: int,
    replication: int,
    mapping: str,
    feedback_topic: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Create the missing topics and check the existing ones.

    With a --mapping that has rekey = true, the topic of the re-keyed clicks is one of them.

    \b
    Example:
      eddy topics create --broker localhost:9092 --partitions 8 --replication 3
    """
    from stream.rekey.topic import create

    config = read_kafka_config(kafka_config, os.environ)
    done = create(broker, take_topics(given), mapping, partitions, replication, config, feedback_topic)
    if as_json:
        click.echo(json.dumps(done))
        return
    for name, outcome in done.items():
        click.echo(f"{name}: {outcome}")


@topics.command(short_help="Check the topics as a worker does before it starts.")
@connection_options
@mapping_option
@setting_option("triggers")
@topic_options
@JSON_OPTION
def check(broker: str, kafka_config: str, mapping: str, triggers: str, as_json: bool, **given: Any) -> None:
    """Check the topics: exit with code 2 and print the error if a worker would refuse to start.
    The topic of the triggers is checked only with --triggers: other workers do not write it.

    \b
    Example:
      eddy topics check --broker localhost:9092 --clicks-topic shop-clicks
    """
    from stream.rekey.topic import check_all

    found = check_all(broker, take_topics(given).used(triggers), mapping, read_kafka_config(kafka_config, os.environ))
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, partitions in found.items():
        click.echo(f"{name}: {partitions} partitions")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run `eddy` and exit the process. Every error becomes one line; this is the program's only broad `except`."""
    try:
        open_streams()
        code = eddy.main(args=arguments, prog_name="eddy", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as exc:
        click.echo(exc.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as exc:
        path = exc.ctx.command_path if exc.ctx else "eddy"
        _fail(f"{path}: {exc.format_message().removesuffix('.')}. See `{path} --help`.".replace("?. See", "? See"))
    except click.ClickException as exc:
        _fail(f"eddy: {exc.format_message()}")
    except EddyError as exc:
        _fail(f"eddy: {exc}")
    except ImportError as exc:
        _fail(f"eddy: {missing_module(exc)}")
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except Exception as exc:
        if os.environ.get("EDDY_TRACEBACK"):
            raise
        if isinstance(exc, OSError) and exc.errno in FULL:
            _fail(f"eddy: a file cannot be written ({exc}); free disk space there or under TMPDIR, and try again")
        _fail(f"eddy: a bug in Eddy: {type(exc).__name__}: {exc} (EDDY_TRACEBACK=1 prints the stack trace)", 1)


def _fail(line: str, code: int = 2) -> NoReturn:
    last_line(" ".join(line.split()))
    sys.exit(code)


if __name__ == "__main__":
    main()
