"""Opens what decodes the messages of a worker's clicks topic: the codec, with the mapping and the registry it needs."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from stream.errors import ConfigError
from stream.kafka_config import KafkaConfig
from stream.manifest import Manifest
from stream.mapping.mapping import MappingFile
from stream.mapping.parse import check_key, mapping_of_model, read_mapping
from stream.mapping.reading import texts_of_id
from stream.mapping.shape import anonymous_ids, decoded_shape, message_shape
from stream.mapping.unused import UnusedPaths
from stream.meter import Meter
from stream.settings import Settings
from stream.wire.codec import Codec
from stream.wire.json import JsonCodec
from stream.wire.pseudonym import pseudonymous

if TYPE_CHECKING:
    from stream.registry.client import Registry


class Decoding(NamedTuple):
    """How a worker reads the messages of its clicks topic.

    users       returns the user ids in a decoded message
    users_mark  what a row's mark has of the key of --pseudonymise
    mapping     the mapping's file, for the log; "none" for messages with Eddy's fields
    rekey       a codec for the re-keying, which needs the raw user ids; None = the topic is keyed by the user
    anonymous   for the re-keying: value of a click -> its anonymous id, None = it has none. None itself if no state
                goes from such an id to a user
    unused      finds paths of the mapping without values; None = there is no mapping
    """

    codec: Codec
    users: Callable[[Mapping[str, Any]], list[str]]
    users_mark: int
    mapping: str
    rekey: Codec | None = None
    anonymous: Callable[[bytes], str | None] | None = None
    unused: UnusedPaths | None = None


def open_decoding(settings: Settings, manifest: Manifest, config: KafkaConfig, meter: Meter) -> Decoding:
    """Open the codec of a worker, with the mapping of its model. Waits for the Schema Registry, if it needs one.

    config  has the properties of the registry's client
    meter   gets the requests that the registry does not answer
    Raises ConfigError if the mapping, the key of --pseudonymise or the registry is not usable, ArtifactError if the
    model's mapping is not.
    """
    given = read_mapping(Path(settings.mapping)) if settings.mapping else None
    file = mapping_of_model(given, manifest, Path(settings.model))
    shape, users, name, rekeys, unused, anonymous = None, user_ids, "none", False, None, None
    if file is not None:
        check_key(file)
        reading = file.mapping.of_topic()
        shape, users, name, rekeys = message_shape(reading), reading.users, file.name, file.mapping.rekey
        decode: Callable[[bytes], Any] = msgspec.json.Decoder(dict[str, Any]).decode
        if file.mapping.format != "json":
            from stream.registry.framed import Framed  # the extra `registry` installs what it needs

            registry = registry_of(file, settings.schema_registry, config, meter)
            registry.wait()
            decode = Framed(registry, file.mapping.format)
            shape = decoded_shape(reading, decode)
        unused = UnusedPaths(file.name, reading, decode, not settings.pseudonymise)
        if file.mapping.carries:
            anonymous = anonymous_ids(reading, None if file.mapping.format == "json" else decode)
    limits = settings.max_message_bytes, int(settings.max_future_s * 1000)
    codec, users_mark = pseudonymous(JsonCodec(*limits, shape), settings.pseudonymise)
    rekey = JsonCodec(*limits, shape) if rekeys else None
    return Decoding(codec, users, users_mark, name, rekey, anonymous, unused)


def registry_of(file: MappingFile, url: str, config: KafkaConfig, meter: Meter | None = None) -> "Registry":
    """The Schema Registry that the format of a mapping needs. Raises ConfigError."""
    from stream.registry.client import Registry  # the extra `registry` installs what it needs

    if not url:
        raise ConfigError(
            f"mapping {file.name}: [message] format is {file.mapping.format!r}, which needs a Schema Registry; give "
            "--schema-registry"
        )
    return Registry(url, config, meter)


def user_ids(message: Mapping[str, Any]) -> list[str]:
    """The texts of the user id in a message with Eddy's fields."""
    return texts_of_id(message.get("user_id"))
