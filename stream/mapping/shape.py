"""The shape of a topic's messages by a mapping, for the worker's codec: a fast path for JSON, and one for all messages.

The fast path decodes only the fields on the mapping's paths, into a struct that is made for them at start. msgspec
checks there what most messages have: text and whole numbers as ids, numbers as prices. Whatever is different in a
message (a list in the place of an object, a price as text "9,90", NaN), the message is read again by the other path, as
a row of a log is. So the fast path changes the speed and nothing else; a property test compares the two.
"""

from collections.abc import Callable, Collection, Iterable
from operator import attrgetter
from types import GenericAlias
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from stream.mapping.paths import HEADERS, Path, path_text
from stream.mapping.reading import FIELDS, ITEM, TIME, USER, Reading
from stream.wire.codec import Amount, Given, Integer, MessageShape, Plain, Text
from stream.wire.fields import FIRST_CLICK_MS, LONGEST_WORD, time_ms
from stream.wire.json import UNDECODABLE, loosely

Word = Annotated[str, Meta(min_length=1, max_length=LONGEST_WORD)]
Id = Text | Integer | None
TYPES: dict[str, Any] = {
    **dict.fromkeys(("user_id", "item_id", "session_id", "category", "event_id"), Id),
    "timestamp": int | float | Annotated[str, Meta(min_length=1)] | None,
    "event_type": Word | Integer | None,
    "price": Amount | None,
    "quantity": Amount | None,
    "consent": bool | None,
}
"""Field -> the type of its values on the fast path."""

ONE_UNIT = (10**12, 10**13)
"""A number of this size is a time in ms."""

ELEMENT = 0
"""The part of a list in a Node: all elements have one type."""


class Node:
    """A part of the messages that has other parts, from which the type is made that msgspec decodes it into.

    parts  name, or ELEMENT -> the Node, or the type of the value
    """

    def __init__(self) -> None:
        self.parts: dict[str | int, Any] = {}

    def add(self, path: Path, kind: Any) -> Path:
        """Add a path with the type of its value. Returns the names and numbers that lead there in what is decoded.

        Raises ValueError if another path makes this impossible.
        """
        step, rest = path[0], path[1:]
        part = self.parts.setdefault(ELEMENT if isinstance(step, int) else step, Node() if rest else kind)
        if isinstance(part, Node) != bool(rest) or (not rest and part != kind):
            raise ValueError("two paths need different types")
        if ELEMENT in self.parts and len(self.parts) > 1:
            raise ValueError("one path leads into a list, another one into an object")
        here = step if isinstance(step, int) else f"f{list(self.parts).index(step)}"
        return (here, *part.add(rest, kind)) if rest else (here,)

    def type(self, **more: Any) -> Any:
        """A struct with the fields f0, f1 ..., or a list. Raises ValueError if msgspec cannot make it."""
        kinds = {step: part.type() if isinstance(part, Node) else part for step, part in self.parts.items()}
        if ELEMENT in kinds:
            return GenericAlias(list, (kinds[ELEMENT],))
        fields: list[tuple[str, Any, Any]] = []
        for number, (step, kind) in enumerate(kinds.items()):
            part = self.parts[step]
            empty: Any = None
            if isinstance(part, Node):
                empty = msgspec.field(default_factory=list if ELEMENT in part.parts else kind)
            fields.append((f"f{number}", kind, empty))
        names = {f"f{number}": str(step) for number, step in enumerate(kinds)}
        return msgspec.defstruct("Message", fields, rename=names, gc=False, **more)


def message_shape(reading: Reading) -> MessageShape:
    """The shape of messages that are read by `reading`."""
    decode = msgspec.json.Decoder(dict[str, Any]).decode

    def given(value: bytes) -> Given:
        try:
            message = decode(value)
        except UNDECODABLE as exc:
            message = loosely(value, exc)
        return Given(*reading.values(message))

    try:
        plain = _fast(reading)
    except ValueError:  # paths that one struct cannot have, such as `a` and `a.b`
        plain = _not_by_struct
    return MessageShape(plain, given, _names(reading), reading.headers)


NO_TEXT = ["not UTF-8"]
"""A header that is no text, in a message: a list is not usable in any field, so it is counted or refused like one."""


class WithHeaders(NamedTuple):
    """An aiokafka record whose value has its headers, too."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Any


def with_headers(
    value: bytes | None, headers: Iterable[tuple[str, bytes | None]] | None, names: Collection[str] | None
) -> bytes | None:
    """The value of a message, a JSON object, with its headers as the last field, HEADERS. Then nothing behind needs to
    know where a value of a click was: a log, a dead letter and a copy have the headers, too.

    names  of the headers to take; None = all that are text
    What is no JSON object is no click, and stays as it is where that is seen at its end.
    """
    found = {name: _text(data) for name, data in headers or () if data and (names is None or name in names)}
    if names is None:
        found = {name: text for name, text in found.items() if text != NO_TEXT}
    body = (value or b"").rstrip()
    if not found or body[-1:] != b"}":
        return value
    inner = body[:-1].rstrip()
    comma = b"" if inner[-1:] == b"{" else b","
    return b"".join((inner, comma, msgspec.json.encode({HEADERS: found})[1:]))


def _text(data: bytes) -> str | list[str]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return NO_TEXT


def all_with_headers(records: Iterable[Any], names: Collection[str]) -> list[WithHeaders]:
    """aiokafka's records with these headers in their values."""
    return [
        one
        if isinstance(one, WithHeaders)  # the rest of a batch comes a second time
        else WithHeaders(one.offset, one.timestamp, one.key, with_headers(one.value, one.headers, names), one.headers)
        for one in records
    ]


def anonymous_ids(reading: Reading, decode: Callable[[bytes], Any] | None = None) -> Callable[[bytes], str | None]:
    """The function that returns the anonymous id in a message that is a click; None if it has none.

    decode  gives what JSON would; None = the messages are JSON
    """
    if decode is None:
        usual = msgspec.json.Decoder(dict[str, Any]).decode

        def decode(value: bytes) -> Any:
            try:
                return usual(value)
            except UNDECODABLE as exc:
                return loosely(value, exc)

    message = decode
    return lambda value: reading.anonymous_id(message(value))


def decoded_shape(reading: Reading, decode: Callable[[bytes], Any]) -> MessageShape:
    """The shape of messages that another program than JSON's decodes: `decode` gives what JSON would."""

    def given(value: bytes) -> Given:
        return Given(*reading.values(decode(value)))

    return MessageShape(_not_by_struct, given, _names(reading))


def _names(reading: Reading) -> dict[str, str]:
    """Field -> "item_id (properties.product_id)": who sends the messages knows the path, and not Eddy's name."""
    texts = {name: list(map(path_text, paths)) for name, paths in zip(FIELDS, reading.paths, strict=True)}
    return {name: f"{name} ({' or '.join(paths)})" for name, paths in texts.items() if paths and paths != [name]}


def _not_by_struct(value: bytes) -> Plain:
    raise ValueError("read the message by the other path")


def _fast(reading: Reading) -> Callable[[bytes], Plain]:
    """The fast path. Raises ValueError if there is none for the mapping's paths."""
    root = Node()
    ways = [[root.add(path, TYPES[name]) for path in paths] for name, paths in zip(FIELDS, reading.paths, strict=True)]
    decode = msgspec.json.Decoder(root.type(namespace={"none": None})).decode
    first = [way[0] if way and all(isinstance(step, str) for step in way[0]) else ("none",) for way in ways]
    take = attrgetter(*(".".join(map(str, way)) for way in first))  # one call in C for all fields
    more = [(at, _getter(way)) for at, of_field in enumerate(ways) for way in of_field if way != first[at]]
    finish, (low, high) = reading.finisher(), ONE_UNIT

    def plain(value: bytes) -> Plain:
        message = decode(value)
        values = list(take(message))
        for at, get in more:
            if values[at] is None:
                values[at] = get(message)
        finish(values)
        time = values[TIME]
        if type(time) is not int or not low <= time < high:
            read = time_ms(time)
            if read is None or read[0] < FIRST_CLICK_MS:
                raise ValueError("read the message by the other path, which has the reason")
            values[TIME] = read[0]
        if values[USER] is None or values[ITEM] is None:
            raise ValueError("read the message by the other path, which has the reason")
        return Plain(*values)

    return plain


def _getter(way: Path) -> Callable[[Any], Any]:
    """The function that returns what a path leads to in a decoded struct; None if a list is too short."""

    def get(part: Any) -> Any:
        for step in way:
            if isinstance(step, str):
                part = getattr(part, step)
            elif step < len(part):
                part = part[step]
            else:
                return None
        return part

    return get
