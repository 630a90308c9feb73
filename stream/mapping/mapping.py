"""A mapping: how the clicks of one shop are read. docs/mapping.md explains the file by examples; parse.py reads it.

One file serves `eddy train`, `evaluate`, `replay` and `worker`. A model directory has a copy of the file, and the
manifest has the hash of its content, so no worker can read clicks in another way than the model was trained on.
"""

import hashlib
from typing import Any

import msgspec
from msgspec import Struct

from stream.mapping.paths import parse_path
from stream.mapping.reading import FIELDS, Reading

KEYS = ("user_id", "other", "nothing")
"""What the key of a message may be."""

FORMATS = ("json", "avro", "protobuf")
"""Formats of the messages of a topic. The schemas of all but JSON are in a Schema Registry."""

ANONYMOUS = "anonymous_id"
"""Has paths like a field of a click, and is none: the id of a user until there is a user id, which gets the state."""

SHOWN_DIFFERENCES = 3
SHOWN_CHARACTERS = 80
"""Of a value."""


class Source(Struct, frozen=True, omit_defaults=True):
    """Where the values are in the messages of a topic or the rows of a log.

    fields  field of a click, or ANONYMOUS -> its paths, the preferred one first
    unit    of times that are numbers; "" = by their size
    """

    fields: dict[str, tuple[str, ...]]
    unit: str = ""


class ClickMapping(Struct, frozen=True, omit_defaults=True):
    """The content of a mapping file.

    topic         where the values are in a message
    log           where they are in a row of a log; None = as in a message
    event_types   their event type -> Eddy's
    keep          event types that are clicks, in their names or in Eddy's; None = all
    drop          event types that are no clicks
    drop_without  fields without which an event is no click
    defaults      field -> value of an event that has none
    key           what the key of a message is, one of KEYS
    rekey         the workers copy the messages to a topic that is keyed by the user (stream.rekey)
    format        of the messages of the topic, one of FORMATS
    """

    topic: Source
    log: Source | None = None
    event_types: dict[str, str] = {}
    keep: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    drop_without: tuple[str, ...] = ()
    defaults: dict[str, str | float] = {}
    key: str = "user_id"
    rekey: bool = False
    format: str = "json"

    @property
    def hash(self) -> str:
        """SHA-256 of the content, in hexadecimal: of what is read, not of comments or the order of the file.

        Nor of `rekey` and `format`, which change the way of a click and not what is read from it. Defaults are left
        out, so a field that a later Eddy adds does not change the hash of older files.
        """
        read = msgspec.structs.replace(self, rekey=False, format="json")
        return hashlib.sha256(msgspec.json.encode(read, order="sorted")).hexdigest()

    def of_topic(self) -> Reading:
        """How the messages of the clicks topic are read."""
        return self._reading(self.topic)

    def of_log(self) -> Reading:
        """How the rows of a log are read."""
        return self._reading(self.log or self.topic)

    @property
    def carries(self) -> bool:
        """Whether the state of an anonymous id becomes that of the user who logs in."""
        return ANONYMOUS in self.topic.fields

    def _reading(self, source: Source) -> Reading:
        paths = {name: tuple(map(parse_path, texts)) for name, texts in source.fields.items()}
        anonymous = paths.get(ANONYMOUS, ())
        paths["user_id"] += anonymous
        return Reading(
            tuple(paths.get(name, ()) for name in FIELDS),
            self.event_types,
            None if self.keep is None else frozenset(self.keep),
            frozenset(self.drop),
            tuple(map(FIELDS.index, self.drop_without)),
            {FIELDS.index(name): value for name, value in self.defaults.items()},
            source.unit,
            anonymous,
        )


class MappingFile(Struct, frozen=True):
    """A mapping with the text of its file, which a model directory keeps a copy of."""

    name: str
    text: str
    mapping: ClickMapping


def differences(own: ClickMapping, given: ClickMapping) -> str:
    """In what a file differs from a model's mapping, for messages: "[fields] user_id: model 'user.id', file 'visitor'".

    own, given  the mapping that the model was trained with, and that of the file
    The first SHOWN_DIFFERENCES entries of the file that change what is read, and how many more there are. "" if none
    does: `[key]` and `[message]` do not.
    """
    model, file = _entries(own), _entries(given)
    apart = [name for name in (model | file) if model.get(name) != file.get(name)]
    shown = [f"{name}: model {_shown(model.get(name))}, file {_shown(file.get(name))}" for name in apart]
    more = len(shown) - SHOWN_DIFFERENCES
    return "; ".join(shown[:SHOWN_DIFFERENCES]) + (f"; and {more:,} more" if more > 0 else "")


def _entries(mapping: ClickMapping) -> dict[str, Any]:
    """Entry, by its name in the file with the section -> its value."""
    found: dict[str, Any] = {}
    for prefix, source in (("", mapping.topic), ("log.", mapping.log)):
        if source is not None:
            found |= {f"[{prefix}fields] {name}": paths for name, paths in source.fields.items()}
            found |= {f"[{prefix}time] unit": source.unit} if source.unit else {}
    found |= {f"[event_types] {theirs!r}": ours for theirs, ours in mapping.event_types.items()}
    found |= {} if mapping.keep is None else {"[events] keep": mapping.keep}
    for name, words in (("drop", mapping.drop), ("drop_without", mapping.drop_without)):
        found |= {f"[events] {name}": words} if words else {}
    return found | {f"[defaults] {name}": value for name, value in mapping.defaults.items()}


def _shown(value: Any) -> str:
    """A value as a person would write it; "none" if there is none."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        value = value[0] if len(value) == 1 else list(value)
    return repr(value)[:SHOWN_CHARACTERS]
