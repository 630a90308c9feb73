"""The options that all commands of `eddy sink` share, and that of a server's URL."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from stream.errors import ConfigError
from stream.ops.options import connection_options, setting_option, topic_option
from stream.outputs import IN_AVRO
from stream.start_at import LATEST, UNDECIDED, start_time_ms

URL_VARIABLE = "EDDY_SINK_URL"

Command = Callable[..., None]


class _Outputs(click.ParamType):
    """Names of outputs, separated by commas."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(filter(None, (word.strip() for word in str(value).split(",")))))
        if not names or set(names) - set(IN_AVRO):
            self.fail(f"{value!r} is not one or several of {','.join(IN_AVRO)}.", param, ctx)
        return names


def sink_options(command: Command) -> Command:
    """Add the options of the sinks that keep a copy; `copy` takes their values."""
    return options_of(command, "recommendations,anomalies")


def options_of(command: Command, outputs: str) -> Command:
    """Add the options of all sinks. outputs: those that are read by default"""
    options: tuple[Callable[[Command], Command], ...] = (
        click.option("--json", "as_json", is_flag=True, help="Print the figures at the end as one JSON object."),
        setting_option("log_format"),
        click.option(
            "--once",
            is_flag=True,
            help="End when all is written that the topics hold at the start, or with an error if Kafka or the place "
            "does not answer for 60 s. Without it the command waits.",
        ),
        *(topic_option(name.replace("-", "_")) for name in reversed(IN_AVRO)),
        click.option(
            "--topics",
            "outputs",
            type=_Outputs(),
            default=outputs,
            show_default=True,
            help=f"What to read, of {','.join(IN_AVRO)}.",
        ),
        connection_options,
    )
    for option in options:
        command = option(command)
    return command


def sources(given: Mapping[str, Any]) -> dict[str, str]:
    """Topic -> name of its output, by the values of `sink_options`. Raises ConfigError if two have the same topic."""
    outputs = given["outputs"]
    names = {given[f"{output.replace('-', '_')}_topic"]: output for output in outputs}
    if "" in names:
        raise ConfigError(f"the topic of {names['']} has no name; give --{names['']}-topic as the workers have it")
    if len(names) < len(outputs):
        raise ConfigError("two of the topics have the same name; each output has a topic of its own")
    return names


url_option = click.option(
    "--url", envvar=URL_VARIABLE, required=True, help="URL of the server. Give one with a password in EDDY_SINK_URL."
)


def given_url(ctx: click.Context, text: str) -> Any:
    """The URL; with a warning if it has a password that other users of this machine can read."""
    from stream.places.url import Url

    url = Url(text)
    if url.has_password and ctx.get_parameter_source("url") is ParameterSource.COMMANDLINE:
        click.echo(
            f"eddy: WARNING: other users can read the password in --url in the list of processes; use {URL_VARIABLE}",
            err=True,
        )
    return url


def _begins(ctx: click.Context, param: click.Parameter, value: str) -> str:
    with suppress(ConfigError):
        start_time_ms(value)
        if value != UNDECIDED:
            return value
    raise click.BadParameter(f"{value!r} is not earliest, latest or a time such as 2026-11-01T00:00:00.", ctx, param)


def webhook_options(command: Command) -> Command:
    """Add the options of `eddy sink webhook`. The names of the values are none of a settings file, which has the group
    of the workers."""
    options: tuple[Callable[[Command], Command], ...] = (
        lambda command: options_of(command, "anomalies"),
        click.option(
            "--start-at",
            "begins",
            default=LATEST,
            show_default=True,
            callback=_begins,
            help="Where a new group begins: earliest, latest, or a time such as 2026-11-01T00:00:00.",
        ),
        click.option(
            "--group",
            "of_group",
            default="eddy-sink-webhook",
            show_default=True,
            help="Consumer group that keeps what was posted. Each receiver needs one of its own.",
        ),
        click.option(
            "--most-per-minute",
            type=click.IntRange(1),
            help="With slack: a message more than these names how many there were beside them.  [default: 20]",
        ),
        click.option(
            "--only-opened/--every-alert",
            default=None,
            help="Post only the alert that opens an episode, or each one.  [default: with slack --only-opened]",
        ),
        click.option(
            "--format",
            "form",
            type=click.Choice(["json", "slack"]),
            default="json",
            show_default=True,
            help="json: the event as it is on the topic. slack: a line for Slack, Mattermost or Rocket.Chat.",
        ),
        click.option(
            "--url-file",
            type=click.Path(path_type=Path),
            envvar=f"{URL_VARIABLE}_FILE",
            help="File with the URL, which is a secret.",
        ),
        click.option("--url", envvar=URL_VARIABLE, help="URL of the webhook. Better give it in EDDY_SINK_URL."),
    )
    for option in options:
        command = option(command)
    return command


def secret_url(ctx: click.Context, url: str | None, file: Path | None) -> str:
    """The URL of a webhook; with a warning if other users of this machine can read it. Raises ConfigError."""
    given = ParameterSource.COMMANDLINE
    if ctx.get_parameter_source("url") is given and ctx.get_parameter_source("url_file") is given:
        raise click.UsageError("--url and --url-file both name the webhook: give one of them.")
    if url is not None and ctx.get_parameter_source("url") is given:
        click.echo(
            f"eddy: WARNING: other users can read --url in the list of processes, and the URL is a secret; use "
            f"--url-file or {URL_VARIABLE}",
            err=True,
        )
    elif url is not None and file is not None and ctx.get_parameter_source("url_file") is given:
        url = None  # an option precedes a variable
    if url is not None:
        return url.strip()
    if file is None:
        raise click.UsageError(f"no URL: give --url-file, {URL_VARIABLE} or --url.")
    try:
        return file.read_text(encoding="utf-8-sig").strip()
    except OSError as exc:
        raise ConfigError(f"--url-file {file} cannot be read ({exc.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--url-file {file} is no text with a URL") from None
