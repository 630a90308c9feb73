"""Messages of a clicks topic -> lines of a log, which the same mapping reads as the same clicks.

A message is decoded as a worker decodes it, so the same messages are clicks. The line of a click is the value of its
message, whole and unchanged but for line breaks between its parts:

    messages in                 a line has
    JSON                        the value
    Avro, Protobuf              what they are decoded to, in JSON; the paths of a mapping lead there
    any, and [log] in mapping   the values of the click, at the paths of [log.fields]

Headers that the mapping reads are in the value by then. No mapping reads a click's values from key or time.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec

from stream.events import Click
from stream.kafka_config import KafkaConfig
from stream.mapping.decoding import registry_of
from stream.mapping.mapping import ClickMapping, MappingFile
from stream.mapping.shape import anonymous_ids, decoded_shape, message_shape
from stream.mapping.unused import UnusedPaths
from stream.mapping.written import values
from stream.wire.json import JsonCodec

BOM = b"\xef\xbb\xbf"


Line = Callable[[bytes, Click], bytes]
"""Value of a message, and its click -> the line, without a line break at its end."""


class Lines(NamedTuple):
    """How the clicks of a topic become lines.

    codec  the worker's codec, which decides which messages are clicks
    keyed  the key of a click's message must be its user, or else a worker refuses it
    line   makes the line; it is called with the message that the codec has decoded last
    unused finds paths of the mapping without values; None = there is no mapping
    """

    codec: JsonCodec
    keyed: bool
    line: Line
    unused: UnusedPaths | None = None

    def of(self, key: bytes | None, value: bytes | None, now_ms: int) -> tuple[Click, bytes]:
        """A message as a click and a line. Raises BadClick if a worker would not take it as a click, NoRegistry."""
        click = self.codec.decode(key, value, now_ms)
        if self.keyed:
            self.codec.check_key(key, click.user_id)
        return click, self.line(value or b"", click)


def lines_of(file: MappingFile | None, schema_registry: str, limits: tuple[int, int], config: KafkaConfig) -> Lines:
    """The lines of a topic with this mapping; None = its messages have Eddy's fields. limits: arguments of JsonCodec

    Raises ConfigError if the registry of the mapping's format does not answer.
    """
    if file is None:
        return Lines(JsonCodec(*limits), True, _unchanged)
    mapping, reading = file.mapping, file.mapping.of_topic()
    shape, decode = message_shape(reading), None
    message: Callable[[bytes], Any] = msgspec.json.Decoder(dict[str, Any]).decode
    line: Line = _unchanged
    if mapping.format != "json":
        from stream.registry.framed import Framed  # the extra `registry` installs what it needs

        registry = registry_of(file, schema_registry, config)
        registry.check()
        decode = message = _Last(Framed(registry, mapping.format))
        shape, line = decoded_shape(reading, decode), decode.line
    if mapping.log is not None:
        line = _row(mapping, anonymous_ids(reading, decode) if mapping.carries else None)
    # Without re-keying, no worker reads a topic that is keyed by something else; a model can be trained on it
    keyed = mapping.key == "user_id" and not mapping.rekey
    return Lines(JsonCodec(*limits, shape), keyed, line, UnusedPaths(file.name, reading, message))


def _unchanged(value: bytes, _: Click) -> bytes:
    """A JSON object as one line. In JSON a line break stands between the parts of an object, where a blank may stand.

    A worker reads bytes that are not UTF-8 if they are in no field of a click. They are replaced, as readers do.
    """
    line = value.removeprefix(BOM).replace(b"\n", b" ").replace(b"\r", b" ").strip()
    try:
        line.decode()
    except UnicodeDecodeError:
        return line.decode(errors="replace").encode()
    return line


class _Last:
    """Decodes messages, and keeps the last one: the codec and the line need the same, and decoding takes time."""

    def __init__(self, decode: Callable[[bytes], Any]) -> None:
        self._decode = decode
        self._last: Any = None

    def __call__(self, value: bytes) -> Any:
        self._last = self._decode(value)
        return self._last

    def line(self, value: bytes, click: Click) -> bytes:
        return json.dumps(self._last, default=list).encode()  # as for an Avro file: bytes that are no text are a list


def _row(mapping: ClickMapping, anonymous: Callable[[bytes], str | None] | None) -> Line:
    """The function that makes a row with the shape of the mapping's log. anonymous: value -> the anonymous id in it"""
    log = mapping.log
    assert log is not None

    def line(value: bytes, click: Click) -> bytes:
        return json.dumps(values(mapping, click, log, anonymous and anonymous(value))).encode()

    return line
