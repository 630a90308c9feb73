"""Finds paths of a mapping at which no message has a value, such as a mistyped path of an optional field.

A mistyped path of a required field makes dead letters. That of an optional field, or of the preferred one of several
paths, makes nothing but worse lists, so a worker looks at a sample of its first clicks and warns once.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from typing import Any

from stream.errors import BadClick, NoRegistry
from stream.log_lines import printable
from stream.mapping.parse import REQUIRED
from stream.mapping.paths import DEEPEST, Path, has_value, path_text, value_at
from stream.mapping.reading import FIELDS, Reading
from stream.wire.json import UNDECODABLE

CLICKS = 1_000
"""After so many clicks without a value at a path there is a warning."""

MOST_BYTES = 65_536
"""Longer messages are not looked at."""

MOST_PATHS = 1_000
"""Of the messages, to find the nearest one to a path. Messages with dynamic names could have any number."""

log = logging.getLogger(__name__)


class UnusedPaths:
    """Looks for values at the paths of a mapping until each has one, or for CLICKS clicks.

    name     of the mapping's file, for the warning
    decode   bytes of a message -> the decoded message
    nearest  name the nearest path in the messages; not if names in them may be of users (--pseudonymise)
    """

    def __init__(self, name: str, reading: Reading, decode: Callable[[bytes], Any], nearest: bool = True) -> None:
        self._name, self._decode, self._nearest = name, decode, nearest
        self._paths = {path for paths in reading.paths for path in paths}
        self._left = [
            (field, path)
            for field, paths in zip(FIELDS, reading.paths, strict=True)
            for path in paths
            if len(paths) > 1 or field not in REQUIRED
        ]
        self._there: set[Path] = set()
        self._clicks = 0

    def look(self, value: bytes) -> bool:
        """Look at the message of a valid click, and warn after CLICKS of them. Returns False when no further message is
        needed."""
        if self.see(value):
            return True
        if self._left:
            log.warning("%s", self._warning())
        return False

    def see(self, value: bytes) -> bool:
        """Look at the message of a valid click. Returns False when no further message is needed."""
        if len(value) <= MOST_BYTES and self._left:
            try:
                self._take(self._decode(value))
            except (*UNDECODABLE, BadClick, NoRegistry):  # valid in a way that only the codec reads
                return True
        return bool(self._left) and self._clicks < CLICKS

    def missing(self) -> list[str]:
        """The fields and paths without a value: "event_type at evnet (the nearest path with values: event)"."""
        others = sorted(path_text(path) for path in self._there - self._paths)
        shown = []
        for field, path in self._left:
            near = nearest(path_text(path), others)
            advice = f" (the nearest path with values: {near})" if near else ""
            shown.append(printable(f"{field} at {path_text(path)}{advice}"))
        return shown

    def _take(self, message: Any) -> None:
        self._left = [(field, path) for field, path in self._left if not has_value(value_at(message, path))]
        self._clicks += 1
        if self._left and self._nearest:
            for path in _with_values(message, ()):
                if len(self._there) >= MOST_PATHS:
                    break
                self._there.add(path)

    def _warning(self) -> str:
        return printable(
            f"no click has a value at some paths of the mapping: mapping={self._name} clicks={self._clicks}; paths: "
            f"{', '.join(self.missing())}; if a path is mistyped, correct it and train again; else remove it",
            most=2_000,
        )


def nearest(path: str, others: Iterable[str]) -> str | None:
    """The path of `others` that was probably meant: with the same last name, else of similar letters."""
    named = [other for other in others if _last(other) == _last(path)]
    found = get_close_matches(path, named, 1, 0.0) or get_close_matches(path, others, 1, 0.6)
    return found[0] if found else None


def _last(path: str) -> str:
    return path.rpartition(".")[2].casefold()


def _with_values(part: Any, path: Path) -> Iterator[Path]:
    """The paths that lead to a value; of a list only to its first element."""
    if len(path) > DEEPEST:
        return
    if isinstance(part, dict):
        for name, inner in part.items():
            if isinstance(name, str):
                yield from _with_values(inner, (*path, name))
    elif isinstance(part, list):
        if part:
            yield from _with_values(part[0], (*path, 0))
    elif has_value(part):
        yield path
