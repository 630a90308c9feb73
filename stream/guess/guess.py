"""Guesses a mapping from a sample of events: by the names of its fields first, and by their values.

A name counts only if the values fit: a `timestamp` must be a time, an `event` one of a few words, and the id of an
event must be different for each event. What is not certain becomes a line for the person who reads the result.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from stream.errors import ConfigError
from stream.guess.fields import anonymous, by_name, find, first_value, fits, never_again, not_found
from stream.guess.match import foreign, of_an_event, rank, untyped
from stream.guess.names import FIELDS, event_type, shows_a_list
from stream.guess.sample import Sample, Seen
from stream.guess.users import find_key, join, paths_of_key, user_notes, user_paths
from stream.log_lines import counted
from stream.mapping.mapping import ANONYMOUS, ClickMapping, Source
from stream.mapping.paths import Path, has_value, path_text, value_at

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
        path = find(sample, name, _taken(found) | _of_others(sample, found, name), unsure)
        if path is not None:
            found[name] = (path,)
    if "user_id" in found and never_again(sample.seen[found["user_id"][0]]):
        found["user_id"] = _comes_again(sample, found, unsure)
    if "user_id" not in found and (other := anonymous(sample, _taken(found))) is not None:
        found["user_id"] = (other,)
    if "user_id" not in found and (paths := paths_of_key(sample, found, unsure)):
        found["user_id"] = paths
    if "user_id" not in found and "session_id" in found:
        found["user_id"] = found.pop("session_id")
        unsure.append("no field looks like the user: each session is a user")
    if missing := [name for name in ("user_id", "item_id", "timestamp") if name not in found]:
        raise ConfigError(not_found(sample, missing, _taken(found)))
    if len(found["user_id"]) == 1:
        found["user_id"] = user_paths(sample, found["user_id"][0])
    found["item_id"] = _with_others(sample, found["item_id"][0], "item_id", _taken(found))
    key = find_key(sample, found, unsure)
    rekey = mixed or key != "user_id"
    if rekey and join(sample, found["user_id"]):
        found["user_id"], found[ANONYMOUS] = found["user_id"][:1], found["user_id"][1:]
    user_notes(sample, found["user_id"] + found.get(ANONYMOUS, ()), ANONYMOUS in found, found["item_id"], unsure)
    event_id = by_name(sample, "event_id", _taken(found))
    if event_id is not None:
        found["event_id"] = (event_id,)
    types, renamed, shown = _types(sample, found.get("event_type"))
    if types and not any(map(event_type, types)):
        unsure.append(
            "no event type is known by its name: if one is a cart or a purchase, name it so in [event_types], because "
            "forecasts and rules look for these names"
        )
    drop_without = _without_item(sample, found, shown, unsure)
    _notes(sample, found, unsure)
    fields = {name: tuple(map(path_text, found[name])) for name in (*FIELDS, ANONYMOUS) if name in found}
    unit = _unit(sample.seen[found["timestamp"][0]])
    if mixed and key == "user_id":
        unsure.append("the producers choose a key's partition in different ways, so the workers re-key the messages")
    mapping = ClickMapping(
        Source(fields, unit),
        event_types=renamed,
        drop=shown,
        drop_without=drop_without,
        key=key,
        rekey=rekey,
        format=form,
    )
    return Guess(mapping, types, unsure)


def _comes_again(sample: Sample, found: dict[str, tuple[Path, ...]], unsure: list[str]) -> tuple[Path, ...]:
    """The path of an anonymous id, in the place of a user id that is another one in each event: `evt.uid`."""
    never = found["user_id"][0]
    other = anonymous(sample, _taken(found))
    if other is not None and not never_again(sample.seen[other]):
        unsure.append(f"user_id is {path_text(other)}, because {path_text(never)} is another one in each event")
        return (other,)
    unsure.append(f"user_id: {path_text(never)} is another one in each event; is it the id of the event?")
    return (never,)


def _taken(found: dict[str, tuple[Path, ...]]) -> set[Path]:
    """The paths that have a field already."""
    return {path for paths in found.values() for path in paths}


def _of_others(sample: Sample, found: dict[str, tuple[Path, ...]], name: str) -> set[Path]:
    """The paths in an object of the event that are no category, because the item is not in this object too."""
    if name != "category" or "item_id" not in found:
        return set()
    item = found["item_id"][0]
    return {path for path in sample.seen if of_an_event(path) and item[: len(path) - 1] != path[:-1]}


def unused(sample: Sample, mapping: ClickMapping) -> list[Seen]:
    """What was seen at paths that the mapping does not read."""
    read = {path for paths in mapping.topic.fields.values() for path in paths}
    return [seen for path, seen in sample.seen.items() if path_text(path) not in read]


def _with_others(sample: Sample, first: Path, name: str, taken: set[Path]) -> tuple[Path, ...]:
    """The path, and others with the same name that have a value where it has none, as products[0].product_id has."""
    paths = [first]
    left = [event for event in sample.events if not has_value(value_at(event, first))]
    for path, seen in sample.seen.items():
        named = rank(first, FIELDS[name]) is None or rank(path, FIELDS[name]) is not None
        free = path not in taken and untyped(path)[-1] == untyped(first)[-1] and named and not foreign(path, name)
        if free and fits(seen, name, len(sample.events)):
            more = [event for event in left if not has_value(value_at(event, path))]
            if len(more) < len(left):
                paths.append(path)
                left = more
    return tuple(paths)


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
    paths = found.get("event_type", ())
    events = [event for event in sample.events if first_value(event, found["item_id"]) is None]
    without = Counter(str(first_value(event, paths) or "none") for event in events)
    unsure.extend(f"events of type {theirs!r} are left out, because they only show items" for theirs in shown)
    if not without:
        return ()
    types = ", ".join(f"{theirs} ({count:,})" for theirs, count in without.most_common(5))
    what = f"{counted(without.total(), 'event')} without an item {'is' if without.total() == 1 else 'are'} left out"
    unsure.append(f"{what}, because a click needs an item" + (f"; event types: {types}" if paths else ""))
    return ("item_id",)


def _notes(sample: Sample, found: dict[str, tuple[Path, ...]], unsure: list[str]) -> None:
    """Lines on what a person may want to know about the chosen fields."""
    if "event_type" not in found:
        unsure.append("no field looks like the event type: all events are views, purchases too")
    if "price" in found and (place := rank(found["price"][0], FIELDS["price"])) is not None:
        name = FIELDS["price"][place % len(FIELDS["price"])]
        if name.startswith("~") or name.endswith("cost"):
            price = path_text(found["price"][0])
            unsure.append(f"price is {price} by its name alone; check that it is what the user pays for one item")
    lists = [path for path in found["item_id"] if any(isinstance(step, int) for step in path)]
    if lists and any(len(_list(event, lists[0])) > 1 for event in sample.events):
        unsure.append(f"item_id: events have several items, of which the first one is read, {path_text(lists[0])}")


def _list(event: Any, path: Path) -> list[Any]:
    at = next(number for number, step in enumerate(path) if isinstance(step, int))
    found = value_at(event, path[:at])
    return found if isinstance(found, list) else []


def _unit(times: Seen) -> str:
    """The unit of all times, if they are numbers in one unit."""
    [(unit, count)] = times.units.most_common(1)
    return UNITS.get(unit, "") if count == times.times else ""
