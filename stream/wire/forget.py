"""Recognises a request to forget a user: a message on the clicks topic with the user as key, no value and one header.

The request is on the clicks topic, because its place among the user's clicks then says which of them it covers, and
because the worker applies it in the transaction that moves its offset. A message without a value and without the header
is a dead letter as ever: a faulty producer must not delete states.
"""

from typing import Any

from stream.wire.codec import Codec

FORGET_HEADER = "eddy-forget"


def user_to_forget(record: Any, codec: Codec) -> bytes | None:
    """The id, in UTF-8, of the user whom a message asks to forget; None if the message is no such request.

    record  an aiokafka ConsumerRecord
    """
    if record.value is not None or not record.key or not any(name == FORGET_HEADER for name, _ in record.headers):
        return None
    return codec.user(record.key)
