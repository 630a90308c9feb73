"""`eddy dead-letters` counts every letter, and publishes only messages that it has whole and has not published."""

from base64 import b64encode
from collections import Counter
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from stream.errors import ConfigError
from stream.events import DeadLetter
from stream.ops.dead_letters import Published, _letters, _lines, _publish, _readable, _table, dead_letters, summaries


def letter(reason: str, offset: int, key: bytes | None, value: bytes | None, cut: int = 0) -> DeadLetter:
    texts = [None if data is None else b64encode(data[: len(data) - cut]).decode() for data in (key, value)]
    lengths = {"key_bytes": len(key or b""), "value_bytes": len(value or b"")}
    return DeadLetter(f"c-1-{offset}", reason, "why", "c", 1, offset, 1_700_000_000_000 + offset, *texts, **lengths)


class Sent:
    """Records what would be sent to a topic with two partitions."""

    partitions = 2

    def __init__(self, *_: object) -> None:
        self.messages: list[tuple[object, ...]] = []

    def send(self, *message: object) -> None:
        self.messages.append(message)

    def close(self) -> None:
        pass


class Message:
    """A message on the topic of the dead letters."""

    def __init__(self, letter: DeadLetter) -> None:
        self._value = msgspec.json.encode(letter)

    def value(self) -> bytes:
        return self._value

    def timestamp(self) -> tuple[int, int]:
        return 1, 1_700_000_000_000


def test_letters_are_counted_by_reason_with_times_and_fields() -> None:
    """The commonest reason comes first; values that are no JSON object have no fields."""
    found = summaries(
        [
            letter("not_json", 9, b"u", b"{"),
            letter("wrong_fields", 5, b"u", b'{"user": 1, "item": 2}'),
            letter("wrong_fields", 3, b"u", b'{"user": 1}'),
            letter("wrong_fields", 4, None, None),
        ]
    )
    assert list(found) == ["wrong_fields", "not_json"]
    wrong = found["wrong_fields"]
    assert (wrong.letters, wrong.first_ms, wrong.last_ms) == (3, 1_700_000_000_003, 1_700_000_000_005)
    assert wrong.fields == {"user": 2, "item": 1}
    table = _table(found, "dead")
    assert "wrong_fields: 3 letters, 2023-11-14T22:13:20+00:00 to " in table
    assert "not_json: 1 letter, " in table
    assert "fields: user (2), item (1)" in table
    assert _table({}, "dead") == "no dead letters in dead"
    asked = ("too_large", "not_json")
    assert _table({}, "dead", asked) == "no dead letters in dead with the reason too_large or not_json"


def test_a_message_is_published_as_it_was_or_counted() -> None:
    """Original bytes and partition, once; a cut letter and one without a value are never published."""
    sent, done, retries = Sent(), Published(), {b"c-1-5"}
    for one in (
        letter("not_json", 1, b"\xff", b"\x00\xfe"),
        letter("not_json", 2, None, b"v"),
        letter("too_large", 3, b"u", b"value", cut=1),
        letter("empty_value", 4, b"u", None),
        letter("not_json", 5, b"u", b"v"),
        letter("not_json", 2, None, b"v"),  # of another group that writes to the same topic
    ):
        _publish(one, "c", sent, retries, done)  # type: ignore[arg-type]
    assert sent.messages == [
        (b"\xff", b"\x00\xfe", 1, {"eddy-retry": b"c-1-1"}),
        (None, b"v", 1, {"eddy-retry": b"c-1-2"}),
    ]
    assert done == Published(published=2, already=2, cut=1, no_value=1)
    assert _lines(done, "c").splitlines()[0] == "2 messages published to c"
    assert len(_lines(done, "c").splitlines()) == 4


def test_a_shown_letter_has_text() -> None:
    """Bytes that are not UTF-8 are escaped."""
    shown = _readable(letter("not_json", 1, b"\xff", "ü".encode()))
    assert (shown["key"], shown["value"], shown["offset"]) == ("\\xff", "ü", 1)


def test_a_topic_of_something_else_is_refused() -> None:
    """One line that names the option, for example if --clicks-topic and --dead-letters-topic are exchanged."""

    class Other:
        value = staticmethod(lambda: b'{"user_id": "u"}')
        topic, partition, offset = (staticmethod(lambda found=found: found) for found in ("clicks", 0, 7))

    with pytest.raises(ConfigError, match=r"clicks-0-7 is no dead letter .*--dead-letters-topic"):
        list(_letters([Other()], (), Counter()))


@pytest.mark.parametrize("options", [(), ("--json",), ("--show",), ("--publish",)])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--reason", "not_jsn"], ["'not_jsn'; did you mean 'not_json'? The letters have not_json (2), too_large (1)"]),
        (["--reason", "x", "--reason", "too_large"], ["'x'. The letters have not_json (2), too_large (1)"]),
        (["--reason", "x", "--reason", "too_large", "--limit", "1"], []),  # the rest of the topic was not read
        (["--reason", "too_large"], []),
        ([], []),
    ],
)
def test_a_reason_that_no_letter_has_is_said_with_the_nearest_one(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], words: list[str], said: list[str]
) -> None:
    """Nothing found is else taken for nothing wrong. stdout is as without the hint, for programs."""
    letters = [letter("not_json", 1, b"u", b"{"), letter("too_large", 2, b"u", b"v"), letter("not_json", 3, b"u", b"")]
    monkeypatch.setattr("stream.access.messages.span_of", lambda *_: {})
    topics: dict[str, list[Any]] = {"dead": list(map(Message, letters)), "clicks": []}
    monkeypatch.setattr("stream.access.messages.read_messages", lambda broker, topic, *_, **__: iter(topics[topic]))
    monkeypatch.setattr("stream.access.publish.Publisher", Sent)
    monkeypatch.setattr("stream.access.rights.check_access", lambda *_, **__: None)
    done = CliRunner().invoke(
        dead_letters, ["--dead-letters-topic", "dead", "--clicks-topic", "clicks", *words, *options]
    )
    assert (done.exit_code, done.exception) == (0, None)
    hints = [line for line in done.stderr.splitlines() if "no letter has" in line]
    assert hints == [f"eddy: no letter has the reason {line}" for line in said]
