"""Takes the values of a click from a message or from a row of a log. Both use this code, so both are read alike.

1. Each field gets the value at the first of its paths that has one.
2. The event type gets Eddy's name. A message that the mapping leaves out ends here (Dropped).
3. A field without a value gets the mapping's default.

The values are not checked here: stream/wire/json.py and export/log/columns.py do that, by the rules of wire/fields.py.
"""

import math
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from stream.errors import Dropped
from stream.mapping.paths import HEADERS, Path, has_value, path_text, value_at
from stream.wire.codec import Given
from stream.wire.fields import DEFAULT_EVENT, INTEGER, LONGEST_ID, LONGEST_WORD, NUMBER, Unusable, word

FIELDS = Given.__struct_fields__
"""The fields of a click, in the order of all lists of values here."""

USER, ITEM, TIME, EVENT = (FIELDS.index(name) for name in ("user_id", "item_id", "timestamp", "event_type"))

UNITS = {"s": (1_000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}
"""Unit of times that are numbers -> (a, b): the number times a / b is in ms."""

FIRST_MS, LAST_MS = 10**11, 10**13
"""From 1973 to 2286, a number of ms cannot be taken for another unit or for a date. With a unit, a number that is no
time of these years becomes a list, which is no time in any unit."""

BY_TYPE = ("event_type", "the mapping leaves out events of this type")


@dataclass(frozen=True)
class Reading:
    """Where the values of a click are, and which messages are clicks.

    paths       for each of FIELDS its paths, the preferred one first; none = the field is not read
    types       their event type -> Eddy's
    keep, drop  event types in their names or in Eddy's; keep None = all that are not dropped
    needed      indices of the fields without which a message is dropped
    defaults    index of a field -> its value where a message has none
    unit        of times that are numbers; "" = by their size
    anonymous   the last ones of the paths of the user: they lead to an id whose state goes over to the user's
    """

    paths: tuple[tuple[Path, ...], ...]
    types: Mapping[str, str] = field(default_factory=dict)
    keep: frozenset[str] | None = None
    drop: frozenset[str] = frozenset()
    needed: tuple[int, ...] = ()
    defaults: Mapping[int, Any] = field(default_factory=dict)
    unit: str = ""
    anonymous: tuple[Path, ...] = ()

    @property
    def headers(self) -> tuple[str, ...]:
        """Names of the Kafka headers that paths lead to."""
        inside = (path[1] for paths in self.paths for path in paths if path[0] == HEADERS and len(path) > 1)
        return tuple(dict.fromkeys(name for name in inside if isinstance(name, str)))

    @cached_property
    def _finish(self) -> Callable[[list[Any]], None]:
        return self.finisher()

    def values(self, message: Any) -> list[Any]:
        """The value of each of FIELDS in a message (a decoded JSON object, or a row); None = no value.

        Raises Dropped if the mapping leaves the message out.
        """
        values: list[Any] = [None] * len(FIELDS)
        for at, paths in enumerate(self.paths):
            for path in paths:
                value = value_at(message, path)
                if has_value(value):
                    values[at] = value
                    break
        self._finish(values)
        return values

    def finisher(self) -> Callable[[list[Any]], None]:
        """The function that does steps 2 and 3 with the values of a message, in place. It raises Dropped.

        It reads local variables and no attributes, because it runs once for each message.
        """
        types, keep, drop = self.types, self.keep, self.drop
        needed = [(at, self._without(at)) for at in self.needed]
        chosen = keep is not None or bool(drop)
        defaults = [(at, value) for at, value in self.defaults.items() if at != EVENT]
        default_event = self.defaults.get(EVENT, DEFAULT_EVENT)
        times, over = UNITS.get(self.unit, (0, 1))

        def finish(values: list[Any]) -> None:
            theirs = ours = values[EVENT]
            if theirs is None:
                theirs = ours = values[EVENT] = default_event
            elif type(theirs) is str and theirs in types:  # most of them
                ours = values[EVENT] = types[theirs]
            else:
                try:
                    theirs = word(theirs, LONGEST_WORD) or DEFAULT_EVENT
                    ours = values[EVENT] = types.get(theirs, theirs)
                except Unusable:  # the value stays, and is counted where the values are checked
                    theirs = ours = DEFAULT_EVENT
            if chosen and _left_out(theirs, ours, keep, drop):
                raise Dropped(*BY_TYPE)
            for at, without in needed:
                if values[at] is None:
                    raise Dropped("no_value", without)
            for at, default in defaults:
                if values[at] is None:
                    values[at] = default
            if times:
                time = values[TIME]
                ms = time * times // over if type(time) is int else _in_ms(time, times, over)
                values[TIME] = ms if type(ms) is not int or FIRST_MS <= ms < LAST_MS else [time]

        return finish

    def _without(self, at: int) -> str:
        """Why a message is left out that has no value for a field. It has the paths, because one may be mistyped."""
        ways = " or ".join(map(path_text, self.paths[at]))
        where = "" if ways in ("", FIELDS[at]) else f" ({ways})"
        return f"the mapping leaves out events without a value for {FIELDS[at]}{where}"

    def anonymous_id(self, message: Any) -> str | None:
        """The anonymous id in a message, as `word` reads it; None if it has none that is usable."""
        value = next((value for path in self.anonymous if has_value(value := value_at(message, path))), None)
        try:
            return word(value, LONGEST_ID)
        except Unusable:
            return None

    def users(self, message: Mapping[str, Any]) -> list[str]:
        """The texts of all that a message has at the paths of the user id, for a program that must not show it."""
        values = [value_at(message, path) for path in self.paths[USER]]
        return [text for value in values if has_value(value) for text in texts_of_id(value)]


def texts_of_id(value: object) -> list[str]:
    """The texts that may show an id of a message: the value as it is, and as `word` reads it, such as 17.0 and 17.

    None and empty text have none.
    """
    if value is None:
        return []
    texts = [str(value)]
    with suppress(Unusable):
        texts.append(word(value, LONGEST_ID) or "")
    return [text for text in dict.fromkeys(texts) if text]


def _left_out(theirs: str, ours: str, keep: Set[str] | None, drop: Set[str]) -> bool:
    """Whether events of a type are left out, by either of its names."""
    return theirs in drop or ours in drop or (keep is not None and theirs not in keep and ours not in keep)


def _in_ms(time: Any, times: int, over: int) -> Any:
    """A float, or a number as text, as ms: time * times / over. Other values stay as they are, text with a date too."""
    if isinstance(time, str):
        text = time.strip()
        if INTEGER.fullmatch(text):
            return int(text) * times // over
        time = float(text) if NUMBER.fullmatch(text) else time
    if type(time) is float and abs(time) < 1e30:
        return math.floor(time * times / over + 0.5)
    return time
