"""What JSON would give -> messages in Confluent's wire format, the inverse of framed.py.

They have the newest schema of a subject. It serves `eddy replay`: workers write no topic in their clicks' format.
"""

from collections.abc import Callable
from typing import Any

from stream.errors import BadClick, ConfigError
from stream.registry.avro_writer import avro_writer
from stream.registry.client import Registry, Texts
from stream.registry.framed import BODIES
from stream.registry.protobuf_writer import protobuf_writer

Units = tuple[int, int]
"""(a, b) of times that are numbers: the number times a / b is in ms."""

WRITERS: dict[str, Callable[[Texts, Units | None], Callable[[Any], bytes]]] = {
    "avro": avro_writer,
    "protobuf": protobuf_writer,
}
"""Format of a mapping -> the function that makes a schema ready: what it returns makes the bytes after the id."""


class Framing:
    """Makes messages of one format."""

    def __init__(self, registry: Registry, form: str, subject: str, units: Units | None) -> None:
        """form   one of WRITERS
        units  of the times in the values; None = ms, which are written in the unit that the schema says

        Raises ConfigError if the subject has no schema that can be used, NoRegistry.
        """
        try:
            number, texts = registry.newest(subject)
        except BadClick:
            raise ConfigError(
                f"the Schema Registry at {registry.url} has no schema for the subject {subject}; register the schema "
                "of the topic's producers there first"
            ) from None
        try:
            if texts.form != form:
                raise ValueError(f"it is {texts.form}, and the mapping says format = {form!r}")
            BODIES[form](texts)  # a worker must be able to read it
            self._write = WRITERS[form](texts, units)
        except Exception as exc:  # of a library: the text comes from others
            why = " ".join(str(exc).split())[:200] or type(exc).__name__
            raise ConfigError(f"schema {number} of the subject {subject} cannot be used: {why}") from None
        self._head = b"\0" + number.to_bytes(4, "big")

    def __call__(self, value: Any) -> bytes:
        """The message of a value. Raises BadClick if the schema cannot hold it."""
        try:
            return self._head + self._write(value)
        except Exception as exc:  # the libraries have many, all of them about this value
            raise BadClick("not_of_schema", f"the schema cannot hold it: {' '.join(str(exc).split())[:200]}") from None
