"""Paths to the values of a message: names and numbers of list elements, as in `properties.products[0].id`.

A name with a dot, a bracket or a blank at its end is written in quotes: `"shop.user".id`. In a log of columns, the
first name of a path is the name of a column.
"""

import re
from collections.abc import Sequence
from typing import Any

from stream.errors import ConfigError

Path = tuple[str | int, ...]
"""The steps from the message to the value: a name leads into an object, a number into a list."""

HEADERS = "$headers"
"""The name under which a message has its Kafka headers: `$headers.ce_type`."""

LONGEST_PATH = 500
DEEPEST = 20

BARE = re.compile(r"[^.\[\]\"\s](?:[^.\[\]\"]*[^.\[\]\"\s])?")
STEP = re.compile(rf'(?P<dot>\.?)(?:"(?P<quoted>[^"]+)"|(?P<bare>{BARE.pattern}))|\[(?P<number>[0-9]{{1,3}})\]')


def parse_path(text: str) -> Path:
    """Parse a path. Raises ConfigError with one line that shows the text and an example."""
    steps: list[str | int] = []
    at = 0
    while at < len(text) <= LONGEST_PATH and len(steps) <= DEEPEST:
        found = STEP.match(text, at)
        if found is None:
            break
        number = found["number"]
        if bool(found["dot"]) != (bool(steps) and number is None) or (number is not None and not steps):
            break
        steps.append(int(number) if number is not None else found["quoted"] or found["bare"])
        at = found.end()
    if not text or at < len(text) or len(steps) > DEEPEST:
        raise ConfigError(
            f"path {text[:80]!r} is not readable; write names with dots and numbers of list elements in brackets, as "
            "properties.products[0].id, and a name with a dot in quotes"
        )
    return tuple(steps)


def path_text(path: Sequence[str | int]) -> str:
    """A path as text, the inverse of `parse_path`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += ("." if text else "") + (step if BARE.fullmatch(step) else f'"{step}"')
    return text


def value_at(message: Any, path: Path) -> Any:
    """The value at a path; None if the message has no such value."""
    for step in path:
        if isinstance(step, str):
            message = message.get(step) if isinstance(message, dict) else None
        else:
            message = message[step] if isinstance(message, list) and step < len(message) else None
    return message


def has_value(value: Any) -> bool:
    """False for null, empty text and NaN, which are no value in any field."""
    return value is not None and value != "" and value == value


def put(message: dict[str, Any], path: Path, value: Any) -> None:
    """Set the value at a path of a message that is being made. It makes the objects and lists on the way.

    Raises ValueError if the message has another value on the way.
    """
    at: Any = message
    for step, following in zip(path, (*path[1:], None), strict=True):
        inner: Any = value if following is None else {} if isinstance(following, str) else []
        if isinstance(step, str) and isinstance(at, dict):
            at = at.setdefault(step, inner)
        elif isinstance(step, int) and isinstance(at, list):
            at.extend({} for _ in range(step - len(at)))
            if len(at) == step:
                at.append(inner)
            at = at[step]
        else:
            raise ValueError("another path ends here")
    if isinstance(at, dict | list):
        raise ValueError("another path leads on from here")
