"""A message becomes a line that a log reader reads as the click that the worker's codec takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.log.log import log_clicks, read_log
from export.record.lines import Lines, _Last, lines_of
from stream.errors import BadClick, ConfigError
from stream.events import Click
from stream.kafka_config import PLAINTEXT
from stream.mapping.mapping import MappingFile
from stream.mapping.parse import parse_mapping
from stream.mapping.reading import FIELDS
from stream.mapping.shape import decoded_shape
from stream.wire.json import JsonCodec

NOW_MS = 1_760_000_000_000
LIMITS = 65_536, 86_400_000
NESTED = """
[fields]
user_id = ["who.id", "who.anonymous"]
item_id = "what[0].id"
timestamp = "at"
event_type = "did"
price = "what[0].price"

[event_types]
"Product Viewed" = "view"
"Product Seen" = "view"

[events]
keep = ["Product Seen", "cart"]
"""
EVENT: dict[str, Any] = {
    "who": {"id": "ü1"}, "what": [{"id": "i1", "price": 9.5}], "at": NOW_MS, "did": "Product Seen", "more": [1, {}],
}  # fmt: skip


def mapping(text: str) -> MappingFile:
    return MappingFile("m.toml", text, parse_mapping(text, "m.toml"))


def clicks_of(lines: list[bytes], directory: Path, file: MappingFile | None) -> list[Click]:
    path = directory / "log.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return [click for click, _ in log_clicks(read_log(path, mapping=file))]


def line(lines: Lines, value: bytes, key: bytes = b"\xc3\xbc1") -> bytes:
    return lines.of(key, value, NOW_MS)[1]


def test_a_json_message_stays_as_it_is() -> None:
    """Also fields that no click has, numbers of any size, and names that stand twice."""
    value = b'{"user_id":"u1","item_id":7.0,"timestamp":1760000000000,"x":1e400,"y":123456789012345678901,"x":" a  b"}'
    assert line(lines_of(None, "", LIMITS, PLAINTEXT), value, b"u1") == value


@pytest.mark.parametrize(
    "written",
    [
        lambda event: json.dumps(event, indent=2).encode(),
        lambda event: json.dumps(event, indent=2).replace("\n", "\r\n").encode(),
        lambda event: b"\xef\xbb\xbf" + json.dumps(event).encode() + b"\n",
        lambda event: json.dumps(event)[:-1].encode() + b', "agent": "caf\xe9"}',
        lambda event: json.dumps(event)[:-1].encode() + b', "agent": "\\ud800", "n": NaN}',
        lambda event: json.dumps(event | {"text": "a\u2028b\x85c\nd"}, ensure_ascii=False).encode(),
    ],
    ids=["pretty", "windows", "bom", "latin-1", "not-encodable", "other-line-breaks"],
)
def test_each_message_is_one_line_that_is_read_alike(tmp_path: Path, written: Callable[[Any], bytes]) -> None:
    """Whatever a worker reads. A line is UTF-8, also if the message was not where no field reads it."""
    file = mapping(NESTED)
    lines = lines_of(file, "", LIMITS, PLAINTEXT)
    found = [line(lines, written(EVENT | {"at": NOW_MS + n})) for n in range(3)]
    assert all(b"\n" not in one and one.decode() for one in found)
    wanted = [Click("ü1", "i1", NOW_MS + n, "view", price=9.5) for n in range(3)]
    assert [msgspec.structs.replace(c, session_id=None) for c in clicks_of(found, tmp_path, file)] == wanted


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(
    more=st.dictionaries(st.text(max_size=3) | st.sampled_from([*EVENT, "id"]), VALUES, max_size=3),
    indent=st.sampled_from([None, 0, 2]),
    ascii_=st.booleans(),
    at=st.integers(0, 200),
    byte=st.none() | st.integers(0, 255),
)
def test_no_message_that_a_worker_takes_spoils_the_log(
    tmp_path_factory: pytest.TempPathFactory,
    more: dict[str, Any],
    indent: int | None,
    ascii_: bool,
    at: int,
    byte: int | None,
) -> None:
    """One line that is no object would refuse the log; one that is read otherwise would teach something else."""
    value = json.dumps(EVENT | more, indent=indent, ensure_ascii=ascii_).encode(errors="surrogatepass")
    if byte is not None:
        value = value[:at] + bytes([byte]) + value[at + 1 :]
    file = mapping(NESTED)
    try:
        click, found = lines_of(file, "", LIMITS, PLAINTEXT)._replace(keyed=False).of(None, value, NOW_MS)
    except BadClick:
        return
    [read] = clicks_of([found], tmp_path_factory.mktemp("log"), file)
    assert msgspec.structs.replace(read, session_id=None) == msgspec.structs.replace(click, session_id=None)


def test_the_key_is_checked_where_a_worker_checks_it() -> None:
    """It must be the user, but not if the workers re-key the messages, or if the key is known to be something else."""
    value = json.dumps(EVENT).encode()
    for text in ("", "[key]\nholds = 'user_id'\n"):
        with pytest.raises(BadClick, match="key_is_not_user"):
            line(lines_of(mapping(NESTED + text), "", LIMITS, PLAINTEXT), value, b"s-1")
    for text in ("[key]\nholds = 'other'\nrekey = true\n", "[key]\nrekey = true\n", "[key]\nholds = 'nothing'\n"):
        assert line(lines_of(mapping(NESTED + text), "", LIMITS, PLAINTEXT), value, b"s-1") == value
    with pytest.raises(BadClick, match="key_is_not_user"):
        line(lines_of(None, "", LIMITS, PLAINTEXT), b'{"user_id":"u","item_id":"i","timestamp":1760000000000}', b"v")


LOG = """
[log.fields]
user_id = "customer"
anonymous_id = "browser"
item_id = "sku"
timestamp = "viewed_at"
event_type = "kind"
price = "price"

[log.time]
unit = "us"
"""


def test_with_a_log_of_another_shape_a_line_has_its_fields(tmp_path: Path) -> None:
    """Else the mapping's paths for a log would find nothing in it. Both ids are there, so that a login is found."""
    own = NESTED.replace('["who.id", "who.anonymous"]', '"who.id"\nanonymous_id = "who.anonymous"')
    file = mapping(own + "[key]\nrekey = true\n" + LOG)
    lines = lines_of(file, "", LIMITS, PLAINTEXT)
    events = [
        EVENT | {"who": {"anonymous": "a1"}},
        EVENT | {"who": {"anonymous": "a1", "id": "u1"}, "at": NOW_MS + 1, "did": "cart", "what": [{"id": "i2"}]},
    ]
    found = [line(lines, json.dumps(event).encode()) for event in events]
    first = {"customer": "a1", "browser": "a1", "sku": "i1", "viewed_at": NOW_MS * 1000, "price": 9.5}
    second = {"customer": "u1", "browser": "a1", "sku": "i2", "viewed_at": (NOW_MS + 1) * 1000, "kind": "cart"}
    assert [json.loads(one) for one in found] == [first | {"kind": "Product Seen"}, second]
    read = clicks_of(found, tmp_path, file)
    assert [(c.user_id, c.item_id, c.timestamp, c.event_type) for c in read] == [
        ("u1", "i1", NOW_MS, "view"),
        ("u1", "i2", NOW_MS + 1, "cart"),
    ]


def test_paths_that_exclude_each_other_are_one_line() -> None:
    """No row can have both ids there; a mapping that only reads never sees it."""
    own = NESTED.replace('["who.id", "who.anonymous"]', '"who.id"\nanonymous_id = "who.anonymous"')
    file = mapping(own + "[key]\nrekey = true\n" + LOG.replace('"browser"', '"customer.browser"'))
    event = EVENT | {"who": {"anonymous": "a1", "id": "u1"}}
    with pytest.raises(ConfigError, match=r"no message can have a value at customer\.browser, because another path"):
        line(lines_of(file, "", LIMITS, PLAINTEXT), json.dumps(event).encode())


def test_a_decoded_message_becomes_json_with_its_fields(tmp_path: Path) -> None:
    """Bytes that are no text become what no field reads, as in an Avro file; a message is decoded once."""
    calls = []

    def decode(value: bytes) -> Any:
        calls.append(value)
        return EVENT | {"raw": b"\xff", "did": "cart", "n": float("nan")}

    file, last = mapping(NESTED), _Last(decode)
    lines = Lines(JsonCodec(*LIMITS, decoded_shape(file.mapping.of_topic(), last)), True, last.line)
    found = line(lines, b"\0 avro")
    assert len(calls) == 1
    assert json.loads(found)["raw"] == [255]
    [click] = clicks_of([found], tmp_path, file)
    assert (click.user_id, click.item_id, click.event_type, click.price) == ("ü1", "i1", "cart", 9.5)


def test_a_format_with_schemas_needs_a_registry() -> None:
    """The error names the option."""
    with pytest.raises(ConfigError, match="give --schema-registry"):
        lines_of(mapping(NESTED + "[message]\nformat = 'avro'\n"), "", LIMITS, PLAINTEXT)


def test_a_mapping_reads_a_click_from_its_value_only() -> None:
    """If a field came from the key, the time or a header of a message, a line would have to keep it."""
    assert set(FIELDS) == set(Click.__struct_fields__)
    lines = lines_of(None, "", LIMITS, PLAINTEXT)
    value = b'{"item_id":"i","timestamp":1760000000000}'
    with pytest.raises(BadClick, match="user_id is missing"):
        line(lines, value, b"u1")
