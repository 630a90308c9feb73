"""Guesses a mapping from a sample of events: by the names of its fields first, and by their values.

A name counts only if the values fit: a `timestamp` must be a time, an `event` one of a few words, and the id of an
event must be different for each event. What is not certain becomes a line for the person who reads the result.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from stream.errors import ConfigError
from stream.guess.names import ANONYMOUS, FIELDS, event_type, rank, shows_a_list
from stream.guess.sample import Sample, Seen, counted
from stream.mapping.mapping import ClickMapping, Source
from stream.mapping.paths import Path, has_value, path_text, value_at
from stream.wire.fields import LONGEST_WORD

FITS = 0.95
"""Smallest share of values at a path that must fit a field."""

MOST_TYPES = 100
"""Of events; a field with more different values is no event type."""

FEW_EVENTS = 50
"""In a smaller sample each event may have another type."""

SHOWN_PATHS = 12
UNITS = {"s": "s", "ms": "ms", "µs": "us", "ns": "ns"}
"""Unit as the rules name it -> as a mapping does."""


@dataclass(frozen=True)
class Guess:
    """A guessed mapping.

    mapping  the mapping
    types    their event type -> events, the most frequent first; empty without an event type
    unsure   what a person should look at, one line each
    """

    mapping: ClickMapping
    types: dict[str, int]
    unsure: list[str] = field(default_factory=list)


def guess(sample: Sample, mixed: bool = False, form: str = "json") -> Guess:
    """Guess a mapping. Raises ConfigError if no field can be the user, the item or the time.

    mixed  the producers choose the partitions of the keys in different ways
    form   format of the messages, one of mapping.FORMATS
    """
    unsure: list[str] = []
    found: dict[str, tuple[Path, ...]] = {}
    for name in ("timestamp", "event_type", "item_id", "user_id", "session_id", "price", "quantity", "category"):
        taken = {path for paths in found.values() for path in paths}
        path = _by_name(sample, name, taken) or _by_values(sample, name, taken, unsure)
        if path is not None:
            found[name] = (path,)
    if "user_id" not in found:
        anonymous = _best(sample, "user_id", ANONYMOUS, {path for paths in found.values() for path in paths})
        if anonymous is not None:
            found["user_id"] = (anonymous,)
    if "user_id" not in found and "session_id" in found:
        found["user_id"] = found.pop("session_id")
        unsure.append("no field looks like the user: each session is a user")
    for name in ("user_id", "item_id", "timestamp"):
        if name not in found:
            paths = ", ".join(map(path_text, list(sample.seen)[:SHOWN_PATHS])) or "none"
            raise ConfigError(
                f"no field of {counted(len(sample.events), 'event')} looks like the {name}; write the mapping by hand "
                f"(docs/mapping.md). Fields with a value: {paths}"
            )
    found["user_id"] = _users(sample, found["user_id"][0], unsure)
    found["item_id"] = _with_others(sample, found["item_id"][0], "item_id")
    key = _key(sample, found, unsure)
    event_id = _by_name(sample, "event_id", {path for paths in found.values() for path in paths})
    if event_id is not None:
        found["event_id"] = (event_id,)
    types, renamed, shown = _types(sample, found.get("event_type"))
    drop_without = _without_item(sample, found, shown, unsure)
    _notes(sample, found, unsure)
    fields = {name: tuple(map(path_text, found[name])) for name in FIELDS if name in found}
    unit = _unit(sample.seen[found["timestamp"][0]])
    if mixed and key == "user_id":
        unsure.append("the producers choose a key's partition in different ways, so the workers re-key the messages")
    mapping = ClickMapping(
        Source(fields, unit),
        event_types=renamed,
        drop=shown,
        drop_without=drop_without,
        key=key,
        rekey=mixed or key != "user_id",
        format=form,
    )
    return Guess(mapping, types, unsure)


def unused(sample: Sample, mapping: ClickMapping) -> list[Seen]:
    """What was seen at paths that the mapping does not read."""
    read = {path for paths in mapping.topic.fields.values() for path in paths}
    return [seen for path, seen in sample.seen.items() if path_text(path) not in read]


# -- one field --------------------------------------------------------------------------------------------------------


def fits(seen: Seen, name: str, events: int) -> bool:
    """Whether the values at a path can be those of a field."""
    enough = FITS * seen.count
    if name == "timestamp":
        return seen.times >= enough
    if name == "event_type":
        few = len(seen.values) <= MOST_TYPES and (events < FEW_EVENTS or len(seen.values) <= events // 2)
        return few and seen.words >= enough and max(map(len, seen.values)) <= LONGEST_WORD
    if name in ("price", "quantity"):
        return seen.numbers >= enough
    if name == "event_id":
        return seen.words == seen.count >= FITS * events and len(seen.values) >= enough
    return seen.words >= enough


def _by_name(sample: Sample, name: str, taken: set[Path]) -> Path | None:
    return _best(sample, name, FIELDS[name], taken)


def _best(sample: Sample, name: str, names: tuple[str, ...], taken: set[Path]) -> Path | None:
    """The path with the most certain name whose values fit; of equal names the one nearest to the top, then the one
    with more values."""
    found = [
        (place, len(path), -seen.count, path)
        for path, seen in sample.seen.items()
        if path not in taken
        and (place := rank(path, names)) is not None
        and (name != "event_id" or len(path) == 1)
        and fits(seen, name, len(sample.events))
    ]
    return min(found, key=lambda one: one[:3])[3] if found else None


def _by_values(sample: Sample, name: str, taken: set[Path], unsure: list[str]) -> Path | None:
    """A path without a usual name whose values can only be those of a field that a click needs."""
    events = len(sample.events)
    left = [seen for path, seen in sample.seen.items() if path not in taken and seen.count >= FITS * events]
    if name == "timestamp":
        left = [seen for seen in left if seen.times == seen.count and not seen.keys]
    elif name == "user_id":
        left = [seen for seen in left if sample.keys is not None and seen.keys >= FITS * events]
    elif name == "item_id":
        left = [
            seen
            for seen in left
            if seen.words == seen.count and not seen.times and not seen.keys and 1 < len(seen.values) < seen.count
        ]
    else:
        return None
    if not left:
        return None
    best = max(left, key=lambda seen: len(seen.values))
    unsure.append(f"{name} is {path_text(best.path)} only because of its values, such as {_some(best.examples)}")
    return best.path


def _users(sample: Sample, first: Path, unsure: list[str]) -> tuple[Path, ...]:
    """The paths of the user: the user id, and where it is missing an anonymous id."""
    without = [event for event in sample.events if not has_value(value_at(event, first))]
    if not without:
        return (first,)
    anonymous = _best(sample, "user_id", ANONYMOUS, {first})
    share = f"{len(without) / len(sample.events):.0%} of the events"
    if anonymous is None:
        unsure.append(
            f"user_id: {path_text(first)} has no value in {share}, which become dead letters; with user_id in "
            "drop_without they are left out"
        )
        return (first,)
    unsure.append(
        f"user_id: where {path_text(first)} has no value ({share}), {path_text(anonymous)} is the user; the state does "
        "not move when the user id becomes known"
    )
    return (first, anonymous)


def _with_others(sample: Sample, first: Path, name: str) -> tuple[Path, ...]:
    """The path, and others with the same name that have a value where it has none, as products[0].product_id has."""
    paths = [first]
    left = [event for event in sample.events if not has_value(value_at(event, first))]
    for path, seen in sample.seen.items():
        if path[-1] == first[-1] and path != first and fits(seen, name, len(sample.events)):
            more = [event for event in left if not has_value(value_at(event, path))]
            if len(more) < len(left):
                paths.append(path)
                left = more
    return tuple(paths)


def _key(sample: Sample, found: dict[str, tuple[Path, ...]], unsure: list[str]) -> str:
    """What the key of the messages with an item is. If it is an id of the user, that one is the user: it has to be."""
    if sample.keys is None:
        return "user_id"
    keyed = [
        (event, key) for event, key in zip(sample.events, sample.keys, strict=True) if _first(event, found["item_id"])
    ]
    if not any(key for _, key in keyed):
        unsure.append("the messages have no key, so the workers re-key them by the user id")
        return "nothing"

    def same(*paths: Path) -> int:
        return sum(key == str(_first(event, paths)).encode(errors="replace") for event, key in keyed)

    enough = FITS * len(keyed)
    users = same(*found["user_id"])
    if users >= enough:
        return "user_id"
    equal = [path for path in sample.seen if same(path) >= enough]
    ids = [path for path in equal if rank(path, (*FIELDS["user_id"], *ANONYMOUS)) is not None]
    if ids:
        found["user_id"] = (ids[0],)
        unsure.append(f"user_id is {path_text(ids[0])}, because it is the key of the messages")
        return "user_id"
    what = f"it is {path_text(equal[0])}" if equal else "it is no field of the events"
    unsure.append(
        f"the key is the user id in {users:,} of {len(keyed):,} messages ({what}), so the workers re-key the messages"
    )
    return "other"


# -- types of events --------------------------------------------------------------------------------------------------


def _types(sample: Sample, paths: tuple[Path, ...] | None) -> tuple[dict[str, int], dict[str, str], tuple[str, ...]]:
    """Their event types with their number of events, Eddy's name of each, and those that only show items."""
    if paths is None:
        return {}, {}, ()
    types = dict(sample.seen[paths[0]].values.most_common())
    named = {theirs: event_type(theirs) for theirs in sorted(types)}
    renamed = {theirs: ours for theirs, ours in named.items() if ours is not None and ours != theirs}
    return types, renamed, tuple(sorted(theirs for theirs in types if shows_a_list(theirs)))


def _without_item(
    sample: Sample, found: dict[str, tuple[Path, ...]], shown: tuple[str, ...], unsure: list[str]
) -> tuple[str, ...]:
    """("item_id",) if events have no item: they are no clicks."""

    without = Counter(
        str(_first(event, found.get("event_type", ())) or "no type")
        for event in sample.events
        if _first(event, found["item_id"]) is None
    )
    unsure.extend(f"events of type {theirs!r} are left out, because they only show items" for theirs in shown)
    if not without:
        return ()
    types = ", ".join(f"{theirs} ({count:,})" for theirs, count in without.most_common(5))
    unsure.append(f"{counted(without.total(), 'event')} without an item, left out: {types}")
    return ("item_id",)


def _notes(sample: Sample, found: dict[str, tuple[Path, ...]], unsure: list[str]) -> None:
    """Lines on what a person may want to know about the chosen fields."""
    if "event_type" not in found:
        unsure.append("no field looks like the event type: all events are views")
    lists = [path for path in found["item_id"] if any(isinstance(step, int) for step in path)]
    if lists and any(len(_list(event, lists[0])) > 1 for event in sample.events):
        unsure.append(f"item_id: events have several items, of which the first one is read, {path_text(lists[0])}")


def _first(event: Any, paths: tuple[Path, ...]) -> Any:
    """The value at the first path that has one; None if none has."""
    return next((value for path in paths if has_value(value := value_at(event, path))), None)


def _list(event: Any, path: Path) -> list[Any]:
    at = next(number for number, step in enumerate(path) if isinstance(step, int))
    found = value_at(event, path[:at])
    return found if isinstance(found, list) else []


def _unit(times: Seen) -> str:
    """The unit of all times, if they are numbers in one unit."""
    [(unit, count)] = times.units.most_common(1)
    return UNITS.get(unit, "") if count == times.count else ""


def _some(values: list[str]) -> str:
    return ", ".join(repr(value[:40]) for value in values)
