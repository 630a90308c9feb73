"""Finds the path of one field: by its name, or by its values."""

import re
from collections.abc import Sequence
from typing import Any

from stream.guess.match import at_the_top, foreign, has_another_name, is_amount, rank, untyped
from stream.guess.names import ANONYMOUS, CLEAR_TYPES, FIELDS, PAGES, event_type, plain
from stream.guess.sample import Sample, Seen
from stream.log_lines import counted
from stream.mapping.paths import HEADERS, Path, has_value, path_text, value_at
from stream.wire.fields import LONGEST_WORD

FITS = 0.95
"""Smallest share of values at a path that must fit a field."""

MOST_TYPES = 100
"""Of events; a field with more different values is no event type."""

FEW_EVENTS = 50
"""In a smaller sample each event may have another type."""

CERTAIN = 8
"""An event name of so many letters, such as addtocart, needs no second one beside it."""

SHOWN_PATHS = 12

DAY_OR_MONTH_FIRST = re.compile(r"\d{1,2}([./-])\d{1,2}\1(\d{4}|\d{2})(\D.*)?")
"""A date such as 26.11.2026 or 11/26/26, also with a time of day. It is not read: 01.12.2024 has two meanings."""


def fits(seen: Seen, name: str, events: int) -> bool:
    """Whether the values at a path can be those of a field."""
    enough = FITS * seen.count
    if name == "timestamp":
        return seen.times >= enough
    if name == "event_type":
        few = len(seen.values) <= MOST_TYPES and (events < FEW_EVENTS or len(seen.values) <= events // 2)
        return few and seen.words >= enough and max(map(len, seen.values)) <= LONGEST_WORD
    if name in ("price", "quantity"):
        path = untyped(seen.path)
        amount = plain(str(path[-1])) in ("amount", "amt") and rank(path[-2:-1], FIELDS["price"]) is None
        return seen.numbers >= enough and (seen.decimals > 0 or not amount)  # whole numbers may be a quantity
    if name == "event_id":
        return seen.words == seen.count >= FITS * events and len(seen.values) >= enough
    return seen.words >= enough


def find(sample: Sample, name: str, taken: set[Path], unsure: list[str]) -> Path | None:
    """The path of a field; None if no path has a usual name of it, and the values do not show it either."""
    named = by_name(sample, name, taken)
    if name == "event_type" and (named is None or not any(map(event_type, sample.seen[named].values))):
        path = _known_types(sample, taken)
        if path is not None:
            return path
        path = _type_by_values(sample, taken)
    else:
        path = None if named is not None else _by_values(sample, name, taken)
    if path is None or path == named:
        return named
    unsure.append(f"{name} is {path_text(path)} only because of its values, such as {_some(sample.seen[path])}")
    return path


def by_name(sample: Sample, name: str, taken: set[Path]) -> Path | None:
    """The path of a field with a usual name of it."""
    return _best(sample, name, FIELDS[name], taken)


def anonymous(sample: Sample, taken: set[Path]) -> Path | None:
    """The path of an id that a user has before a user id is known."""
    return _best(sample, "user_id", ANONYMOUS, taken)


def first_value(event: Any, paths: tuple[Path, ...]) -> Any:
    """The value at the first path that has one; None if none has."""
    return next((value for path in paths if has_value(value := value_at(event, path))), None)


def not_found(sample: Sample, names: Sequence[str], taken: set[Path]) -> str:
    """The message for fields that a click needs and that no path looks like: what a person could choose from."""
    events = counted(len(sample.events), "event")
    parts: list[str] = []
    for name in names:
        unread = _unread_times(sample, taken) if name == "timestamp" else None
        if unread is not None:
            parts.append(
                f"{'No' if parts else 'no'} field of {events} looks like a time that is read. {path_text(unread.path)} "
                f"({_some(unread)}) has dates that begin with the day or the month, and their order is not known: "
                "write them as ISO 8601 (2024-12-01T15:30:00Z) or as s or ms since 1970, at the producer or in the "
                "file, and run `eddy init` again (docs/events.md has all times that are read)"
            )
        elif parts:
            parts.append(f"No field looks like the {name} either. {_candidates(sample, name, taken)}")
        else:
            parts.append(
                f"no field of {events} looks like the {name}; write the mapping by hand (docs/mapping.md). "
                f"{_candidates(sample, name, taken)}"
            )
    return ". ".join(parts)


def _unread_times(sample: Sample, taken: set[Path]) -> Seen | None:
    """The field most of whose values are dates that begin with the day or the month; None if no field is so.

    A field with a usual name of the time comes before others.
    """
    left = [seen for path, seen in sample.seen.items() if path not in taken and 2 * _days(seen) > seen.count]
    return min(left, key=lambda seen: (rank(seen.path, FIELDS["timestamp"]) is None, -seen.count), default=None)


def _days(seen: Seen) -> int:
    return sum(count for text, count in seen.values.items() if DAY_OR_MONTH_FIRST.fullmatch(text))


def _candidates(sample: Sample, name: str, taken: set[Path]) -> str:
    could = [seen for path, seen in sample.seen.items() if path not in taken]
    could = [seen for seen in could if (seen.times > 0 if name == "timestamp" else _could_be_id(seen))]
    could.sort(key=lambda seen: (-len(seen.values), -seen.count))
    what = "Candidates by their values, with the share of events that have them: "
    if not could:
        could = list(sample.seen.values())
        kind = "times" if name == "timestamp" else "words"
        what = f"Fields with a value, of which docs/events.md lists what is read as {kind}: "
    events = len(sample.events)
    shown = [f"{path_text(seen.path)} ({seen.count / events:.0%}, {_some(seen)})" for seen in could[:SHOWN_PATHS]]
    return what + (", ".join(shown) or "none")


def _best(sample: Sample, name: str, names: tuple[str, ...], taken: set[Path]) -> Path | None:
    """The path with the most certain name whose values fit; of equal names the one nearest to the top, then the one
    with more values. An id that never comes again is the user only if no other path can be, and a Kafka header is read
    only if the message has nothing: many headers are of programs that carry it."""
    found = [
        (path[0] == HEADERS, name == "user_id" and never_again(seen), place, len(path), -seen.count, path)
        for path, seen in sample.seen.items()
        if path not in taken
        and (place := rank(path, names)) is not None
        and not foreign(path, name)
        and (name != "event_id" or at_the_top(path))
        and fits(seen, name, len(sample.events))
        and not (name == "item_id" and place >= len(names) and never_again(seen))
    ]
    return min(found, key=lambda one: one[:5])[5] if found else None


def never_again(seen: Seen) -> bool:
    """Whether each event has another value: `line_items[0].id` is the id of the line, and not of the item."""
    return seen.count >= FEW_EVENTS and len(seen.values) >= FITS * seen.count


def _by_values(sample: Sample, name: str, taken: set[Path]) -> Path | None:
    """A path without a usual name whose values can only be those of a field that a click needs."""
    events = len(sample.events)
    left = [seen for path, seen in sample.seen.items() if path not in taken and seen.count >= FITS * events]
    left = [seen for seen in left if seen.path[0] != HEADERS]
    if name != "user_id":
        left = [seen for seen in left if not has_another_name(seen.path, name)]
    if name == "timestamp":
        left = [seen for seen in left if fits(seen, name, events) and not seen.keys]
    elif name == "user_id":
        left = [seen for seen in left if sample.keys is not None and seen.keys >= FITS * events]
    elif name == "item_id":
        left = [seen for seen in left if seen.words == seen.count and not seen.keys and _could_be_id(seen)]
    else:
        return None
    return max(left, key=lambda seen: len(seen.values)).path if left else None


def _could_be_id(seen: Seen) -> bool:
    """Whether the values can be ids that come again: no times, no amounts, and not another one for each event."""
    again = 1 < len(seen.values) < seen.count and (seen.count < FEW_EVENTS or len(seen.values) < FITS * seen.count)
    amounts = seen.decimals > (1 - FITS) * seen.count or is_amount(seen.path)
    return again and not seen.times and not amounts and seen.words >= FITS * seen.count


def _known_types(sample: Sample, taken: set[Path]) -> Path | None:
    """The path with a clear name of an event type and with some of Eddy's event types, such as `evt.name`."""
    known = {path for path, seen in sample.seen.items() if any(map(event_type, seen.values))}
    return _best(sample, "event_type", CLEAR_TYPES, taken | (sample.seen.keys() - known))


def _type_by_values(sample: Sample, taken: set[Path]) -> Path | None:
    """The path whose few values have the most of Eddy's event types among them.

    One short name is not enough, and names that pages also have are not: a type of page may be "cart" or "purchase".
    """
    found = []
    for path, seen in sample.seen.items():
        if path in taken or not fits(seen, "event_type", len(sample.events)):
            continue
        known = {theirs: ours for theirs in seen.values if (ours := event_type(theirs)) is not None}
        names = [name for name in map(plain, known) if name not in PAGES]
        if names and (len(set(known.values())) > 1 or max(map(len, names)) >= CERTAIN):
            found.append((len(set(known.values())), sum(seen.values[theirs] for theirs in known), -len(path), path))
    return max(found, key=lambda one: one[:3])[3] if found else None


def _some(seen: Seen) -> str:
    return ", ".join(repr(value[:40]) for value in seen.examples)
