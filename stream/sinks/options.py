"""The options that all commands of `eddy sink` share, and that of a server's URL."""

from collections.abc import Callable, Mapping
from typing import Any

import click
from click.core import ParameterSource

from stream.errors import ConfigError
from stream.ops.options import connection_options, setting_option, topic_option
from stream.outputs import IN_AVRO

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
    """Add the options of all sinks; `copy` takes their values."""
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
            default="recommendations,anomalies",
            show_default=True,
            help=f"What to copy, of {','.join(IN_AVRO)}.",
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
