"""Recognises requests about a user, and what the workers write to each other on the clicks topic.

A request has the user as key, no value and one header:

    eddy-forget  forget the user (`eddy forget`). The key is the user's id as a producer of clicks writes it
    eddy-quiet   keep alerts on the user back (`eddy feedback --quiet`). The value of the header says which, as JSON.
                 The key is the id as an alert has it: with --pseudonymise the pseudonym

A request is on the clicks topic, because its place among the user's clicks then says which of them it covers, and
because the worker applies it in the transaction that moves its offset. A message without a value and without such a
header is a dead letter as ever: a faulty producer must not delete states.

Where states go from anonymous ids to users, the re-keying and the workers write two more kinds of messages:

    eddy-join     a click with both ids, on its way: the key is the anonymous id, the value of the header the user's
    eddy-carried  the same click where the user's other clicks are, with the state of the anonymous id if it had one.
                  The key is the user, and the message has no value: the header has all of it (Carried)
"""

from collections.abc import Collection
from typing import Annotated, Any

import msgspec

from stream.wire.codec import Codec

FORGET_HEADER, QUIET_HEADER = "eddy-forget", "eddy-quiet"
JOIN_HEADER, CARRIED_HEADER = "eddy-join", "eddy-carried"

LATEST_MS = (2**32 - 1) * 1000
"""A row has the time in s, as an unsigned number of 32 bits."""


class Quieting(msgspec.Struct, frozen=True, omit_defaults=True):
    """The value of QUIET_HEADER: which alerts on the user are kept back.

    until_ms    those on clicks before this time, ms since the epoch; 0 = none is kept back any longer
    statistics  those for these statistics; empty = all
    """

    until_ms: Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)]
    statistics: list[str] = []


class Carried(msgspec.Struct, frozen=True, array_like=True):
    """The value of CARRIED_HEADER, in MessagePack.

    group  whose worker has written it: the states of other groups are not these
    value  of the click's message
    row    the state of the anonymous id, as a changelog of the user would have it; None = there is none
    """

    group: str
    value: bytes
    row: bytes | None = None


encode_carried = msgspec.msgpack.Encoder().encode
_decode_carried = msgspec.msgpack.Decoder(Carried).decode


def user_to_join(record: Any) -> bytes | None:
    """The key of the user to whom a click with an anonymous id as key belongs; None for any other message."""
    if not record.headers or not record.key or not record.value:
        return None
    return next((value for one, value in record.headers if one == JOIN_HEADER), None) or None


def carried(record: Any) -> Carried | None:
    """What a message has carried to the user who is its key; None for any other message."""
    header = _header(record, CARRIED_HEADER)
    if not header:
        return None
    try:
        return _decode_carried(header)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def without_ours(headers: Any) -> list[tuple[str, bytes | None]]:
    """The headers of a message but for those that only the re-keying and the workers write."""
    return [pair for pair in headers or () if pair[0] not in (JOIN_HEADER, CARRIED_HEADER)]


def user_to_forget(record: Any, codec: Codec) -> bytes | None:
    """The id, in UTF-8, of the user whom a message asks to forget; None if the message is no such request.

    record  an aiokafka ConsumerRecord
    """
    return None if _header(record, FORGET_HEADER) is None else codec.user(record.key)


def quieting(record: Any, statistics: Collection[str]) -> Quieting | None:
    """What a message asks to keep back of the alerts on the user who is its key; None if it is no such request.

    record      an aiokafka ConsumerRecord
    statistics  the names that there are; a request with another one is none
    """
    try:
        found = msgspec.json.decode(_header(record, QUIET_HEADER) or b"", type=Quieting)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return found if set(found.statistics) <= set(statistics) else None


def _header(record: Any, name: str) -> bytes | None:
    """The value of a header of a message with a key and without a value; None if there is no such header."""
    if record.value is not None or not record.key:
        return None
    return next((value or b"" for one, value in record.headers if one == name), None)
