"""Writes clicks as a mapping's topic has them, for `eddy replay`: the inverse of reading.py."""

from typing import Any

import msgspec

from stream.errors import ConfigError
from stream.events import Click
from stream.mapping.mapping import ClickMapping
from stream.mapping.paths import parse_path, put
from stream.mapping.reading import FIELDS, UNITS


def written(mapping: ClickMapping, click: Click) -> bytes:
    """The JSON message of a click, as `values`."""
    return msgspec.json.encode(values(mapping, click))


def values(mapping: ClickMapping, click: Click) -> dict[str, Any]:
    """The message of a click with the mapped fields only, as JSON has it. The mapping reads it as an equal click.

    Each value is at the field's first path, and the event type has their name. There are two exceptions: a value of a
    field that the mapping does not read is not written, and a time in s loses its ms.
    """
    message: dict[str, Any] = {}
    for name in FIELDS:
        paths, value = mapping.topic.fields.get(name), getattr(click, name)
        if paths is None or value is None:
            continue
        if name == "event_type":
            value = _theirs(mapping, value)
        elif name == "timestamp" and mapping.topic.unit:
            times, over = UNITS[mapping.topic.unit]
            value = value * over // times
        try:
            put(message, parse_path(paths[0]), value)
        except ValueError:
            raise ConfigError(
                f"mapping: no message can have a value at {paths[0]}, because another path ends there"
            ) from None
    return message


def _theirs(mapping: ClickMapping, ours: str) -> str:
    """The first of their names for an event type that is a click; the name itself if they have no other."""
    names = (theirs for theirs, name in mapping.event_types.items() if name == ours and theirs not in mapping.drop)
    return next(names, ours)
