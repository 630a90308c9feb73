"""Settings as command-line options: every field of Settings becomes one option.

Name, type and default of an option come from Settings; this module adds the help texts. The option of a topic is
`--<name>-topic`. Every option also has its environment variable (`stream.settings.variable`) and its line in the
settings file: an option precedes a variable, and a variable the file.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from stream.environment import FILE_VARIABLE, parse, read_file
from stream.settings import CHOICES, Rules, Settings, Topics, variable

HELP = {
    "model": "Directory written by `eddy train`, .../NAME/VERSION.",
    "mapping": "File that defines how events are read as clicks; `eddy init` writes one. "
    "Empty: the model's own mapping, if it was trained with one.",
    "broker": "Kafka brokers, as host:port[,host:port...].",
    "kafka_config": "File of Kafka properties for TLS and SASL, NAME=VALUE lines. A variable such as "
    "EDDY_KAFKA_SASL_PASSWORD replaces a line.",
    "schema_registry": "Schema Registry of a topic in Avro or Protobuf, as http(s)://HOST:PORT[/PATH]. Its password "
    "and certificates are schema.registry.* in --kafka-config.",
    "pseudonymise": "File with a secret key: user ids become keyed hashes in outputs, dead letters and states.",
    "group": "Consumer group. Workers of one group share the partitions.",
    "worker_id": "Name of the worker, unique in the group. A restarted worker needs the same one. "
    "Empty: the worker takes a free number, with a lock file in --data-dir.",
    "data_dir": "Directory of the lock files of worker ids, and of the file of --state-on-disk.",
    "device": "auto: the GPU if there is one, else the CPU. cuda: refuse to start without a GPU. cpu: the CPU.",
    "k": "Recommendations per click.",
    "lists": "every: a list for each click. last: only for a user's last click in a transaction; the decisions on the "
    "user's other clicks name it.",
    "exclude_recent": "Do not recommend the items of the user's last N clicks. 0: exclude nothing.",
    "alpha": "For experts: alert when the p-value of a click is at most this, the nominal share of sessions with a "
    "false alert. 0: by --false-alarms.",
    "false_alarms": "How many sessions may have a false alert: 1/10000 is one in 10,000 sessions, and the value if "
    "neither this nor --alpha is given.",
    "max_future_s": "A click that is more seconds ahead of the worker's clock and of Kafka's timestamp of its "
    "message is a dead letter.",
    "max_message_bytes": "A longer message is a dead letter.",
    "max_cycle_clicks": "Largest number of clicks in one transaction. A larger value raises throughput and latency.",
    "session_timeout_s": "A worker that sends no heartbeat for so many seconds loses its partitions.",
    "forget_after_days": "Days without a click after which a user's state is deleted, a third of it after a single "
    "click. 0: never.",
    "state_on_disk": "Keep the users' states in a file in --data-dir, of which memory holds what is used: for states "
    "larger than memory. Linux, on ext4 or xfs.",
    "stay_in_group": "On SIGTERM keep the partitions for a restart under the same --worker-id within "
    "--session-timeout-s. Without it the other workers take them at once.",
    "drain": "Decide the clicks that are there now and end with 0: before `eddy topics repair`, after partitions were "
    "added.",
    "start_at": "Where a new group begins. undecided: after the clicks that another group has decided into the same "
    "--recommendations-topic, else at the earliest. earliest, latest, or a time such as 2026-11-01T00:00:00.",
    "hang_s": "A producer is replaced if a call takes more seconds while Kafka answers.",
    "http_port": "Port of the page for a person, /metrics, /livez and /readyz. 0: none.",
    "http_host": "Address of this port. It has no passwords: by default only this machine reaches it.",
    "http_answers": "Answer requests about users on this port: recommendations, state, similar items. Whoever reaches "
    "the port can then read the states of all users.",
    "http_advertise": "host:port at which the other workers of the group reach this port, to pass on requests.",
    "http_token_file": "File with the token that a request to forget a user needs. Empty: they are refused.",
    "otlp_endpoint": "Send traces to this OpenTelemetry collector, by OTLP over HTTP: http(s)://HOST:PORT. Variables "
    "OTEL_* work as usual. Empty: no traces.",
    "triggers": "File of the shop's rules for marketing: when a trigger is written for a user. Empty: none is.",
    "log_format": "text, or json: one JSON object a line.",
}
RULE_HELP = {
    "exclude_events": "Event types, as purchase,cart: do not recommend the user's last 16 items with such an event.",
    "readmit_events": "Event types that allow such an item again, such as remove_from_cart.",
    "catalogue": "File of items, .jsonl or .csv, with item_id, category, in_stock or available, and the columns of "
    "--only. The worker reads it again when it changes.",
    "only": "Recommend only items with these values in the catalogue: 'category=shoes,boots; market=de'.",
    "only_available": "Recommend only items that are in the catalogue and not out of stock there.",
    "same_category": "Recommend only items of the click's category.",
    "max_per_category": "Largest number of items of one category in a list. 0: no limit.",
    "diversity": "MMR: subtract D / (1 - D) nats from an item whose category is already in the list. 0: off.",
    "popular_if_unknown": "A user whose last 16 items are all unknown to the model gets the list of a new user.",
    "explore": "Share of the slots that are filled at random from the next best items. The propensities are written.",
    "explore_seed": "Seed of the exploration.",
}
TOPIC_HELP = {
    "clicks": "Topic of the clicks.",
    "recommendations": "Topic of the recommendations: one per click.",
    "anomalies": "Topic of the alerts.",
    "dead_letters": "Topic of the messages that are not valid clicks, each with the reason.",
    "changelog": "Compacted topic of the users' states, with as many partitions as the clicks topic.",
    "system_alerts": "Topic of the alerts on many users at once.",
    "sessions": "Topic of the starts and ends of sessions.",
    "triggers": "Topic of the triggers for marketing; only with --triggers.",
    "behaviour": "Topic of what users do by the hour. Empty: it is not written.",
}

FILE = "settings file"
"""The source of a value in it."""

Command = Callable[..., None]


def _use_file(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    """Let the values of the settings file be the defaults of the command's options."""
    if path:
        ctx.default_map = read_file(Path(path))


settings_file_option = click.option(
    "--settings",
    envvar=FILE_VARIABLE,
    metavar="FILE",
    is_eager=True,  # read before the options that it has defaults for
    expose_value=False,
    callback=_use_file,
    help="TOML file of settings, such as broker = 'k1:9092'; an option or a variable precedes it.",
)


def connection_options(command: Command) -> Command:
    """Add the options of every command that connects to Kafka: the settings file, the brokers and their properties."""
    return settings_file_option(setting_option("broker")(setting_option("kafka_config")(command)))


def mapping_option(command: Command) -> Command:
    """Add the mapping to a command that has to know which topics a worker needs. Empty: the model's, as of a worker."""
    text = "Mapping file of the workers. With rekey = true in it, they also need the topic of the re-keyed clicks."
    own = "Model of the workers. Its mapping is used if --mapping is not given."
    mapping = click.option("--mapping", envvar=variable("mapping"), default="", callback=_or_of_model, help=text)
    model = click.option("--model", envvar=variable("model"), default="", expose_value=False, callback=_keep, help=own)
    return model(mapping(command))  # without --mapping, click calls `_keep` first


def _keep(ctx: click.Context, option: click.Parameter, value: str) -> None:
    ctx.meta[str(option.name)] = value


def _or_of_model(ctx: click.Context, _: click.Parameter, mapping: str) -> str:
    own = Path(ctx.meta.get("model", "")) / "mapping.toml"
    return mapping or (str(own) if ctx.meta.get("model") and own.is_file() else "")


def topic_options(command: Command) -> Command:
    """Add the options of all topics to a command; `take_topics` makes Topics from their values."""
    for field in reversed(msgspec.structs.fields(Topics)):
        command = topic_option(field.name)(command)
    return command


def topic_option(field: str) -> Callable[[Command], Command]:
    """The worker's option of one field of Topics; the parameter is FIELD_topic."""
    name = f"{field}_topic"
    return click.option(
        _flag(name),
        name,
        envvar=variable(name),
        default=getattr(Topics(), field),
        show_default=True,
        help=TOPIC_HELP[field],
    )


def clicks_topic_option(purpose: str, default: str | None = Topics().clicks) -> Callable[[Command], Command]:
    """The option --topic of a command with no other topic than the clicks, or --clicks-topic. purpose: a verb"""
    return click.option(
        "--topic",
        "--clicks-topic",
        "clicks_topic",
        envvar=variable("clicks_topic"),
        default=default,
        show_default=default is not None,
        help=f"Topic to {purpose}: that of the worker's clicks.",
    )


def rule_options(command: Command) -> Command:
    """Add every field of Rules to a command as an option; `take_rules` makes Rules from their values."""
    for field in reversed(msgspec.structs.fields(Rules)):
        command = _option(field, RULE_HELP[field.name])(command)
    return command


def worker_options(command: Command) -> Command:
    """Add every field of Settings to a command as an option; `take_settings` makes Settings from their values."""
    command = rule_options(topic_options(command))
    for field in reversed(msgspec.structs.fields(Settings)):
        if field.name not in ("topics", "rules"):
            command = _option(field, HELP[field.name])(command)
    return settings_file_option(command)


def setting_option(name: str) -> Callable[[Command], Command]:
    """The worker's option of one field of Settings, for a different command: same default, variable and parser."""
    field = next(field for field in msgspec.structs.fields(Settings) if field.name == name)
    return _option(field, HELP[name])


def take_topics(given: dict[str, Any]) -> Topics:
    """Remove the topics from a command's keyword arguments and return them as Topics."""
    return Topics(**{name: given.pop(f"{name}_topic") for name in Topics.__struct_fields__})


def take_rules(given: dict[str, Any]) -> Rules:
    """Remove the rules from a command's keyword arguments and return them as Rules. Raises ConfigError."""
    return Rules(**{name: given.pop(name) for name in Rules.__struct_fields__})


def take_settings(given: dict[str, Any]) -> Settings:
    """Make Settings from the keyword arguments of a command with `worker_options`. Raises ConfigError."""
    topics, rules = take_topics(given), take_rules(given)
    return Settings(topics=topics, rules=rules, **given)


def source_of(param: click.Parameter, ctx: click.Context) -> str:
    """Where the value of a parameter comes from: "--k", "EDDY_K", "settings file" or "default"."""
    assert param.name is not None
    match ctx.get_parameter_source(param.name):
        case ParameterSource.ENVIRONMENT:
            return variable(param.name)
        case ParameterSource.DEFAULT_MAP:
            return FILE
        case ParameterSource.DEFAULT:
            return "default"
    return _flag(param.name)


class Typed(click.ParamType):
    """The click type of a field. It uses `stream.environment.parse`, so an option and its variable have one syntax."""

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self.name = {int: "integer", float: "float"}.get(kind, "text")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a value. Raises ConfigError with one line that names the option or the variable of the value."""
        if not isinstance(value, str) or param is None or ctx is None:
            return value  # a default
        source = source_of(param, ctx)
        return parse(self._kind, value, f"{param.name} in the settings file" if source == FILE else source)


class TypedFlag(Typed, click.types.BoolParamType):
    """The click type of a flag. click recognises a flag by the base class BoolParamType."""


def _option(field: Any, text: str) -> Callable[[Command], Command]:
    """The option of one field; it is required if the field has no default."""
    required = field.default is msgspec.NODEFAULT
    flag = field.type is bool
    default = {} if required else {"default": field.default}
    return click.option(
        _flag(field.name),
        envvar=variable(field.name),
        type=TypedFlag(bool) if flag else Typed(field.type),
        metavar=f"[{'|'.join(CHOICES[field.name])}]" if field.name in CHOICES else None,
        is_flag=flag,
        required=required,
        show_default=not required and not flag and field.default != "",
        help=text,
        **default,
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@click.command()
@worker_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: setting -> value and source.")
@click.pass_context
def config(ctx: click.Context, /, as_json: bool, **given: Any) -> None:
    """Print the settings that a worker with these options would have, and where each comes from.

    Nothing is started, and no file but the settings file is read. A value that a worker would refuse is an error here
    too. The properties of the Kafka connection (EDDY_KAFKA_..., --kafka-config) are not printed: they hold passwords.

    \b
    Examples:
      eddy config --settings eddy.toml
      EDDY_BROKER=k1:9092 eddy config --settings eddy.toml --k 30 --json
    """
    rows = {
        param.name: {"value": given[param.name], "source": source_of(param, ctx)}
        for param in ctx.command.params
        if param.name in given
    }
    take_settings({**given, "model": given["model"] or "none"})  # raises what a worker would
    if as_json:
        click.echo(json.dumps(rows))
        return
    wide = max(map(len, rows))
    for name, row in rows.items():
        value = "" if row["value"] is None else row["value"]
        shown = str(value).lower() if isinstance(value, bool) else str(value)  # as in a settings file
        click.echo(f"{name:<{wide}}  {shown:<28}  {row['source']}".rstrip())


for _parameter in config.params:
    _parameter.required = False  # without a model the other settings can be looked at
