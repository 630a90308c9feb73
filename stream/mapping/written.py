"""Writes clicks as a mapping's topic or log has them, for `eddy replay` and `record`: the inverse of reading.py."""

from typing import Any

import msgspec

from stream.errors import ConfigError
from stream.events import Click
from stream.mapping.mapping import ANONYMOUS, ClickMapping, Source
from stream.mapping.paths import parse_path, put
from stream.mapping.reading import FIELDS, UNITS


def written(mapping: ClickMapping, click: Click) -> bytes:
    """The JSON message of a click, as `values`."""
    return msgspec.json.encode(values(mapping, click))


def values(
    mapping: ClickMapping, click: Click, source: Source | None = None, anonymous: str | None = None
) -> dict[str, Any]:
    """The message of a click with the mapped fields only, as JSON has it. The mapping reads it as an equal click.

    source     where the values are, `mapping.log` for a row of a log; None = as in a message of the topic
    anonymous  the anonymous id that was beside the user's; None = none

    Each value is at the field's first path, and the event type has their name. There are two exceptions: a value of a
    field that the mapping does not read is not written, and a time in s loses its ms.
    """
    message: dict[str, Any] = {}
    source = source or mapping.topic
    for name in (*FIELDS, ANONYMOUS):
        paths = source.fields.get(name)
        value: Any = anonymous if name == ANONYMOUS else getattr(click, name)
        if paths is None or value is None:
            continue
        if name == "event_type":
            value = _theirs(mapping, value)
        elif name == "timestamp" and source.unit:
            times, over = UNITS[source.unit]
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
    kept = mapping.keep is None or ours in mapping.keep
    for theirs, name in mapping.event_types.items():
        if name == ours and theirs not in mapping.drop and (kept or theirs in (mapping.keep or ())):
            return theirs
    return ours
