"""The command `eddy explain`: lists the latest alerts, or says why an alert was raised or an item recommended."""

import heapq
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from math import exp
from typing import Any
from urllib.parse import quote

import click
import msgspec

from stream.errors import ConfigError
from stream.events import DRIFT, WHOLE_SESSIONS, Anomaly, SystemAlert
from stream.kafka_config import read_kafka_config
from stream.log_lines import counted, printable
from stream.ops.options import connection_options, topic_option
from stream.ops.text import messages_shown, time_of

UNKNOWN = "an item that the model does not know"

LEAST_TIMES = 1.05
"""A click that makes an item less than so many times as likely is no reason that a person would see in the figures."""

CLICKS_NAMED = 3
"""Clicks that are named for each item of a list."""

ANSWER_S = 10
"""A worker has so long to answer."""

Alert = Anomaly | SystemAlert
Topic = tuple[str, type[Anomaly] | type[SystemAlert]]
"""Name of a topic, and what is on it."""


@click.command()
@click.argument("id_", metavar="[ID]", required=False)
@connection_options
@topic_option("anomalies")
@topic_option("system_alerts")
@click.option("--user", help="List only alerts on this user.")
@click.option(
    "--recommendations",
    "worker",
    metavar="URL",
    help="Ask a worker with --http-answers for the list of --user, and show which clicks each item comes from.",
)
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="List so many latest alerts.")
@click.option("--json", "as_json", is_flag=True, help="Print the alerts, one JSON object a line.")
def explain(
    id_: str | None,
    broker: str,
    kafka_config: str,
    anomalies_topic: str,
    system_alerts_topic: str,
    user: str | None,
    worker: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """Explain why an alert was raised, or an item recommended; without an ID, list the latest alerts.

    ID is the `id` or the `episode` of an alert. The alert is printed with what it was compared with, and with the other
    alerts of its episode. Both topics of alerts are read from the beginning: that takes a while if they are long.

    \b
    Examples:
      eddy explain
      eddy explain --user u4711 --json
      eddy explain --user u4711 --recommendations http://localhost:9464
      eddy explain clicks-3-104127 --broker k1:9092 --kafka-config client.properties
    """
    if worker is not None:
        if user is None or id_ is not None:
            raise ConfigError("--recommendations says why a user's list is as it is: give --user, and no ID")
        answer = asked(worker, user)
        click.echo(msgspec.json.encode(answer) if as_json else list_explained(answer))
        return
    from stream.access.rights import check_access  # here, because --help needs no Kafka client

    config = read_kafka_config(kafka_config, os.environ)
    topics: list[Topic] = [(anomalies_topic, Anomaly)]
    if user is None:
        topics.append((system_alerts_topic, SystemAlert))
    check_access(broker, config, reads=[topic for topic, _ in topics])

    def alerts() -> Iterator[Alert]:
        for topic, kind in topics:
            yield from alerts_among(messages_shown(broker, topic, config), kind)

    found = latest(alerts(), user, limit + 1) if id_ is None else episodes_with(alerts, id_)
    if id_ is not None and not found:
        raise ConfigError(
            f"no alert has the id or the episode {printable(id_)!r} in {anomalies_topic} and {system_alerts_topic}; "
            "`eddy explain` lists the latest ones"
        )
    if id_ is None and len(found) > limit:
        found = found[1:]
        click.echo(
            f"the latest {counted(limit, 'alert')}; there are older ones, which a larger --limit lists", err=True
        )
    if as_json:
        for alert in found:
            click.echo(msgspec.json.encode(alert))
    elif id_ is None:
        whose = f" on user {printable(user)}" if user else ""
        click.echo("\n".join(map(line, found)) or f"no alerts{whose}")
    else:
        click.echo(explained(found, id_))


def asked(worker: str, user: str) -> dict[str, Any]:
    """The list of a user with its reasons, as a worker answers. Raises ConfigError.

    worker  address of the HTTP port of any worker of the group
    """
    url = f"{worker.rstrip('/')}/v1/users/{quote(user, safe='')}/recommendations?because={CLICKS_NAMED}"
    try:
        if not worker.startswith(("http://", "https://")):
            raise ValueError(worker)
        with urllib.request.urlopen(url, timeout=ANSWER_S) as response:
            found = msgspec.json.decode(response.read(), type=dict[str, Any])
    except urllib.error.HTTPError as exc:
        raise ConfigError(f"{url}: {printable(exc.read(1000).decode(errors='replace'))}") from exc
    except (msgspec.DecodeError, ValueError) as exc:  # ValueError: the URL is none
        raise ConfigError(f"{url}: this is not the address of a worker, such as http://localhost:9464") from exc
    except OSError as exc:  # URLError is one
        reason = getattr(exc, "reason", exc)
        raise ConfigError(
            f"{url}: no answer ({reason}); start the workers with --http-port and --http-answers"
        ) from exc
    if "because" not in found:
        raise ConfigError(f"{url}: the worker gives no reasons; it is of an older version")
    return found


def list_explained(answer: dict[str, Any]) -> str:
    """A list in words: a line for each item with the clicks that it comes from, and one for the intent."""
    whose = "a new user's list" if answer["last_click"] is None else f"after {answer['last_click']}"
    lines = [f"recommendations for {answer['user_id']}, {whose}, model {answer['model']}"]
    for item, log_prob, reasons in zip(answer["items"], answer["log_probs"], answer["because"], strict=True):
        told = [one for one in reasons if exp(one["nats"]) >= LEAST_TIMES]
        because = ", ".join(map(_reason, told)) or "no single click of the last 16"
        why = "" if answer["last_click"] is None else f" because of {because}"
        lines.append(f"{item} ({exp(log_prob):.1%}){why}")
    if "intent" in answer:
        shown = f"{answer['intent']:.1%}"
        told = [one for one in answer["intent_because"] if f"{one['without']:.1%}" != shown]
        because = ", ".join(map(_reason, told)) or "no single click of the session"
        lines.append(f"intent {answer['intent']:.1%} because of {because}")
    return "\n".join(map(printable, lines))


def _reason(reason: dict[str, Any]) -> str:
    ago = reason["clicks_ago"]
    when = "the last click" if not ago else f"{ago} {'click' if ago == 1 else 'clicks'} before the last"
    event_type, item = reason["event_type"] or "an unknown event", reason["item_id"] or UNKNOWN
    likely = f"{_times(exp(reason['nats']))} times as likely with it" if "nats" in reason else ""
    change = likely or f"{reason['without']:.1%} without it"
    return f"{event_type} of {item} ({when}; {change})"


def _times(ratio: float) -> str:
    """A ratio with two digits as a person writes it: 1.1, 74, 1,200. Beyond a million nobody needs the digits."""
    return f"{float(f'{ratio:.2g}'):,.1f}".removesuffix(".0") if ratio < 1e6 else "more than a million"


def alerts_among(messages: Iterable[Any], kind: type[Anomaly] | type[SystemAlert]) -> Iterator[Alert]:
    """The alerts among the messages. Those that another Eddy version wrote are counted on stderr, and left out."""
    left_out = 0
    for message in messages:
        try:
            yield msgspec.json.decode(message.value() or b"", type=kind)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            left_out += 1
    if left_out:
        click.echo(f"{left_out:,} messages left out: they are no alerts of this Eddy version", err=True)


def latest(alerts: Iterable[Alert], user: str | None, limit: int) -> list[Alert]:
    """The latest alerts by the time of their click; only those of the user, if one is given."""
    some = (alert for alert in alerts if user is None or (isinstance(alert, Anomaly) and alert.user_id == user))
    newest_first = heapq.nlargest(limit, enumerate(some), key=lambda one: (one[1].timestamp, one[0]))
    return [alert for _, alert in reversed(newest_first)]


def episodes_with(read: Callable[[], Iterable[Alert]], id_: str) -> list[Alert]:
    """The alerts of the episodes that have an alert with this id, or are called so, in the order of the topics.

    read  reads all alerts. It is called twice, so that memory does not grow with the topics
    """
    names = {_episode(alert) for alert in read() if id_ in (alert.id, alert.episode)}
    return [alert for alert in read() if _episode(alert) in names] if names else []


def _episode(alert: Alert) -> tuple[str, str]:
    """What all alerts of one episode have in common: its id, and the user or the sign."""
    return alert.episode, alert.user_id if isinstance(alert, Anomaly) else alert.sign


def explained(found: list[Alert], id_: str) -> str:
    """The alerts with this id, or the first one, in words; and a line for each alert of the episode."""
    asked = [alert for alert in found if alert.id == id_] or found[:1]
    parts = [in_words(alert) for alert in asked]
    if len(found) > len(asked):
        parts.append("\n".join(["all alerts of the episode:", *(f"  {line(alert)}" for alert in found)]))
    return "\n\n".join(parts)


def line(alert: Alert) -> str:
    """An alert in one line."""
    whose = f"user {alert.user_id}" if isinstance(alert, Anomaly) else f"partition {alert.partition}, {alert.phase}"
    return printable(f"{alert.id}  {time_of(alert.timestamp)}  {whose}: {alert.reason}")


def in_words(alert: Alert) -> str:
    """An alert with all that it was compared with."""
    rows = [("alert", alert.id), ("time", time_of(alert.timestamp)), ("why", alert.reason)]
    rows += _of_many(alert) if isinstance(alert, SystemAlert) else _of_user(alert)
    rows += [("model", alert.model), ("episode", alert.episode)]
    return "\n".join(f"{name:<15} {printable(text)}" for name, text in rows)


def _of_user(alert: Anomaly) -> list[tuple[str, str]]:
    of_end = alert.pool == WHOLE_SESSIONS
    if of_end:
        what, pool, item = ("end of session", f"after {alert.item_id or UNKNOWN}"), alert.pool, "last item"
    else:
        what, pool, item = ("click", f"{alert.event_type} of {alert.item_id}"), f"after {alert.pool}", "item"
    rate = f"{1 / alert.threshold:,.0f}"
    rows = [
        ("user", alert.user_id),
        what,
        ("p-value", f"{alert.p_value:.2g}; an alert needs {alert.threshold:g} or less: one false in {rate} sessions"),
        ("compared with", f"{alert.pool_size:,} held-out sessions, {pool}"),
    ]
    rows += [("  " + name, f"p-value {p:.2g}") for name, p in alert.statistics.items()]
    rows.append((item, f"surprise {alert.surprise:.2f} nats, a probability of {exp(-alert.surprise):.2g}"))
    if of_end:
        return rows
    expected = ", ".join(f"{likely.item_id} ({likely.probability:.1%})" for likely in alert.expected)
    rows.append(("expected", expected or f"{alert.expected_cut} items, left out because of the topic's limit"))
    return rows if alert.part_of is None else [*rows, ("part of", f"{alert.part_of}, an alert on many users")]


def _of_many(alert: SystemAlert) -> list[tuple[str, str]]:
    rows = [("partition", str(alert.partition)), ("sign", alert.sign), ("phase", alert.phase)]
    if alert.sign == DRIFT:
        of = f" of {alert.of_users:,}" if alert.of_users is not None else ""
        beyond = f"{alert.users:,}{of} of the last hours are as unusual; a share of {alert.usual_share:.2%} is nominal"
        return [*rows, ("sessions", beyond)]
    if alert.phase == "closed":
        return [
            *rows,
            ("users", f"{alert.users:,} since it opened"),
            ("alerts", f"{alert.alerts or 0:,} on single users"),
        ]
    return [
        *rows,
        (
            "users",
            f"{alert.users:,} of {alert.of_users:,} in the window so far; a share of {alert.usual_share:.2%} is usual",
        ),
        ("p-value", f"{alert.p_value:.2g}"),
        ("for example", f"{alert.event_type} of {alert.item_id}"),
    ]
