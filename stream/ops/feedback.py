"""The commands `eddy feedback`, which writes what a person says of an alert, and `eddy calibrate`, which reads it."""

import json
import os
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from stream.errors import ConfigError
from stream.events import Anomaly, clicks_topic_of
from stream.feedback import Feedback
from stream.kafka_config import KafkaConfig, read_kafka_config
from stream.log_lines import printable
from stream.ops.explain import alerts_among
from stream.ops.options import connection_options, topic_option
from stream.ops.text import messages_shown, time_of
from stream.population.precision import KEEP, Precision, Report, report
from stream.settings import FEEDBACK_TOPIC, variable

OFF = "off"
DURATION = re.compile(r"(\d{1,6})\s*([mhd])")
UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
NAME_WIDTH = 16

feedback_topic_option = click.option(
    "--feedback-topic",
    envvar=variable("feedback_topic"),
    default=FEEDBACK_TOPIC,
    show_default=True,
    help="Topic of the verdicts on alerts, which `eddy feedback` writes. A worker does not use it.",
)


@click.command()
@click.argument("id_", metavar="ALERT_ID")
@click.argument("verdict", type=click.Choice(["true", "false"]))
@click.option(
    "--quiet", metavar="TIME", help="Keep alerts on the user back: for 30m, 8h or 7d from now, until a time, or off."
)
@click.option(
    "--statistic", "statistics", multiple=True, help="With --quiet: only those for this statistic. Repeatable."
)
@click.option("--by", envvar="USER", default="", help="Who gives the verdict.  [default: the variable USER]")
@click.option("--note", default="", help="Why.")
@connection_options
@topic_option("clicks")
@topic_option("anomalies")
@feedback_topic_option
@click.option("--json", "as_json", is_flag=True, help="Print the record as one JSON object.")
def feedback(
    id_: str,
    verdict: str,
    quiet: str | None,
    statistics: tuple[str, ...],
    by: str,
    note: str,
    broker: str,
    kafka_config: str,
    clicks_topic: str,
    anomalies_topic: str,
    feedback_topic: str,
    as_json: bool,
) -> None:
    """Record a verdict, true or false, on an alert on a user; keep back further ones if you want.

    The verdict is written to the feedback topic, for `eddy calibrate`. With --quiet a request is written to the clicks
    topic, too. The worker applies it between the user's clicks, in the transaction that moves its offset: until TIME,
    by the timestamps of the clicks, they open no episode and raise no alert. p-values do not change.

    \b
    Examples:
      eddy feedback clicks-3-104127 true
      eddy feedback clicks-3-104127 false --quiet 7d --note "our price monitor"
      eddy feedback clicks-3-104127 false --quiet 2026-12-31T00:00:00 --statistic rate
      eddy feedback clicks-3-104127 true --quiet off
    """
    from stream.access.rights import check_access  # here, because --help needs no Kafka client
    from stream.answers.admin import request_quiet
    from stream.wire.requests import Quieting

    now_ms = time.time_ns() // 1_000_000
    until_ms = None if quiet is None else until(quiet, now_ms)
    _check(statistics, until_ms)
    _check_texts(id_, by, note)
    config = read_kafka_config(kafka_config, os.environ)
    writes = [feedback_topic] if until_ms is None else [clicks_topic, feedback_topic]
    check_access(broker, config, reads=[anomalies_topic], writes=writes)
    alert = next((one for one in _alerts(broker, anomalies_topic, config) if one.id == id_), None)
    if alert is None:
        raise ConfigError(
            f"no alert on a user has the id {printable(id_)!r} in {anomalies_topic}; "
            "`eddy explain` lists the latest ones"
        )
    names = sorted(set(statistics))
    said = Feedback(id_, alert.user_id, alert.episode, verdict, now_ms, by, note, until_ms, names)
    key = alert.user_id.encode()
    if until_ms is not None:
        topic = clicks_topic_of(id_)
        if topic != clicks_topic:
            raise ConfigError(
                f"the alert is on a click of topic {topic}, not of {clicks_topic}; give --clicks-topic {topic}"
            )
        request_quiet(broker, clicks_topic, config, key, Quieting(until_ms, names))
    _publish(broker, feedback_topic, config, key, said)
    if as_json:
        click.echo(msgspec.json.encode(said))
        return
    click.echo(f"{printable(id_)}: {verdict}, written to {feedback_topic}")
    if until_ms is not None:
        how = effect(until_ms, now_ms, names)
        click.echo(f"user {printable(alert.user_id)}: {how}, once the worker reaches the request on {clicks_topic}")


def until(text: str, now_ms: int) -> int:
    """The time, ms since the epoch, that --quiet names; 0 for `off`. Raises ConfigError.

    text  a duration from now on such as 7d, or ISO 8601, in UTC without an offset
    """
    from stream.wire.requests import LATEST_MS

    text = text.strip()
    if text == OFF:
        return 0
    duration = DURATION.fullmatch(text)
    if duration:
        found = now_ms + int(duration[1]) * UNITS_MS[duration[2]]
    else:
        try:
            at = datetime.fromisoformat(text)
            found = int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
        except (ValueError, OverflowError):
            found = -1
    if not 0 < found <= LATEST_MS:
        raise ConfigError(
            f"--quiet is {text!r}; it must be a duration such as 30m, 8h or 7d, a time before 2106 such as "
            f"2026-12-31T00:00:00, or {OFF}"
        )
    return found


def effect(until_ms: int, now_ms: int, statistics: list[str]) -> str:
    """What a request for quiet until this time does, in words. One in the past ends an earlier request, too."""
    if not until_ms:
        return "alerts as ever"
    what = "alerts" if not statistics else f"alerts for {', '.join(statistics)}"
    over = "; that time is over, so clicks from now on have alerts as ever" if until_ms <= now_ms else ""
    return f"no {what} on clicks before {time_of(until_ms)}{over}"


def _check(statistics: Iterable[str], until_ms: int | None) -> None:
    """Raises ConfigError if these statistics cannot be quiet."""
    from stream.population.quiet import NAMES

    for name in statistics:
        if name not in NAMES:
            raise ConfigError(f"--statistic {printable(name)!r} is none of {', '.join(NAMES)}")
    if statistics and not until_ms:
        raise ConfigError("--statistic needs --quiet TIME: it says which alerts are kept back")


def _check_texts(*texts: str) -> None:
    """Raises ConfigError if a text cannot be in a message. Before a request is written: then its verdict can follow."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:  # Python reads a byte that is not UTF-8 as half of a surrogate pair
            raise ConfigError(f"{text[:64]!r} is not UTF-8; write it in UTF-8, or with ASCII letters") from None


def _publish(broker: str, topic: str, config: KafkaConfig, key: bytes, said: Feedback) -> None:
    from stream.access.publish import Publisher

    publisher = Publisher(broker, topic, config)
    publisher.send(key, msgspec.json.encode(said))
    publisher.close()


def _alerts(broker: str, topic: str, config: KafkaConfig) -> Iterable[Anomaly]:
    for alert in alerts_among(messages_shown(broker, topic, config), Anomaly):
        assert isinstance(alert, Anomaly)
        yield alert


@click.command()
@connection_options
@topic_option("anomalies")
@feedback_topic_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def calibrate(broker: str, kafka_config: str, anomalies_topic: str, feedback_topic: str, as_json: bool) -> None:
    """Count how many alerts were true, by the verdicts of `eddy feedback`, and propose an --alpha.

    An episode of a user counts once. The command changes nothing. It cannot know what raised no alert, or what nobody
    has judged; a larger --alpha than today's cannot be judged either.

    \b
    Examples:
      eddy calibrate
      eddy calibrate --broker k1:9092 --kafka-config client.properties --json
    """
    from stream.access.rights import check_access

    config = read_kafka_config(kafka_config, os.environ)
    check_access(broker, config, reads=[feedback_topic, anomalies_topic])
    verdicts = verdicts_among(messages_shown(broker, feedback_topic, config))
    found = report(_alerts(broker, anomalies_topic, config), verdicts)
    click.echo(json.dumps(_as_json(found)) if as_json else "\n".join(_lines(found)))


def verdicts_among(messages: Iterable[Any]) -> dict[str, tuple[int, bool]]:
    """Id of each alert -> when it was judged last, ms, and the verdict. What is no feedback is counted on stderr."""
    found: dict[str, tuple[int, bool]] = {}
    left_out = 0
    for message in messages:
        try:
            said = msgspec.json.decode(message.value() or b"", type=Feedback)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            left_out += 1
            continue
        if said.verdict not in ("true", "false"):
            left_out += 1
            continue
        found[said.id] = said.timestamp, said.verdict == "true"
    if left_out:
        click.echo(f"{left_out:,} messages left out: they are no feedback of this Eddy version", err=True)
    return found


def _as_json(found: Report) -> dict[str, Any]:
    return {
        "statistics": {name: one._asdict() for name, one in found.statistics.items()},
        "all": found.all._asdict(),
        "choices": [one._asdict() for one in found.choices],
        "proposed": found.proposed,
        "missing": found.missing,
    }


def _lines(found: Report) -> list[str]:
    lines = [f"{'statistic':<{NAME_WIDTH}} {'alerts':>8} {'episodes':>8} {'true':>6} {'false':>6}  precision (95 %)"]
    lines += [_row(name, one) for name, one in [*found.statistics.items(), ("all", found.all)]]
    if found.choices:
        lines += ["", f"{'--alpha':<{NAME_WIDTH}} {'true':>6} {'false':>6}  of the judged episodes that are left"]
        lines += [f"{one.alpha:<{NAME_WIDTH}g} {one.true:>6,} {one.false:>6,}" for one in found.choices]
    if found.missing:
        lines.append(f"{found.missing:,} verdicts are on alerts that are no longer on the topic")
    first = found.choices[0] if found.choices else None
    if found.proposed is None or first is None:
        none = f"none leaves out a false episode and keeps {KEEP:.0%} of the true ones"
        return [*lines, "", f"no other --alpha is proposed: {'no episode is judged' if first is None else none}"]
    left = next(one for one in found.choices if one.alpha == found.proposed)
    said = f"{left.true:,} of {first.true:,} true and {left.false:,} of {first.false:,} false episodes would be left"
    return [*lines, "", f"proposed: --alpha {found.proposed:g}, the smallest that keeps {KEEP:.0%} of the true: {said}"]


def _row(name: str, one: Precision) -> str:
    judged = one.true + one.false
    share = f"{one.true / judged:.2f} ({one.low:.2f} to {one.high:.2f})" if judged else "not judged"
    return f"{name:<{NAME_WIDTH}} {one.alerts:>8,} {one.episodes:>8,} {one.true:>6,} {one.false:>6,}  {share}"
