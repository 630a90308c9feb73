"""The commands `eddy triggers check` and `eddy triggers report`."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stream.kafka_config import read_kafka_config
from stream.log_lines import counted, printable
from stream.manifest import read_manifest
from stream.ops.options import connection_options, setting_option, topic_option
from stream.ops.text import Nearest, messages_shown

if TYPE_CHECKING:
    from stream.uplift.estimate import Difference
    from stream.uplift.outcomes import Effect


@click.group(cls=Nearest)
def triggers() -> None:
    """Check the rules for marketing, and report what they have caused.

    \b
    Examples:
      eddy triggers check triggers.toml
      eddy triggers report --broker localhost:9092 --triggers triggers.toml
    """


@triggers.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--model", type=click.Path(path_type=Path), help="Also check that this model knows what the rules ask for."
)
@setting_option("lists")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: rule -> what it does.")
def check(file: Path, model: Path | None, lists: str, as_json: bool) -> None:
    """Check a FILE of rules and print each of them in words. A mistake is an error with exit code 2.

    With --model, also that the model knows the event types and predicts what the rules ask for. A worker checks both at
    its start.

    \b
    Examples:
      eddy triggers check triggers.toml
      eddy triggers check triggers.toml --model models/demo/1
    """
    from stream.triggers.parse import open_triggers, read_triggers

    rules = read_triggers(file) if model is None else open_triggers(str(file), read_manifest(model), lists)
    if as_json:
        click.echo(json.dumps({rule.name: rule.in_words() for rule in rules}))
        return
    for rule in rules:
        click.echo(f"{rule.name}: {rule.in_words()}")


@triggers.command(short_help="Compare treated users with the control group.")
@connection_options
@setting_option("triggers")
@topic_option("triggers")
@topic_option("sessions")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: rule -> its figures.")
def report(
    broker: str, kafka_config: str, triggers: str, triggers_topic: str, sessions_topic: str, as_json: bool
) -> None:
    """Compare the users who were treated with the control group, for each rule.

    For each user the first trigger of a rule counts. The outcome is a session that begins after it, within the rule's
    window, with an event of the rule's outcome; both are those of --triggers, or a purchase within 7d. A user whose
    window is not over is left out. The topics must reach back to the first trigger.

    \b
    Examples:
      eddy triggers report --broker localhost:9092 --triggers triggers.toml
      eddy triggers report --json
    """
    from stream.access.rights import check_access
    from stream.triggers.parse import read_triggers
    from stream.triggers.rules import Rule
    from stream.uplift.outcomes import ClosedSessions, effect, first_triggers

    known = {rule.name: rule for rule in (read_triggers(Path(triggers)) if triggers else ())}
    config = read_kafka_config(kafka_config, os.environ)
    check_access(broker, config, reads=[triggers_topic, sessions_topic])
    firsts, left_out = first_triggers(messages_shown(broker, triggers_topic, config))
    sessions = ClosedSessions(frozenset(user for users in firsts.values() for user in users))
    sessions.read(messages_shown(broker, sessions_topic, config))
    rules = {**{name: Rule(name, "") for name in firsts}, **known}
    effects = [effect(rule, firsts.get(name, {}), sessions) for name, rule in sorted(rules.items())]
    if left_out + sessions.left_out:
        said = f"{left_out + sessions.left_out:,} messages left out: they are no triggers or sessions of this version"
        click.echo(said, err=True)
    if as_json:
        click.echo(json.dumps({one.rule.name: _as_json(one) for one in effects}))
        return
    for one in effects:
        click.echo("\n".join(_lines(one)))
    if not effects:
        click.echo(f"no triggers on topic {triggers_topic}")


def _as_json(effect: "Effect") -> dict[str, Any]:
    found = effect.estimate._asdict()
    for name in ("difference", "cuped"):
        found[name] = None if found[name] is None else found[name]._asdict()
    return {"outcome": effect.rule.outcome, "window_ms": effect.rule.window_ms, **found, "waiting": effect.waiting}


def _lines(effect: "Effect") -> list[str]:
    from stream.triggers.rules import duration
    from stream.uplift.estimate import FEWEST

    found, rule = effect.estimate, effect.rule
    lines = [f"{printable(rule.name)}: {rule.outcome} within {duration(rule.window_ms)}"]
    if not found.treated + found.control + effect.waiting:
        return [*lines, "  no trigger of this rule"]
    for name, users, share in (
        ("treated", found.treated, found.treated_share),
        ("control", found.control, found.control_share),
    ):
        lines.append(
            f"  {name}: {counted(users, 'user')}" + ("" if share is None else f", {share:.2%} with the outcome")
        )
    if effect.waiting:
        lines.append(f"  not counted yet, because the window is not over: {counted(effect.waiting, 'user')}")
    if rule.kind and not rule.control and not found.control:  # without --triggers the rule has no kind
        return [*lines, "  nothing to compare with: the rule has no control group, such as control = 0.1"]
    if found.difference is None:
        return [*lines, f"  too few users for a difference: each group needs {FEWEST}"]
    lines.append(f"  difference: {_interval(found.difference)}")
    if found.cuped is not None:
        left = f"the history leaves {found.variance:.0%} of the variance"
        lines.append(f"  by CUPED: {_interval(found.cuped)}; {left}")
    return lines


def _interval(one: "Difference") -> str:
    shown = [f"{100 * value:+.2f}" for value in one]
    return f"{shown[0]} points (95 %: {shown[1]} to {shown[2]})"
