"""Defines the interface that converts message bytes to clicks. Each message format has one class (JSON: json.py).

Where the values of a click are in a message is its shape: that of docs/events.md, or one that stream/mapping makes.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple, Protocol

from msgspec import Meta, Struct

from stream.events import Click
from stream.wire.fields import DEFAULT_EVENT, LONGEST_ID, LONGEST_WORD

TRUSTED_MS = 86_400_000
"""A worker's clock that is behind Kafka's timestamp of a message by up to a day is corrected. It covers every mistake
of a time zone. A producer whose clock is further ahead cannot move the time of its users and partitions."""

Text = Annotated[str, Meta(min_length=1, max_length=LONGEST_ID)]
Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Amount = Annotated[float, Meta(ge=0)]


class Plain(Struct, gc=False):
    """A click in the usual form, which nearly all messages have. msgspec checks the types and limits in C.

    The values need no conversion, with one exception: text that is a float (see _has_float_text).

    timestamp  ms, years 2001 to 2286. In this range, no other unit is possible
    """

    user_id: Text | Integer
    item_id: Text | Integer
    timestamp: Annotated[int, Meta(ge=10**12, lt=10**13)]
    event_type: Annotated[str, Meta(min_length=1, max_length=LONGEST_WORD)] = DEFAULT_EVENT
    session_id: Text | Integer | None = None
    price: Amount | None = None
    quantity: Amount | None = None
    category: Text | Integer | None = None
    event_id: Text | Integer | None = None
    consent: bool | None = None


class Given(Struct, gc=False):
    """A click in any other form: a field may have a value of any type."""

    user_id: Any = None
    item_id: Any = None
    timestamp: Any = None
    event_type: Any = None
    session_id: Any = None
    price: Any = None
    quantity: Any = None
    category: Any = None
    event_id: Any = None
    consent: Any = None


class MessageShape(NamedTuple):
    """Where the values of a click are in a message.

    plain  bytes -> the click, if the message is in the usual form. For any other message it raises one of
           json.UNDECODABLE, and the message is read with `given`
    given  bytes -> the values of the click, of any type. Raises BadClick if the message cannot be decoded; where the
           schemas of the messages are in a Schema Registry also NoRegistry
    names  field -> its name with the paths in the message, for the details of dead letters; not there = the field's
    headers  names of the Kafka headers that must be in the message (mapping.shape.with_headers)
    Both functions raise Dropped for a message that the shape leaves out.
    """

    plain: Callable[[bytes], Plain]
    given: Callable[[bytes], Given]
    names: Mapping[str, str] = {}
    headers: tuple[str, ...] = ()


class Codec(Protocol):
    """Decodes messages of one format. tests/contracts/test_codecs.py tests every codec.

    left_out  optional field -> number of messages whose value in this field was not valid, since the last clear()
    headers   names of the Kafka headers that a message must have in its value (mapping.shape.with_headers)
    """

    left_out: Counter[str]
    headers: tuple[str, ...]

    def decode(self, key: bytes | None, value: bytes | None, now_ms: int) -> Click:
        """Decode one Kafka message to a click.

        key     a format may have values of the click in it. Whether it is the user id is not checked here
        value   the message; None is a tombstone
        now_ms  current time of the worker, ms since the epoch
        Raises only BadClick, so that no message can stop the stream; Dropped if the message is left out on purpose.
        The exception is NoRegistry: what this message is can be said later.
        """

    def check_key(self, key: bytes | None, user_id: str) -> None:
        """Raise BadClick if a message's key is not the user id that `decode` gave to its click.

        The key determines the partition, and a user's state is in one partition.
        """

    def user(self, key: bytes) -> bytes | None:
        """The id, in UTF-8, under which the user with this message key has a state; None if it is no user's key."""

    def keep(self, record: Any) -> Any:
        """What a dead letter may keep of a refused record: an object with its .offset .timestamp (ms) .key .value."""
