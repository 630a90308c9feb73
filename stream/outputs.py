"""What Eddy writes, described for others: as columns of a table, and as JSON Schema.

Both come from the Structs of stream/events.py, so that a field is named in one place.
"""

from datetime import UTC, datetime, timedelta
from inspect import cleandoc
from types import UnionType
from typing import Any, NamedTuple, get_args

import msgspec
from msgspec import NODEFAULT, Struct

from stream.events import Anomaly, DeadLetter, Feedback, Recommendation, Session, SystemAlert

OUTPUTS: dict[str, type[Struct]] = {
    "recommendations": Recommendation,
    "anomalies": Anomaly,
    "system-alerts": SystemAlert,
    "sessions": Session,
    "dead-letters": DeadLetter,
    "feedback": Feedback,
}
"""Name of each output topic by default, without the prefix of the clicks topic -> what is on it."""

EPOCH = datetime.fromtimestamp(0, UTC)
DRAFT = "https://json-schema.org/draft/2020-12/schema"


class Column(NamedTuple):
    """One field of an event as a column.

    kind      the Python type of its values without None: str, int, float, datetime, list[str], dict[str, float] ...
    optional  the field may be missing
    """

    name: str
    kind: Any
    optional: bool


def columns(event: type[Struct]) -> list[Column]:
    """The columns of an event, in the order of its fields. `timestamp` is a datetime in UTC."""
    return [
        Column(
            field.name,
            datetime if field.name == "timestamp" else _without_none(field.type),
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
    return [
        EPOCH + timedelta(milliseconds=getattr(event, name)) if kind is datetime else getattr(event, name)
        for name, kind, _ in of
    ]


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema of the messages of an output. A later version may add fields, so other fields are allowed."""
    schema = msgspec.json.schema(OUTPUTS[name])
    for described in schema["$defs"].values():
        described["description"] = cleandoc(described["description"])
    return {"$schema": DRAFT, "title": OUTPUTS[name].__name__, **schema}
