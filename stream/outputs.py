"""What Eddy writes, described for others: as columns of a table, as JSON Schema and as Avro schema.

All come from the Structs of stream/events.py, feedback.py, trigger.py and behaviour.py, so that a field is named in one
place.
"""

from datetime import UTC, datetime, timedelta
from inspect import cleandoc
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin

import msgspec
from msgspec import NODEFAULT, Struct

from stream.behaviour import Behaviour
from stream.events import Anomaly, DeadLetter, Recommendation, Session, SystemAlert
from stream.feedback import Feedback
from stream.trigger import Trigger

OUTPUTS: dict[str, type[Struct]] = {
    "recommendations": Recommendation,
    "anomalies": Anomaly,
    "system-alerts": SystemAlert,
    "sessions": Session,
    "dead-letters": DeadLetter,
    "feedback": Feedback,
    "triggers": Trigger,
    "behaviour": Behaviour,
}
"""Name of each output topic by default, without the prefix of the clicks topic -> what is on it."""

IN_AVRO = ("recommendations", "anomalies", "system-alerts", "sessions", "triggers", "behaviour")
"""The outputs that `eddy sink` copies; they have an Avro schema, too. Dead letters are for `eddy dead-letters`, and
verdicts for `eddy calibrate`."""

EPOCH = datetime.fromtimestamp(0, UTC)
DRAFT = "https://json-schema.org/draft/2020-12/schema"
NAMESPACE = "eddy"

TIMES = ("timestamp", "started", "not_before", "hour")
"""Fields that are ms since the epoch, or missing."""

AVRO_TIME = {"type": "long", "logicalType": "timestamp-millis"}
AVRO_TYPES = {str: "string", int: "long", float: "double"}


class Column(NamedTuple):
    """One field of an event as a column.

    kind      the Python type of its values without None: str, int, float, datetime, list[str], dict[str, float] ...
    optional  the field may be missing
    """

    name: str
    kind: Any
    optional: bool


def columns(event: type[Struct]) -> list[Column]:
    """The columns of an event, in the order of its fields. Those of TIMES are datetimes in UTC."""
    return [
        Column(
            field.name,
            datetime if field.name in TIMES else _without_none(field.type),
            field.default is not NODEFAULT,
        )
        for field in msgspec.structs.fields(event)
    ]


def _without_none(kind: Any) -> Any:
    if not isinstance(kind, UnionType):
        return kind
    [found] = (one for one in get_args(kind) if one is not type(None))
    return found


def values(event: Struct, of: list[Column]) -> list[Any]:
    """The values of an event for its columns. Raises OverflowError if its time is after the year 9999."""
    return [_at(getattr(event, name)) if kind is datetime else getattr(event, name) for name, kind, _ in of]


def _at(time_ms: int | None) -> datetime | None:
    return None if time_ms is None else EPOCH + timedelta(milliseconds=time_ms)


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of the messages of an output. A later version may add fields, so other fields are allowed."""
    schema = msgspec.json.schema(OUTPUTS[name])
    for described in schema["$defs"].values():
        described["description"] = cleandoc(described["description"])
    return {"$schema": DRAFT, "title": OUTPUTS[name].__name__, **schema}


def avro_schema(name: str) -> dict[str, Any]:
    """The Avro schema of the messages of an output, one of IN_AVRO.

    A field that may be missing has a default, and so will those of later versions have: then each version of the schema
    reads the messages of every other one.
    """
    found: dict[str, Any] = _avro(OUTPUTS[name])
    return found


def flat_avro_schema(name: str) -> dict[str, Any]:
    """As `avro_schema`, but a list, a map or a record in a field is a text with its JSON.

    Connectors that write rows, such as Kafka Connect's JDBC sink, take these types only.
    """
    schema = avro_schema(name)
    return schema | {"fields": [field | {"type": _flat(field["type"])} for field in schema["fields"]]}


def flat_values(event: Struct) -> dict[str, Any]:
    """Field -> value of an event, for `flat_avro_schema`. JSON is compact, and U+00FC is written as such."""
    return {
        name: msgspec.json.encode(value).decode() if isinstance(value, list | dict) else value
        for name, value in msgspec.to_builtins(event).items()
    }


def _flat(kind: Any) -> Any:
    if isinstance(kind, list):
        return [_flat(each) for each in kind]
    return "string" if isinstance(kind, dict) and kind["type"] in ("array", "map", "record") else kind


def _avro(kind: Any) -> Any:
    """The Avro type of a Python type. A Struct is a record; each must be in an output once only."""
    if isinstance(kind, UnionType):
        return ["null", _avro(_without_none(kind))]
    if get_origin(kind) is list:
        return {"type": "array", "items": _avro(*get_args(kind))}
    if get_origin(kind) is dict:
        return {"type": "map", "values": _avro(get_args(kind)[1])}
    if kind in AVRO_TYPES:
        return AVRO_TYPES[kind]
    fields = [_avro_field(field) for field in msgspec.structs.fields(kind)]
    return {
        "type": "record",
        "name": kind.__name__,
        "namespace": NAMESPACE,
        "doc": cleandoc(kind.__doc__),
        "fields": fields,
    }


def _avro_field(field: Any) -> dict[str, Any]:
    kind = _avro(field.type)
    if field.name in TIMES:
        kind = AVRO_TIME if kind == "long" else ["null", AVRO_TIME]
    default = {} if field.default is NODEFAULT else {"default": field.default}
    return {"name": field.name, "type": kind, **default}
