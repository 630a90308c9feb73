"""With --pseudonymise no raw user id leaves the door: every byte that a worker would write is searched for it."""

import hashlib
import traceback
from base64 import b64decode, b64encode
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from stream.errors import BadClick, ConfigError
from stream.events import Partition
from stream.kafka.consumer.fetch import Chunk
from stream.model.runtime import load_model
from stream.settings import Topics
from stream.wire.codec import Codec
from stream.wire.json import JsonCodec
from stream.wire.pseudonym import PseudonymousCodec, Pseudonyms, read_pseudonyms
from stream.worker.served import open_engine
from tests.decide import batched

KEY = b"0123456789abcdef"
NOW_MS = 1_700_000_000_000
USER = "anna.meier@example.com"
PSEUDONYM = hashlib.blake2b(USER.encode(), key=KEY, digest_size=16).hexdigest()


def codec() -> PseudonymousCodec:
    return PseudonymousCodec(JsonCodec(4096, 1000), Pseudonyms(KEY))


def record(offset: int, key: bytes | None, value: object) -> SimpleNamespace:
    data = value if isinstance(value, bytes | None) else msgspec.json.encode(value)
    return SimpleNamespace(offset=offset, key=key, value=data, timestamp=NOW_MS, headers=())


def checked(reader: Codec, given: SimpleNamespace) -> None:
    """Read a message as a worker does."""
    reader.check_key(given.key, reader.decode(given.key, given.value, NOW_MS).user_id)


GOOD = {"user_id": USER, "item_id": "i1", "timestamp": NOW_MS}
MESSAGES = [
    (USER.encode(), GOOD),
    (USER.encode(), None),
    (USER.encode(), {**GOOD, "x": "y" * 5000}),
    (None, GOOD),
    (USER.encode(), {**GOOD, "item_id": [USER]}),
    (USER.encode(), {**GOOD, "user_id": [USER]}),
    (USER.encode(), {**GOOD, "user_id": USER + "!"}),
    (b"other", GOOD),
    (USER.encode(), {**GOOD, "timestamp": USER}),
    (USER.encode(), {**GOOD, "timestamp": NOW_MS + 5000}),
    (USER.encode(), {**GOOD, "timestamp": -5}),
    (USER.encode(), f'{{"user_id": "{USER}"'.encode()),
    (USER.encode(), USER.encode() + b"\xff"),
    (USER.encode() * 60, GOOD),
]


def test_nothing_that_is_written_holds_the_id(model_dir: Path) -> None:
    """Decisions, alerts, rows and letters of every kind: neither plain nor in base64, in no key and no value."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 5, 1, 0.5)
    topics = Topics()
    limits = dict.fromkeys(msgspec.structs.astuple(topics), 1_000_000)
    partition = Partition("clicks", 0)
    records = [record(offset, key, value) for offset, (key, value) in enumerate(MESSAGES)]
    chunk = Chunk(partition, 1, 0, len(records), 0, records, 300)
    batch = batched(engine, codec(), topics, limits, [chunk], {partition: 0}, NOW_MS)
    written = {name: [r for r in batch.records if r.topic == name] for name in msgspec.structs.astuple(topics)}
    assert [len(written[name]) for name in (topics.recommendations, topics.dead_letters)] == [1, len(MESSAGES) - 1]
    (decision,) = written[topics.recommendations]
    assert decision.key == msgspec.json.decode(decision.value)["user_id"].encode() == PSEUDONYM.encode()
    assert PSEUDONYM.encode() in {r.key for r in written[topics.changelog]}
    letters = [msgspec.json.decode(r.value) for r in written[topics.dead_letters]]
    assert {letter["value"] for letter in letters} == {None}
    assert {letter["offset"] for letter in letters} == set(range(1, len(MESSAGES)))
    searched = b"\n".join((r.key or b"") + b"\n" + (r.value or b"") for r in batch.records)
    searched += b"".join(b64decode(letter["key"] or "") for letter in letters)
    for name in (b"anna", b"example.com", b64encode(USER.encode())[:20]):
        assert name not in searched


@pytest.mark.parametrize(("key", "value"), MESSAGES[1:])
def test_a_refusal_has_the_reason_of_the_codec_and_not_the_id(key: bytes | None, value: object) -> None:
    """An operator still sees what is wrong; a stack trace of it shows no id either."""
    given = record(0, key, value)
    with pytest.raises(BadClick) as plain:
        checked(JsonCodec(4096, 1000), given)
    with pytest.raises(BadClick) as sealed:
        checked(codec(), given)
    assert sealed.value.reason == plain.value.reason
    assert "anna" not in "".join(traceback.format_exception(sealed.value))


def test_a_letter_has_the_key_of_the_users_decisions() -> None:
    """Also where the producer wrote the id in another form; other bytes are hashed as they are."""
    pseudonyms = Pseudonyms(KEY)
    assert pseudonyms.of_message_key(USER.encode()) == PSEUDONYM.encode()
    assert pseudonyms.of_message_key(b"17.0") == pseudonyms.of("17").encode()
    assert len(pseudonyms.of_message_key(b"\xff\xfe")) == 32
    assert codec().keep(record(3, None, b"x")).key is None


def test_another_key_gives_other_pseudonyms_and_another_mark() -> None:
    """The mark keeps states of two keys apart, and shows neither key."""
    one, two = Pseudonyms(KEY), Pseudonyms(KEY + b"x")
    assert one.of("u") != two.of("u")
    assert one.mark != two.mark
    assert 0 < one.mark < 2**63


@pytest.mark.parametrize(
    ("content", "words"), [(b"short", "has 5 bytes"), (b"x" * 65, "65 bytes"), (b" \n", "0 bytes")]
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    """The line says how a key is made, and does not show what the file holds."""
    path = tmp_path / "users.key"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=words) as raised:
        read_pseudonyms(str(path))
    assert "short" not in str(raised.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_pseudonyms(str(tmp_path / "none"))


def test_the_key_is_not_shown(tmp_path: Path) -> None:
    """Neither by a repr nor by its file's line end."""
    path = tmp_path / "users.key"
    path.write_bytes(KEY + b"\n")
    read = read_pseudonyms(str(path))
    assert read.of(USER) == PSEUDONYM
    assert KEY.decode() not in repr(read)


def test_an_event_id_is_a_pseudonym_too() -> None:
    """A producer may make it from the user id, and the changelog keeps a hash of it that needs no key to guess."""
    value = msgspec.json.encode({**GOOD, "event_id": f"{USER}-1"})
    click = codec().decode(USER.encode(), value, NOW_MS)
    assert click.event_id == Pseudonyms(KEY).of(f"{USER}-1")


def test_a_request_to_forget_has_the_raw_id_and_ends_the_row_of_the_pseudonym(model_dir: Path) -> None:
    """Who asks needs no key: the worker knows the pseudonym. The changelog gets a tombstone for it."""
    engine = open_engine(load_model(model_dir, "cpu"), model_dir, 5, 1, 0.5)
    topics, partition = Topics(), Partition("clicks", 0)
    limits = dict.fromkeys(msgspec.structs.astuple(topics), 1_000_000)
    request = record(1, USER.encode(), None)
    request.headers = (("eddy-forget", b""),)
    for offset, one in enumerate([record(0, USER.encode(), GOOD), request]):
        chunk = Chunk(partition, 1, offset, offset + 1, 0, [one], 300)
        batch = batched(engine, codec(), topics, limits, [chunk], {partition: offset}, NOW_MS)
        engine.commit(batch.cycle)
    changed = [(r.key, r.value) for r in batch.records if r.topic == topics.changelog]
    assert changed[0] == (PSEUDONYM.encode(), None)
    assert len(engine.arena) == 0
