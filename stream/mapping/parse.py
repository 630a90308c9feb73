"""Reads mapping files, and chooses the mapping of a model.

A name that is not known is refused with the nearest known one: a mistyped field would otherwise silently not be read.
"""

import tomllib
from collections.abc import Callable, Collection
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from stream.errors import ArtifactError, ConfigError
from stream.manifest import MAPPING, Manifest
from stream.mapping.mapping import ANONYMOUS, FORMATS, KEYS, ClickMapping, MappingFile, Source, differences
from stream.mapping.paths import HEADERS, parse_path, path_text
from stream.mapping.reading import EVENT, FIELDS, UNITS
from stream.wire.fields import LONGEST_ID, LONGEST_WORD, Unusable, number, word

T = TypeVar("T")

MOST_BYTES = 1 << 20
"""Of a file that a person writes."""

REQUIRED = ("user_id", "item_id", "timestamp")
DEFAULTS = ("event_type", "session_id", "price", "quantity", "category")
"""Fields that may have a default. One user, item, time or event id for all events would be wrong."""

SECTIONS = {
    "fields": (*FIELDS, ANONYMOUS),
    "event_types": None,
    "events": ("keep", "drop", "drop_without"),
    "defaults": DEFAULTS,
    "time": ("unit",),
    "key": ("holds", "rekey"),
    "message": ("format",),
    "log": ("fields", "time"),
}
"""Section of the file -> its names; None = any name."""


def read_mapping(path: Path) -> MappingFile:
    """Read a mapping file. Raises ConfigError; its one line has the section, what is wrong and the nearest name."""
    text = read_text(path, "mapping", "`eddy init` writes one from a sample of clicks")
    return MappingFile(str(path), text, parse_mapping(text, str(path)))


def parse_mapping(text: str, name: str) -> ClickMapping:
    """Parse the text of a mapping file; `name` is for messages. Raises ConfigError."""
    return parsed(text, f"mapping {name}", _mapping)


def mapping_of_model(given: MappingFile | None, manifest: Manifest, directory: Path) -> MappingFile | None:
    """The mapping by which clicks are read for a model: the one that it was trained with; None = it has none.

    given  the file of --mapping, which must have the model's content; None = no option was given
    Raises ConfigError if `given` is another mapping, ArtifactError if the model's copy is not what the manifest says.
    """
    if not isinstance(manifest.mapping, str):
        if given is None:
            return None
        raise ConfigError(
            f"model {manifest.label} was trained without a mapping: train it with --mapping {given.name}, or omit "
            "--mapping. For a log that has other columns than the topic, the file can have a section [log.fields]"
        )
    file = _own(manifest, directory)
    own = file.mapping
    # These change the way of a click, not what is read. Not by hash: a default that is written has another one
    if given is None or msgspec.structs.replace(given.mapping, key=own.key, rekey=own.rekey, format=own.format) == own:
        return given or file
    raise ConfigError(
        f"mapping {given.name} is not the one that model {manifest.label} was trained with. "
        f"{differences(own, given.mapping)}. Omit --mapping to use the model's, {directory / MAPPING}, or train again "
        f"with --mapping {given.name}"
    )


def _own(manifest: Manifest, directory: Path) -> MappingFile:
    """The copy in the model's directory. Raises ArtifactError if it is not what the manifest says."""
    try:
        own = read_mapping(directory / MAPPING)
    except ConfigError as exc:
        raise ArtifactError(f"model {directory}: {exc}; copy the directory again or train again") from exc
    if own.mapping.hash != manifest.mapping:
        raise ArtifactError(
            f"model {directory}: {MAPPING} has another content than the manifest says; train it again or upgrade Eddy"
        )
    return own


def check_key(file: MappingFile) -> None:
    """Raise ConfigError if the topic is neither keyed by the user, as a worker needs it, nor re-keyed.

    Also if a state has to go from an anonymous id to a user: it goes through the topic of the copies.
    """
    if file.mapping.carries and not file.mapping.rekey:
        raise ConfigError(
            f"mapping {file.name}: [fields] has {ANONYMOUS}, whose state goes over to the user who logs in; this needs "
            "re-keyed messages, because the two may be in different partitions: add rekey = true to [key]. Or write "
            "user_id as a list of both paths: a user who logs in then begins without a state"
        )
    if file.mapping.key != "user_id" and not file.mapping.rekey:
        raise ConfigError(
            f"mapping {file.name}: [key] holds = {file.mapping.key!r}, but a worker needs messages that are keyed by "
            "the user id, because the key decides which worker has a user's state; add rekey = true to [key], and the "
            "workers re-key them"
        )


# -- the sections -----------------------------------------------------------------------------------------------------


def _mapping(given: dict[str, Any]) -> ClickMapping:
    for name, section in given.items():
        known(name, SECTIONS, "the file has a section")
        names = SECTIONS[name]
        table(section, f"[{name}]")
        for word_ in section if names is not None else ():
            known(word_, names or (), f"[{name}] has")
    events = given.get("events", {})
    keep, drop = (_types(events.get(name), f"[events] {name}") for name in ("keep", "drop"))
    both = set(keep or ()) & set(drop or ())
    if both:
        raise ConfigError(f"[events] keep and drop both have {listed(both)}")
    if keep == ():
        raise ConfigError("[events] keep is empty, so no event would be a click; omit it to keep all events")
    needed = _words(events.get("drop_without"), "[events] drop_without") or ()
    for name in needed:
        known(name, FIELDS, "[events] drop_without has")
    defaults = {name: _default(name, value) for name, value in given.get("defaults", {}).items()}
    topic = _source(given, "")
    log = _source(given["log"], "log.") if "log" in given else None
    for source, title in ((topic, "[fields]"), (log or topic, "[log.fields]")):
        for name in needed:
            if name not in source.fields:  # then every event would be left out
                raise ConfigError(f"[events] drop_without has {name}, which has no path in {title}")
    key, rekey = (given.get("key", {}).get(name, default) for name, default in (("holds", "user_id"), ("rekey", False)))
    if key not in KEYS:
        raise ConfigError(f"[key] holds is {shown(key)}; it must be one of {listed(KEYS, in_order=True)}")
    if not isinstance(rekey, bool):
        raise ConfigError(f"[key] rekey is {shown(rekey)}; it must be true or false")
    form = given.get("message", {}).get("format", "json")
    if form not in FORMATS:
        raise ConfigError(f"[message] format is {shown(form)}; it must be one of {listed(FORMATS, in_order=True)}")
    mapping = ClickMapping(
        topic,
        log,
        _event_types(given.get("event_types", {})),
        keep,
        drop or (),
        needed,
        defaults,
        key,
        rekey,
        form,
    )
    if form != "json" and mapping.of_topic().headers:
        raise ConfigError(f"[fields] has paths in {HEADERS}, which need messages in JSON; [message] format is {form}")
    return mapping


def _source(given: dict[str, Any], prefix: str) -> Source:
    """The sections `fields` and `time` of the file or of its section `log`."""
    title = f"[{prefix}fields]"
    fields = given.get("fields")
    if fields is None:
        raise ConfigError(f"the section {title} is missing; it has the paths of {listed(REQUIRED, in_order=True)}")
    table(fields, title)
    paths: dict[str, tuple[str, ...]] = {}
    for name, written in fields.items():
        known(name, (*FIELDS, ANONYMOUS), f"{title} has")
        texts = [written] if isinstance(written, str) else written
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise ConfigError(f"{title} {name} is {shown(written)}; it must be a path, or a list of paths")
        try:
            paths[name] = tuple(dict.fromkeys(path_text(parse_path(text)) for text in texts))
        except ConfigError as exc:
            raise ConfigError(f"{title} {name}: {exc}") from None
    for name in REQUIRED:
        if name not in paths:
            raise ConfigError(f"{title} has no {name}; give the path of the {name} in an event")
    time = given.get("time", {})
    table(time, f"[{prefix}time]")
    for name in time:
        known(name, ("unit",), f"[{prefix}time] has")
    unit = time.get("unit", "")
    if unit != "" and (not isinstance(unit, str) or unit not in UNITS):
        raise ConfigError(f"[{prefix}time] unit is {shown(unit)}; it must be one of {listed(UNITS, in_order=True)}")
    return Source(paths, unit)


def _default(name: str, value: Any) -> str | float:
    try:
        if name in ("price", "quantity"):
            read: str | float | None = number(value)
        else:
            read = word(value, LONGEST_WORD if name == FIELDS[EVENT] else LONGEST_ID)
    except Unusable as exc:
        raise ConfigError(f"[defaults] {name} is {shown(value)}, {exc}") from None
    if read is None:
        raise ConfigError(f"[defaults] {name} is empty; omit it")
    return read


def _event_types(given: dict[str, Any]) -> dict[str, str]:
    """Their type, as it is read from a message -> Eddy's."""
    found: dict[str, str] = {}
    for name, ours in given.items():
        read = _as_read(name)
        if read in found:
            raise ConfigError(f"[event_types] has the type {read!r} twice, here as {name!r}; omit one")
        found[read] = _event_type(ours, name)
    return dict(sorted(found.items()))


def _event_type(ours: Any, theirs: str) -> str:
    if not isinstance(ours, str) or not 0 < len(ours) <= LONGEST_WORD or not ours.isprintable():
        raise ConfigError(
            f"[event_types] {theirs!r} is {shown(ours)}; it must be Eddy's event type, a text of 1 to {LONGEST_WORD} "
            "characters"
        )
    try:
        read = word(ours, LONGEST_WORD)  # as the rules read it from a message, so that all ways give the same text
    except Unusable as exc:
        raise ConfigError(f"[event_types] {theirs!r} is {shown(ours)}, {exc}") from None
    assert read is not None
    return read


def _as_read(name: str) -> str:
    """The name of a type as it is read from a message: "3.0" is 3. One that is never read stays as it is."""
    try:
        return word(name, LONGEST_WORD) or name
    except Unusable:
        return name


def _types(value: Any, title: str) -> tuple[str, ...] | None:
    names = _words(value, title)
    return None if names is None else tuple(sorted(set(map(_as_read, names))))


def _words(value: Any, title: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ConfigError(f"{title} is {shown(value)}; it must be a list of names in quotes")
    return tuple(sorted(set(value)))


def read_text(path: Path, what: str, advice: str) -> str:
    """The text of a file that a person writes. Raises ConfigError.

    what    names the file in messages
    advice  what to do if it does not exist
    """
    try:
        if not path.is_file():  # a FIFO is none, and reading it would wait for ever
            there = "a directory or a pipe, and no file" if path.exists() else "no such file"
            raise ConfigError(f"{what} {path}: {there}; {advice}")
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{what} {path}: larger than {MOST_BYTES:,} bytes; is this the right file?")
        return path.read_text(encoding="utf-8-sig")
    except OSError as exc:
        raise ConfigError(f"{what} {path} cannot be read ({exc.strerror})") from None
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{what} {path}: not UTF-8 ({exc.reason})") from None


def parsed(text: str, title: str, read: Callable[[dict[str, Any]], T]) -> T:
    """What `read` makes of a text in TOML. Raises ConfigError, which begins with the title, also where `read` does."""
    try:
        return read(tomllib.loads(text))
    except (ValueError, RecursionError) as exc:  # ValueError also for an integer of thousands of digits
        raise ConfigError(f"{title}: not TOML ({exc or 'nested too deeply'})") from None
    except ConfigError as exc:
        raise ConfigError(f"{title}: {exc}") from None


def table(value: Any, title: str) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{title[1:-1]} is {shown(value)}; it must be a section {title}")


def known(name: str, names: Collection[str], where: str) -> None:
    """Raise ConfigError with the nearest known name if `name` is none of `names`."""
    if name in names:
        return
    nearest = get_close_matches(name, names, 1, 0.5)
    advice = f"did you mean {nearest[0]!r}?" if nearest else f"known are {listed(names, in_order=True)}"
    raise ConfigError(f"{where} {name[:80]!r}, which is not known; {advice}")


def listed(names: Collection[str], in_order: bool = False) -> str:
    return ", ".join(names if in_order else sorted(names))


def shown(value: Any) -> str:
    return repr(value)[:80]
