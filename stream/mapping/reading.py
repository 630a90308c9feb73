"""Takes the values of a click from a message or from a row of a log. Both use this code, so both are read alike.

1. Each field gets the value at the first of its paths that has one.
2. The event type gets Eddy's name. A message that the mapping leaves out ends here (Dropped).
3. A field without a value gets the mapping's default.

The values are not checked here: stream/wire/json.py and export/log/columns.py do that, by the rules of wire/fields.py.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stream.errors import Dropped
from stream.mapping.paths import Path, has_value, value_at
from stream.wire.codec import Given
from stream.wire.fields import DEFAULT_EVENT, INTEGER, LONGEST_WORD, NUMBER, Unusable, word

FIELDS = Given.__struct_fields__
"""The fields of a click, in the order of all lists of values here."""

USER, ITEM, TIME, EVENT = (FIELDS.index(name) for name in ("user_id", "item_id", "timestamp", "event_type"))

UNITS = {"s": (1_000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}
"""Unit of times that are numbers -> (a, b): the number times a / b is in ms."""

FIRST_MS, LAST_MS = 10**11, 10**13
"""From 1973 to 2286, a number of ms cannot be taken for another unit or for a date."""

BY_TYPE = ("event_type", "the mapping leaves out events of this type")
WITHOUT_VALUE = ("no_value", "the mapping leaves out events without a value in one of the fields of drop_without")


@dataclass(frozen=True)
class Reading:
    """Where the values of a click are, and which messages are clicks.

    paths       for each of FIELDS its paths, the preferred one first; none = the field is not read
    types       their event type -> Eddy's
    keep, drop  event types in their names or in Eddy's; keep None = all that are not dropped
    needed      indices of the fields without which a message is dropped
    defaults    index of a field -> its value where a message has none
    unit        of times that are numbers; "" = by their size
    """

    paths: tuple[tuple[Path, ...], ...]
    types: Mapping[str, str] = field(default_factory=dict)
    keep: frozenset[str] | None = None
    drop: frozenset[str] = frozenset()
    needed: tuple[int, ...] = ()
    defaults: Mapping[int, Any] = field(default_factory=dict)
    unit: str = ""

    def values(self, message: Any) -> list[Any]:
        """The value of each of FIELDS in a message (a decoded JSON object, or a row); None = no value.

        Raises Dropped if the mapping leaves the message out.
        """
        values = [next(filter(has_value, (value_at(message, path) for path in paths)), None) for paths in self.paths]
        return self.finish(values)

    def finish(self, values: list[Any]) -> list[Any]:
        """Steps 2 and 3 of the values of a message, in place. Raises Dropped."""
        theirs = ours = values[EVENT]
        if theirs is None:
            theirs = ours = values[EVENT] = self.defaults.get(EVENT, DEFAULT_EVENT)
        else:
            try:
                theirs = word(theirs, LONGEST_WORD) or DEFAULT_EVENT
                ours = values[EVENT] = self.types.get(theirs, theirs)
            except Unusable:  # the value stays, and is counted where the values are checked
                theirs = ours = DEFAULT_EVENT
        if theirs in self.drop or ours in self.drop:
            raise Dropped(*BY_TYPE)
        if self.keep is not None and theirs not in self.keep and ours not in self.keep:
            raise Dropped(*BY_TYPE)
        for at in self.needed:
            if values[at] is None:
                raise Dropped(*WITHOUT_VALUE)
        for at, default in self.defaults.items():
            if values[at] is None:
                values[at] = default
        if self.unit:
            values[TIME] = _in_ms(values[TIME], *UNITS[self.unit])
        return values

    def users(self, message: Mapping[str, Any]) -> list[str]:
        """All that a message has at the paths of the user id, for a program that must not show it."""
        return [str(value) for path in self.paths[USER] if has_value(value := value_at(message, path))]


def _in_ms(time: Any, times: int, over: int) -> Any:
    """A number in a unit as ms: time * times / over. Other values stay as they are, text with a date too.

    A number that is then no time between 1973 and 2286 becomes a list, which is no time in any unit.
    """
    number = time
    if isinstance(time, str):
        text = time.strip()
        number = int(text) if INTEGER.fullmatch(text) else float(text) if NUMBER.fullmatch(text) else time
    if type(number) is int:
        ms = number * times // over
    elif type(number) is float and abs(number) < 1e30:
        ms = math.floor(number * times / over + 0.5)
    else:
        return time
    return ms if FIRST_MS <= ms < LAST_MS else [time]
