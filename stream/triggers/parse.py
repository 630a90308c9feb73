"""Reads the file of --triggers: TOML with a list [[trigger]], in the manner of the mapping file.

A name that is not known is refused with the nearest known one: a mistyped condition would otherwise silently not hold.
"""

import re
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from stream.errors import ConfigError
from stream.manifest import Manifest
from stream.mapping.parse import known, listed, parsed, read_text, shown
from stream.triggers.returns import predicts_returns
from stream.triggers.rules import (
    ABANDONED,
    AFTER,
    AWAY,
    DAY_MS,
    HOUR_MS,
    ITEM,
    KINDS,
    PRICE_DROP,
    TARGETS,
    TRENDING,
    Quiet,
    Rule,
)
from stream.wire.fields import LONGEST_WORD

MOST_RULES = 8
"""A row has room for the last times of so many rules."""

LONGEST_MS = 3_650 * DAY_MS
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
DURATION = re.compile(r"([0-9]{1,7})([smhd])")
CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
UNITS = {"s": 1_000, "m": 60_000, "h": HOUR_MS, "d": DAY_MS}

OWN = {
    ABANDONED: ("has", "without", "returns_below"),
    AWAY: ("after",),
    AFTER: ("events",),
    TRENDING: ("of", "events", "without", "over", "least", "times", "significance", "most"),
    PRICE_DROP: ("drop", "events", "without", "over", "least", "most"),
}
"""Kind -> the keys that not all kinds have."""

COMMON = ("name", "kind", "cooldown", "quiet_hours", "timezone", "consent", "control", "outcome", "window")


def read_triggers(path: Path) -> tuple[Rule, ...]:
    """Read a file of rules. Raises ConfigError; its one line has the rule, what is wrong and what to do."""
    text = read_text(path, "triggers", "docs/triggers.md has an example")
    return parse_triggers(text, str(path))


def parse_triggers(text: str, name: str) -> tuple[Rule, ...]:
    """Parse the text of a file of rules; `name` is for messages. Raises ConfigError."""
    return parsed(text, f"triggers {name}", _rules)


def _rules(given: dict[str, Any]) -> tuple[Rule, ...]:
    for name in given:
        if name in COMMON or any(name in keys for keys in OWN.values()):
            raise ConfigError(f"{name} is in no rule; begin each rule with a line [[trigger]], before its keys")
        known(name, ("trigger",), "the file has")
    tables = given.get("trigger")
    if not isinstance(tables, list) or not tables or not all(isinstance(one, dict) for one in tables):
        raise ConfigError("it has no rule; begin each one with a line [[trigger]]")
    if len(tables) > MOST_RULES:
        raise ConfigError(f"it has {len(tables)} rules; there is room for {MOST_RULES} in a user's state")
    rules = tuple(_rule(table, number) for number, table in enumerate(tables, 1))
    hashes: dict[int, str] = {}
    for rule in rules:
        if rule.hash in hashes:
            both = rule.name == hashes[rule.hash]
            why = "twice" if both else f"and {hashes[rule.hash]!r}, which cannot be told apart in a user's state"
            raise ConfigError(f"it has a rule {rule.name!r} {why}; give one of them another name")
        hashes[rule.hash] = rule.name
    return rules


def _rule(given: dict[str, Any], number: int) -> Rule:
    name = given.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"rule {number} has the name {shown(name)}; it must be 1 to 64 lower-case letters, digits, - and _"
        )
    try:
        return _named(given, name)
    except ConfigError as exc:
        raise ConfigError(f"rule {name!r}: {exc}") from None


def _named(given: dict[str, Any], name: str) -> Rule:
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"kind is {shown(kind)}; it must be one of {listed(KINDS, in_order=True)}")
    for key in given:
        others = [of for of, keys in OWN.items() if key in keys]
        if others and kind not in others:
            of_kinds = f"kind{'s' * (len(others) > 1)} {listed(others, in_order=True)}"
            raise ConfigError(f"{key} is for the {of_kinds}, and this rule is of the kind {kind}; remove it")
        known(key, (*COMMON, *OWN[kind]), "it has")
    has, events, without = (_types(given, key) for key in ("has", "events", "without"))
    for key, needing, types in (("has", ABANDONED, has), ("events", AFTER, events)):
        if kind == needing and not types:
            raise ConfigError(f'{key} is missing; give the event types, such as {key} = ["cart"]')
    both = set(has) & set(without)
    if both:
        raise ConfigError(f"has and without both have {listed(both)}; remove it from one of them")
    if kind == AWAY and "after" not in given:
        raise ConfigError('after is missing; give the time without a click, such as after = "30d"')
    drops = kind == PRICE_DROP
    over_ms = _duration(given, "over", HOUR_MS) if "over" in given else (7 if drops else 1) * DAY_MS
    return Rule(
        name,
        kind,
        has,
        without,
        _share(given, "returns_below", 1.0) if "returns_below" in given else None,
        _duration(given, "after", HOUR_MS) if kind == AWAY else 0,
        events,
        _duration(given, "cooldown", 0) if "cooldown" in given else over_ms if drops else DAY_MS,
        _quiet(given),
        _bool(given, "consent"),
        _share(given, "control", 0.5) if "control" in given else 0.0,
        _type(given, "outcome", "purchase"),
        _duration(given, "window", HOUR_MS) if "window" in given else 7 * DAY_MS,
        _of(given),
        over_ms,
        _count(given, "least") if "least" in given else 2 if drops else 20,
        _times(given),
        _share(given, "significance", 1.0) if "significance" in given else 0.001,
        _count(given, "most") if "most" in given else 10_000,
        _share(given, "drop", 0.99) if "drop" in given else 0.05,
    )


def _of(given: dict[str, Any]) -> str:
    of = given.get("of", ITEM)
    if of not in TARGETS:
        raise ConfigError(f"of is {shown(of)}; it must be one of {listed(TARGETS, in_order=True)}")
    return str(of)


def _types(given: dict[str, Any], key: str) -> tuple[str, ...]:
    names = given.get(key, [])
    if not isinstance(names, list) or not all(map(_is_type, names)):
        raise ConfigError(f"{key} is {shown(names)}; it must be a list of event types in quotes")
    return tuple(dict.fromkeys(names))


def _type(given: dict[str, Any], key: str, default: str) -> str:
    name = given.get(key, default)
    if not _is_type(name):
        raise ConfigError(f"{key} is {shown(name)}; it must be an event type in quotes")
    return str(name)


def _is_type(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= LONGEST_WORD


def _duration(given: dict[str, Any], key: str, least_ms: int) -> int:
    parts = DURATION.fullmatch(given[key]) if isinstance(given[key], str) else None
    found = int(parts[1]) * UNITS[parts[2]] if parts else -1
    if not least_ms <= found <= LONGEST_MS:
        least = f"at least {least_ms // HOUR_MS}h and " if least_ms else ""
        such = '"12h" or "3d"' if least_ms else '"45s", "30m", "12h" or "3d"'
        most = f"at most {LONGEST_MS // DAY_MS:,}d"
        raise ConfigError(f"{key} is {shown(given[key])}; it must be a time of {least}{most}, such as {such}")
    return found


def _share(given: dict[str, Any], key: str, most: float) -> float:
    value = given[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ConfigError(f"{key} is {shown(value)}; it must be a share above 0 and at most {most:g}")
    return float(value)


def _count(given: dict[str, Any], key: str) -> int:
    value = given[key]
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1_000_000:
        raise ConfigError(f"{key} is {shown(value)}; it must be a whole number from 1 to 1,000,000")
    return value


def _times(given: dict[str, Any]) -> float:
    value = given.get("times", 2.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 1_000:
        raise ConfigError(f"times is {shown(value)}; it must be a number from 1 to 1,000")
    return float(value)


def _bool(given: dict[str, Any], key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{key} is {shown(value)}; it must be true or false")
    return value


def _quiet(given: dict[str, Any]) -> Quiet | None:
    if "quiet_hours" not in given:
        if "timezone" in given:
            raise ConfigError('timezone is for quiet hours; add quiet_hours = ["21:00", "08:00"], or remove it')
        return None
    hours = given["quiet_hours"]
    times = [CLOCK.fullmatch(hour) for hour in hours if isinstance(hour, str)] if isinstance(hours, list) else []
    minutes = [int(time[1]) * 60 + int(time[2]) for time in times if time]
    if not isinstance(hours, list) or len(hours) != 2 or len(minutes) != 2 or minutes[0] == minutes[1]:
        raise ConfigError(f'quiet_hours is {shown(hours)}; it must be two different times, such as ["21:00", "08:00"]')
    return Quiet(minutes[0], minutes[1], _zone(given))


def _zone(given: dict[str, Any]) -> str:
    zone = given.get("timezone")
    if zone is None:
        raise ConfigError('quiet_hours needs a timezone, such as timezone = "Europe/Berlin"')
    try:
        return ZoneInfo(zone).key
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError):  # OSError for the name of a directory
        raise ConfigError(
            f"timezone is {shown(zone)}, which this machine does not know; it must be a name such as Europe/Berlin. "
            "If it is one, install the package tzdata"
        ) from None


def open_triggers(path: str, manifest: Manifest, lists: str) -> tuple[Rule, ...]:
    """The rules of a worker; none without a file. lists: as in Settings. Raises ConfigError."""
    rules = read_triggers(Path(path)) if path else ()
    for rule in rules:
        try:
            for name in (*rule.has, *rule.without, *rule.events):
                known(name, manifest.event_types, f"it asks for an event type of the model {manifest.label}; it has")
            if rule.returns_below is not None and not predicts_returns(manifest):
                raise ConfigError(f"the model {manifest.label} does not predict returns; remove returns_below")
            if rule.kind == AFTER and lists == "last":
                raise ConfigError("it needs the list of each click; remove the setting lists = last")
        except ConfigError as exc:
            raise ConfigError(f"triggers {path}: rule {rule.name!r}: {exc}") from None
    return rules
