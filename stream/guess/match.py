"""Compares the path of a value with the usual names of a field, in stream/guess/names.py.

A name is the last one of the path, or the last two together: `product.id` is `productid`. Names as they are written
come first. After them come names with abbreviations, plurals and units: `evt.name`, `items[0].id`, `time_ms`. What
the object around a value is about can exclude it: `shipping.cost` is no price.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from stream.guess.names import (
    AMOUNTS,
    ANONYMOUS,
    EVENTS,
    FIELDS,
    FOREIGN,
    ITEMS,
    LEADING,
    SHORT_WORDS,
    TYPED,
    UNITS,
    WRAPPERS,
    folded,
    plain,
)
from stream.mapping.paths import HEADERS, Path

WORD_ENDS = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[\W_]+")


def rank(path: Path, names: Sequence[str]) -> int | None:
    """The place of a path's name among `names`; from len(names) on if it is abbreviated; None if it has none."""
    steps = [step for step in untyped(path) if isinstance(step, str)]
    if not steps:
        return None
    around = steps[-2] if len(steps) > 1 else ""
    last, object_ = plain(steps[-1]), plain(around)
    as_written = {last, object_ + last, f"{object_}.{last}"}
    spelled = {
        of_object + dot + of_last
        for of_last in _spellings(steps[-1])
        for of_object in ({""} | _spellings(around) | _spellings(_words(around)[-1] if around else ""))
        for dot in ("", ".")
    }
    for first, own in ((0, as_written), (len(names), as_written | spelled)):
        for place, name in enumerate(names, first):
            if name.startswith("~"):
                found = name[1:] in (_spellings(steps[-1]) if first else {last}) and _of_an_item(path)
            elif name.startswith("*"):
                found = any(word.endswith(name[1:]) for word in as_written)
            else:
                found = name in own
            if found:
                return place
    return None


def untyped(path: Path) -> Path:
    """A path to the name of its value, without the names of types after it: `time.$date.$numberLong` is `time`.

    Nor with what CloudEvents puts before the names of headers: `$headers.ce_type` is `$headers.type`.
    """
    while len(path) > 1 and path[-1] in TYPED:
        path = path[:-1]
    if path[0] == HEADERS and len(path) > 1:
        return (HEADERS, re.sub("^ce[-_]", "", str(path[1])), *path[2:])
    return path


def foreign(path: Path, field: str) -> bool:
    """Whether the object around a value shows that the value is not of this field: `user.created_at`."""
    path = untyped(path)
    if field == "event_type" and not _spellings(str(path[-1])) & {"type", "kind"}:
        return False
    return _is_one(_object(path), FOREIGN.get(field, ()))


def of_an_event(path: Path) -> bool:
    """Whether the value is in an object of the event, such as `evt`."""
    return _is_one(_object(path), EVENTS)


def at_the_top(path: Path) -> bool:
    """Whether no object around the value is about anything but the event."""
    objects = map(_noun, untyped(path)[:-1])
    return all(not noun or _is_one(noun, EVENTS) for noun in objects)


def has_another_name(path: Path, field: str) -> bool:
    """Whether the path has a usual name of another field. `id` may be the id of anything."""
    others = [*(names for other, names in FIELDS.items() if other not in (field, "event_id")), ANONYMOUS]
    return any(rank(path, names) is not None for names in others)


def is_amount(path: Path) -> bool:
    """Whether a name on the path is that of an amount."""
    names = (name for step in path if isinstance(step, str) for name in _spellings(step))
    return any(word in name for name in names for word in AMOUNTS)


def _of_an_item(path: Path) -> bool:
    noun = _object(path)
    return not noun or _is_one(noun, (*EVENTS, *ITEMS))


def _object(path: Path) -> str:
    """What the nearest object around a value is about; empty if all objects around it are wrappers."""
    return next(filter(None, map(_noun, reversed(untyped(path)[:-1]))), "")


def _noun(step: str | int) -> str:
    """The last word of an object's name that says what it is about: `product` of `ecommerce_product_1`."""
    if isinstance(step, int):
        return ""
    words = [SHORT_WORDS.get(word, word) for word in _words(step) if not word.isdigit()]
    return next((word for word in reversed(words) if word not in WRAPPERS), "")


def _is_one(noun: str, nouns: Sequence[str]) -> bool:
    return noun in nouns or noun.removesuffix("s") in nouns


def _words(name: str) -> list[str]:
    """The words of a name: `evtTs`, `evt_ts` and `EVT-TS` have the words evt and ts."""
    return [word.lower() for word in WORD_ENDS.split(folded(name)) if word] or [""]


@lru_cache(maxsize=4096)  # each field looks at all paths of a sample
def _spellings(name: str) -> frozenset[str]:
    """A name without its unit and with whole words for abbreviations, also of a name such as `evttype`."""
    words = _words(name)
    while len(words) > 1 and words[-1] in UNITS:
        words.pop()
    whole = [SHORT_WORDS.get(word, word) for word in words]
    turned = {"".join(whole)} | ({"".join((*whole[1:], whole[0]))} if whole[0] in LEADING else set())
    joined = "".join(words)
    begun = {joined} | {word + joined[len(short) :] for short, word in SHORT_WORDS.items() if joined.startswith(short)}
    ended = {one[: -len(short)] + word for one in begun for short, word in SHORT_WORDS.items() if one.endswith(short)}
    return frozenset(begun | ended | turned)
