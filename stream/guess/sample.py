"""Describes a sample of events: what the values at each path are like."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from stream.mapping.paths import Path, has_value
from stream.wire.fields import FIRST_CLICK_MS, LONGEST_ID, Unusable, number, time_ms, word

MOST_PATHS = 2_000
"""Of a sample. Events with names that are values, such as an id for each item, could have any number."""

DEEPEST = 8
LAST_MS = 4_102_444_800_000
"""The year 2100."""

EXAMPLES = 3


@dataclass
class Seen:
    """The values at one path.

    count     events with a value there
    words     values that can be an id
    times     values that are a time between 1991 and 2100
    numbers   values that are a number from 0 up
    decimals  values that are such a number and not a whole one
    keys      events whose message key is the value
    units     unit of the times -> values
    values    value as an id -> events; also of values that are no id, as Python writes them
    """

    path: Path
    count: int = 0
    words: int = 0
    times: int = 0
    numbers: int = 0
    decimals: int = 0
    keys: int = 0
    units: Counter[str] = field(default_factory=Counter)
    values: Counter[str] = field(default_factory=Counter)

    @property
    def examples(self) -> list[str]:
        """Some values, the most frequent first."""
        return [value for value, _ in self.values.most_common(EXAMPLES)]

    def add(self, value: Any, key: bytes | None) -> None:
        self.count += 1
        try:
            text = word(value, LONGEST_ID) or ""
        except Unusable:
            text = repr(value)[:LONGEST_ID]
        else:
            self.words += 1
            self.keys += key is not None and key == text.encode(errors="replace")
        self.values[text] += 1
        try:
            read = time_ms(value)
        except Unusable:
            read = None
        if read is not None and FIRST_CLICK_MS <= read[0] < LAST_MS:
            self.times += 1
            self.units[read[1]] += 1
        with suppress(Unusable):
            amount = number(value)
            self.numbers += amount is not None
            self.decimals += amount is not None and not amount.is_integer()


@dataclass(frozen=True)
class Sample:
    """Events with what was seen at their paths.

    events  decoded JSON objects, or rows of a table
    keys    (n,) the message key of each event; None = the events are of a file
    seen    path -> its values, in the order of the first event that has it
    """

    events: Sequence[Mapping[str, Any]]
    keys: Sequence[bytes | None] | None
    seen: Mapping[Path, Seen]


def describe(events: Sequence[Mapping[str, Any]], keys: Sequence[bytes | None] | None = None) -> Sample:
    """Look at the values of all events. Of a list only the first element is looked at."""
    seen: dict[Path, Seen] = {}
    for at, event in enumerate(events):
        for path, value in _values(event, ()):
            if path not in seen and len(seen) >= MOST_PATHS:
                continue
            seen.setdefault(path, Seen(path)).add(value, keys[at] if keys is not None else None)
    return Sample(events, keys, seen)


def _values(part: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    """The values of an event that are neither an object nor a list, with their paths."""
    if len(path) > DEEPEST:
        return
    if isinstance(part, Mapping):
        for name, inner in part.items():
            if isinstance(name, str) and name and '"' not in name and name.isprintable():
                yield from _values(inner, (*path, name))
    elif isinstance(part, list):
        if part:
            yield from _values(part[0], (*path, 0))
    elif has_value(part):
        yield path, part
