"""Bytes in Confluent's wire format -> what JSON would give: a dict of texts, numbers, lists and dicts.

    byte 0      0, the magic byte
    bytes 1-4   the id of the schema, big-endian
    the rest    Avro: the body; Protobuf: the numbers of the message type in its file, and the body

Each schema is fetched and made ready once. An id has one schema for ever, so a message always means the same. Only an
id that the registry does not know is asked for again, because a copy of a registry may lag behind.

Source: Confluent's documentation of the wire format.
"""

import time
from collections.abc import Callable
from typing import Any

from stream.errors import BadClick, ConfigError
from stream.registry.avro import avro_body
from stream.registry.body import HEADER
from stream.registry.client import Registry, Texts
from stream.registry.protobuf import protobuf_body

UNKNOWN_S = 30.0
"""After so many seconds an unknown id is asked for again."""

MOST_UNKNOWN = 10_000
"""Unknown ids that are remembered. Random bytes could have any number of them."""

Body = Callable[[bytes], Any]
"""A message with its header -> its value. Raises any exception for bytes that are not of the schema."""

BODIES: dict[str, Callable[[Texts], Body]] = {"avro": avro_body, "protobuf": protobuf_body}
"""Format of a mapping -> the function that makes a schema ready. It raises ValueError for one that cannot be used."""


class Framed:
    """Decodes messages of one format.

    form      one of BODIES
    """

    def __init__(self, registry: Registry, form: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._registry = registry
        self._form = form
        self._clock_s = clock_s
        self._bodies: dict[int, Body] = {}
        self._unknown: dict[int, tuple[float, BadClick]] = {}  # until when, and why

    def __call__(self, value: bytes) -> Any:
        """Decode a message. Raises BadClick, or NoRegistry if its schema cannot be had at the moment."""
        if len(value) < HEADER or value[0]:
            raise BadClick(
                "no_schema_id",
                f"begins with {value[:HEADER]!r}; {self._form} needs the byte 0 and the 4 bytes of a schema's id",
            )
        schema = int.from_bytes(value[1:HEADER], "big")
        body = self._bodies.get(schema) or self._open(schema)
        try:
            return body(value)
        except BadClick:
            raise
        except Exception as exc:  # the libraries have many, all of them about these bytes
            why = f"{type(exc).__name__} {' '.join(str(exc).split())[:100]}".strip()
        raise BadClick("not_of_schema", f"the message is no {self._form} of schema {schema}: {why}")

    def _open(self, schema: int) -> Body:
        until_s, why = self._unknown.get(schema, (0.0, None))
        if why is not None and self._clock_s() < until_s:
            raise BadClick(why.reason, why.detail)
        try:
            texts = self._registry.schema(schema)
        except BadClick as exc:
            if len(self._unknown) >= MOST_UNKNOWN:
                self._unknown.clear()
            self._unknown[schema] = self._clock_s() + UNKNOWN_S, BadClick(exc.reason, exc.detail)
            raise
        body = self._bodies[schema] = self._ready(schema, texts)
        return body

    def _ready(self, schema: int, texts: Texts) -> Body:
        if texts.form != self._form:
            why = f"schema {schema} is {texts.form}, and the mapping says format = {self._form!r}"
        else:
            try:
                return BODIES[self._form](texts)
            except Exception as exc:  # of a library: the text comes from others
                why = f"schema {schema} cannot be used: {' '.join(str(exc).split())[:200] or type(exc).__name__}"

        def refused(value: bytes) -> Any:
            raise BadClick("unusable_schema", why)

        return refused


def form_of(registry: Registry, value: bytes) -> str | None:
    """The format of a message, one of BODIES; None if the message has no schema id, or one that is not known.

    Raises ConfigError for a schema of another format, NoRegistry.
    """
    if len(value) < HEADER or value[0]:
        return None
    try:
        form = registry.schema(int.from_bytes(value[1:HEADER], "big")).form
    except BadClick:
        return None
    if form not in BODIES:
        raise ConfigError(f"the messages have {form} schemas; Eddy reads those of {', '.join(BODIES)}")
    return form
