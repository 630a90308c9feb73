"""A guess as the text of a mapping file, and as tables for a person."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from stream.errors import BadClick, Dropped
from stream.events import Click
from stream.guess.guess import Guess, unused
from stream.guess.sample import Sample
from stream.log_lines import counted, printable
from stream.mapping.mapping import ClickMapping
from stream.mapping.paths import has_value, parse_path, path_text, value_at
from stream.mapping.reading import FIELDS, USER
from stream.mapping.shape import message_shape
from stream.wire.fields import LONGEST_ID, Unusable, word
from stream.wire.json import JsonCodec, encode

BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
VALUE = 28
"""Characters of an example that are shown."""

FIRST = 3
"""Events that are shown as they were understood."""

MOST_UNUSED = 40
MOST_TYPES = 20


@dataclass(frozen=True)
class Understood:
    """What a mapping makes of the events of a sample.

    clicks    the clicks
    dropped   reason -> events that the mapping leaves out
    refused   reason -> events that a worker would make dead letters
    example   reason -> detail of one refused event
    """

    clicks: Sequence[Click]
    dropped: Counter[str]
    refused: Counter[str]
    example: dict[str, str]


def understand(sample: Sample, mapping: ClickMapping, most_bytes: int, future_ms: int, now_ms: int) -> Understood:
    """Read the events of a sample as a worker does. Events of a file are read as if their key were the user."""
    reading = mapping.of_topic()
    codec = JsonCodec(most_bytes, future_ms, message_shape(reading))
    clicks: list[Click] = []
    dropped: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    example: dict[str, str] = {}
    for at, event in enumerate(sample.events):
        try:
            key = sample.keys[at] if sample.keys is not None else _key(reading.values(event)[USER])
            click = codec.decode(key, msgspec.json.encode(event, enc_hook=str), now_ms)
            if not mapping.rekey:
                codec.check_key(key, click.user_id)
            clicks.append(click)
        except Dropped as exc:
            dropped[exc.detail] += 1
        except BadClick as exc:
            refused[exc.reason] += 1
            example.setdefault(exc.reason, exc.detail)
    return Understood(clicks, dropped, refused, example)


def _key(user: object) -> bytes:
    try:
        return (word(user, LONGEST_ID) or "none").encode()
    except (Unusable, UnicodeError):
        return b"none"


# -- the file ---------------------------------------------------------------------------------------------------------


def toml(guess: Guess, source: str) -> str:
    """The text of the mapping file. `source` names what the sample was taken from."""
    mapping = guess.mapping
    lines = [
        f"# How Eddy reads these events as clicks: guessed by `eddy init` from {printable(source)}.",
        "# docs/mapping.md explains each line. Give it as --mapping to `eddy record`, `train`, `evaluate`, `paths`,",
        "# `replay` and `worker`.",
        *(f"# To check: {printable(line)}" for line in guess.unsure),
        "",
        "[fields]  # a path, or several: the first one that has a value counts",
    ]
    for name, paths in mapping.topic.fields.items():
        lines.append(f"{name} = {_text(paths[0]) if len(paths) == 1 else _list(paths)}")
    if guess.types:
        lines += ["", "[event_types]  # theirs = Eddy's; a type that is not here keeps its name"]
        lines += [f"{_name(theirs)} = {_text(ours)}" for theirs, ours in mapping.event_types.items()]
        same = [theirs for theirs in guess.types if theirs not in mapping.event_types]
        lines += [f"# {_name(theirs)} = {_text(theirs)}" for theirs in same[:MOST_TYPES]]
    if mapping.drop or mapping.drop_without:
        lines += ["", "[events]  # what is left out is counted, and is no dead letter"]
    if mapping.drop:
        lines.append(f"drop = {_list(mapping.drop)}")
    if mapping.drop_without:
        lines.append(f"drop_without = {_list(mapping.drop_without)}")
    if mapping.topic.unit:
        lines += ["", "[time]", f'unit = "{mapping.topic.unit}"']
    if mapping.format != "json":
        lines += ["", "[message]", f'format = "{mapping.format}"  # its schemas are in the Schema Registry']
    lines += ["", "[key]  # what the keys of the messages are: correct it with user_id", f'holds = "{mapping.key}"']
    if mapping.rekey:
        lines.append("rekey = true  # the workers copy the messages to a topic that is keyed by the user")
    return "\n".join([*lines, ""])


def _text(text: str) -> str:
    """A string of TOML. JSON's strings are strings of TOML."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_text, texts))}]"


def _name(name: str) -> str:
    return name if BARE_KEY.fullmatch(name) else _text(name)


# -- for a person -----------------------------------------------------------------------------------------------------


def report(sample: Sample, guess: Guess, understood: Understood) -> str:
    """The guess as text: field by field, the first events as they were understood, what is not used, what is unsure."""
    parts = [_fields(sample, guess.mapping), _events(sample, understood)]
    if guess.types:
        rows = [
            (theirs, guess.mapping.event_types.get(theirs, theirs), f"{count:,}")
            for theirs, count in list(guess.types.items())[:MOST_TYPES]
        ]
        parts.insert(1, _table("event types", ("theirs", "Eddy's", "events"), rows))
    left = unused(sample, guess.mapping)
    if left:
        shown = [f"{printable(path_text(seen.path))} ({', '.join(map(_short, seen.examples[:1]))})" for seen in left]
        more = [f"and {len(shown) - MOST_UNUSED:,} more"] if len(shown) > MOST_UNUSED else []
        parts.append("not used:\n  " + "\n  ".join([*shown[:MOST_UNUSED], *more]))
    if guess.unsure:
        parts.append("to check:\n  " + "\n  ".join(map(printable, guess.unsure)))
    return "\n\n".join(parts)


def _fields(sample: Sample, mapping: ClickMapping) -> str:
    rows = []
    for name in (*FIELDS, *mapping.topic.fields.keys() - {*FIELDS}):
        paths = mapping.topic.fields.get(name, ())
        ways = [parse_path(path) for path in paths]
        have = sum(any(has_value(value_at(event, way)) for way in ways) for event in sample.events)
        examples = [_short(value) for way in ways if way in sample.seen for value in sample.seen[way].examples]
        share = f"{have / len(sample.events):.0%}" if paths else ""
        rows.append((name, ", ".join(paths) or "-", share, ", ".join(examples[:3])))
    if sample.keys is not None:
        keys = [key.decode(errors="replace") for key in sample.keys if key]
        share = f"{len(keys) / len(sample.keys):.0%}"
        read_from = "the message's key" + (", re-keyed by the user" if mapping.rekey else "")
        rows.append(("key", read_from, share, ", ".join(map(_short, keys[:3]))))
    return _table(counted(len(sample.events), "event"), ("field", "read from", "have it", "such as"), rows)


def _events(sample: Sample, understood: Understood) -> str:
    events = counted(len(sample.events), "event")
    lines = [f"{counted(len(understood.clicks), 'click')} in {events}. The first ones, as they are understood:"]
    lines += [f"  {printable(encode(click).decode())}" for click in understood.clicks[:FIRST]]
    lines += [f"left out: {counted(count, 'event')}: {reason}" for reason, count in understood.dropped.items()]
    lines += [
        f"would be dead letters: {counted(count, 'event')}: {reason}: {printable(understood.example[reason])}"
        for reason, count in understood.refused.items()
    ]
    return "\n".join(lines)


def _table(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = [names, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(names))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return f"{title}:\n  " + "\n  ".join(lines)


def _short(value: str) -> str:
    text = printable(value)
    return text if len(text) <= VALUE else f"{text[: VALUE - 3]}..."
