"""Settings as command-line options: one option per field, made from the fields, so that none can be missing.

Name, type and default come from Settings; only the help stands here. A topic's option is `--<name>-topic`, and every
option reads its environment variable too (`stream.settings.variable`), so that `faust -A` and `eddy worker` agree.
"""

from collections.abc import Callable
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from stream.settings import DEVICES, Rules, Settings, Topics, parse, variable

HELP = {
    "model": "Directory written by `eddy train`, .../NAME/VERSION.",
    "broker": "Kafka, as host:port[,host:port...].",
    "group": "Consumer group. Workers of one group share the partitions.",
    "worker_id": "Stable and unique in the group: a restarted worker must come back with the same one. "
    "Empty: a free number is claimed under --data-dir.",
    "data_dir": "Where claimed worker numbers are locked.",
    "device": "auto: a GPU if there is one; cuda: refuse to start without one; cpu.",
    "k": "Recommendations per click.",
    "exclude_recent": "Leave out the items of the user's last N clicks; 0 leaves none out.",
    "alpha": "Alert when a click's p-value is at or below this: the promised false-alarm rate per click.",
    "max_future_s": "Seconds a click may lie ahead of the worker's clock before it is a dead letter.",
    "max_message_bytes": "A longer message is a dead letter.",
    "max_cycle_clicks": "Clicks in one transaction: more is faster, but each waits longer.",
    "session_timeout_s": "Seconds of silence after which a worker loses its partitions.",
    "hang_s": "Seconds after which a Kafka call that has not returned ends the process.",
}
RULE_HELP = {
    "exclude_events": "Event types, as purchase,cart: leave out the user's last 16 items that came by one of them.",
    "readmit_events": "Event types that allow such an item again, as remove_from_cart.",
    "catalogue": "File of items, .jsonl or .csv: item_id, category, in_stock or available, what --only names. "
    "Read again when it changes.",
    "only": "Only items with these values in the catalogue: 'category=shoes,boots; market=de'.",
    "only_available": "Only items in the catalogue that it does not call out of stock.",
    "same_category": "Only items of the click's category.",
    "max_per_category": "Items of one category in a list; 0: any number.",
    "diversity": "MMR: an item whose category is in the list already counts D / (1 - D) nats less; 0: off.",
    "popular_if_unknown": "A user whose last 16 items are all unknown to the model gets a new user's list.",
    "explore": "Share of the slots filled at random from the next best items; the propensities are written.",
    "explore_seed": "Another seed explores elsewhere.",
}
TOPIC_HELP = {
    "clicks": "Topic of the clicks to read.",
    "recommendations": "Topic of the decisions: one per click.",
    "anomalies": "Topic of the alerts.",
    "dead_letters": "Topic of the messages that are no clicks, with the reason.",
    "changelog": "Compacted topic of the users' states; as many partitions as the clicks.",
}

Command = Callable[..., None]


def topic_options(command: Command) -> Command:
    """Give a command `--clicks-topic` and its siblings; `take_topics` turns them back into Topics."""
    for field in reversed(msgspec.structs.fields(Topics)):
        name = f"{field.name}_topic"
        command = click.option(
            _flag(name), envvar=variable(name), default=field.default, show_default=True, help=TOPIC_HELP[field.name]
        )(command)
    return command


def rule_options(command: Command) -> Command:
    """Give a command every field of Rules as an option; `take_rules` turns them back into Rules."""
    for field in reversed(msgspec.structs.fields(Rules)):
        command = _option(field, RULE_HELP[field.name])(command)
    return command


def worker_options(command: Command) -> Command:
    """Give a command every field of Settings as an option; `take_settings` turns them back into Settings."""
    command = rule_options(topic_options(command))
    for field in reversed(msgspec.structs.fields(Settings)):
        if field.name not in ("topics", "rules"):
            command = _option(field, HELP[field.name])(command)
    return command


def setting_option(name: str) -> Callable[[Command], Command]:
    """The worker's own option of one field of Settings, for another command: its default, variable and parser."""
    field = next(field for field in msgspec.structs.fields(Settings) if field.name == name)
    return _option(field, HELP[name])


def take_topics(given: dict[str, Any]) -> Topics:
    """Topics from a command's keyword arguments, which lose those of the topics."""
    return Topics(**{name: given.pop(f"{name}_topic") for name in Topics.__struct_fields__})


def take_rules(given: dict[str, Any]) -> Rules:
    """Rules from a command's keyword arguments, which lose those of the rules. Raises ConfigError."""
    return Rules(**{name: given.pop(name) for name in Rules.__struct_fields__})


def take_settings(given: dict[str, Any]) -> Settings:
    """Settings from the keyword arguments of a command with `worker_options`. Raises ConfigError."""
    topics, rules = take_topics(given), take_rules(given)
    return Settings(topics=topics, rules=rules, **given)


class Typed(click.ParamType):
    """A field's type for click, parsed as `stream.settings.parse` does it: an option and a variable mean the same."""

    def __init__(self, kind: type) -> None:
        self._kind = kind
        self.name = {int: "integer", float: "float"}.get(kind, "text")

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Raises ConfigError with one line that names the option, or the variable it was read from."""
        if not isinstance(value, str) or param is None or ctx is None:
            return value  # a default
        assert param.name is not None
        typed = ctx.get_parameter_source(param.name) is not ParameterSource.ENVIRONMENT
        return parse(self._kind, value, _flag(param.name) if typed else variable(param.name))


class TypedFlag(Typed, click.types.BoolParamType):
    """The same for a flag, which click knows by its base class."""


def _option(field: Any, text: str) -> Callable[[Command], Command]:
    """The option of one field: required where the field has no default."""
    required = field.default is msgspec.NODEFAULT
    flag = field.type is bool
    default = {} if required else {"default": field.default}
    return click.option(
        _flag(field.name),
        envvar=variable(field.name),
        type=TypedFlag(bool) if flag else Typed(field.type),
        metavar=f"[{'|'.join(DEVICES)}]" if field.name == "device" else None,
        is_flag=flag,
        required=required,
        show_default=not required and not flag and field.default != "",
        help=text,
        **default,
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
