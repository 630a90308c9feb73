"""Finds the paths of the user, and what the key of the messages is."""

from typing import Any

from stream.guess.fields import FITS, anonymous, first_value
from stream.guess.match import rank
from stream.guess.names import ANONYMOUS, FIELDS
from stream.guess.sample import Sample
from stream.mapping.paths import Path, has_value, path_text, value_at

NAMES = (*FIELDS["user_id"], *ANONYMOUS)
NO_USERS = ("timestamp", "event_type", "item_id", "price", "quantity", "category")
"""Fields whose paths are not looked at for the user."""

Keyed = list[tuple[Any, bytes | None]]
"""The events with an item, each with its message key."""


def user_paths(sample: Sample, path: Path) -> tuple[Path, ...]:
    """The paths of the user: the user id, and where it is missing an anonymous id."""
    if all(has_value(value_at(event, path)) for event in sample.events):
        return (path,)
    other = anonymous(sample, {path})
    return (path,) if other is None else (path, other)


def join(sample: Sample, paths: tuple[Path, ...]) -> bool:
    """Whether events show to which user an anonymous id, at the second path, belongs: they have both."""
    if len(paths) != 2 or rank(paths[1], ANONYMOUS) is None:
        return False
    return any(all(has_value(value_at(event, path)) for path in paths) for event in sample.events)


def user_notes(
    sample: Sample, paths: tuple[Path, ...], carries: bool, items: tuple[Path, ...], unsure: list[str]
) -> None:
    """A line on the events in which the user's first path has no value.

    carries  as of a mapping
    items    paths of the item: an event without an item is left out, with a line of its own
    """
    events = [event for event in sample.events if any(has_value(value_at(event, path)) for path in items)]
    without = sum(not has_value(value_at(event, paths[0])) for event in events)
    if not without:
        return
    percent = f"{without / len(sample.events):.0%}"
    share = f"{'less than 1%' if percent == '0%' else percent} of the events"
    if len(paths) == 1:
        unsure.append(
            f"user_id: {path_text(paths[0])} has no value in {share}, which become dead letters; with user_id in "
            "drop_without they are left out"
        )
    else:
        moves = "goes to the user" if carries else "does not move"
        unsure.append(
            f"user_id: where {path_text(paths[0])} has no value ({share}), {path_text(paths[1])} is the user; the "
            f"state {moves} when the user id becomes known"
        )


def paths_of_key(sample: Sample, found: dict[str, tuple[Path, ...]], unsure: list[str]) -> tuple[Path, ...]:
    """The path whose value is the key, or two of which the first one that has a value is the key: an id of the user
    and, where that is missing, an anonymous id. () without such paths.

    If a user is found by its name, one of them has to have a usual name too: the key may be of something else.
    """
    if sample.keys is None or "item_id" not in found:
        return ()
    keyed = _keyed(sample, found["item_id"])
    enough = FITS * len(keyed)
    taken = {path for name in NO_USERS for path in found.get(name, ())}
    same = {path: _same(keyed, path) for path, seen in sample.seen.items() if seen.keys and path not in taken}
    usual = {path: place for path in same if (place := rank(path, NAMES)) is not None}
    ordered = sorted(same, key=lambda path: usual.get(path, 2 * len(NAMES)))
    for one in ordered:
        if same[one] < FITS * sum(has_value(value_at(event, one)) for event, _ in keyed):
            continue
        for two in ordered:
            named = "user_id" not in found or one in usual or two in usual
            if named and same[one] + same[two] >= enough and _same(keyed, one, two) >= enough:
                paths = (one,) if same[one] >= enough else (one, two)
                why = "it is" if len(paths) == 1 else "the first one that has a value is"
                names = " and ".join(map(path_text, paths))
                unsure.append(f"user_id is {names}, because {why} the key of the messages")
                return paths
    return ()


def find_key(sample: Sample, found: dict[str, tuple[Path, ...]], unsure: list[str]) -> str:
    """What the key of the messages with an item is. If it is an id of the user, that one is the user: it has to be."""
    if sample.keys is None:
        return "user_id"
    keyed = _keyed(sample, found["item_id"])
    if not any(key for _, key in keyed):
        unsure.append("the messages have no key, so the workers re-key them by the user id")
        return "nothing"
    enough = FITS * len(keyed)
    users = _same(keyed, *found["user_id"])
    if users >= enough:
        return "user_id"
    equal = [path for path in sample.seen if _same(keyed, path) >= enough]
    ids = [path for path in equal if rank(path, NAMES) is not None]
    if ids:
        found["user_id"] = (ids[0],)
        unsure.append(f"user_id is {path_text(ids[0])}, because it is the key of the messages")
        return "user_id"
    if not equal and (pair := paths_of_key(sample, found, unsure)):
        found["user_id"] = pair
        return "user_id"
    what = f"it is {path_text(equal[0])}" if equal else "it is no field of the events"
    unsure.append(
        f"the key is the user id in {users:,} of {len(keyed):,} messages ({what}), so the workers re-key the messages"
    )
    return "other"


def _keyed(sample: Sample, item: tuple[Path, ...]) -> Keyed:
    """Events without an item may have any key, because they are no clicks."""
    assert sample.keys is not None
    both = zip(sample.events, sample.keys, strict=True)
    return [(event, key) for event, key in both if first_value(event, item) is not None]


def _same(keyed: Keyed, *paths: Path) -> int:
    """The number of messages whose key is the value at the first of the paths that has one."""
    return sum(key == str(first_value(event, paths)).encode(errors="replace") for event, key in keyed)
