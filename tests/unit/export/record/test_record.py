"""A topic's messages become a file; tests/kafka/test_record.py has it on a real Kafka."""

import gzip
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from export.progress import NullProgress
from export.record.command import record as command
from export.record.command import since
from export.record.lines import Lines, lines_of
from export.record.record import Forgotten, Recorded, record, write
from stream.errors import ConfigError
from stream.kafka_config import PLAINTEXT
from stream.ops.cli import eddy
from tests.docs.blocks import ROOT

NOW_MS = 1_760_000_000_000
LIMITS = 65_536, 3_600_000
FORGET, QUIET = [("eddy-forget", b"")], [("eddy-quiet", b'{"until_ms":0}')]


class Message(NamedTuple):
    """A message as confluent-kafka gives it."""

    own_partition: int
    own_offset: int
    own_key: bytes | None
    own_value: bytes | None
    own_headers: list[tuple[str, bytes]] | None = None
    own_ms: int = NOW_MS

    def key(self) -> bytes | None:
        return self.own_key

    def value(self) -> bytes | None:
        return self.own_value

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self.own_headers

    def partition(self) -> int:
        return self.own_partition

    def offset(self) -> int:
        return self.own_offset

    def timestamp(self) -> tuple[int, int]:
        return 1, self.own_ms


def click(partition: int, offset: int, user: str, item: str = "i1") -> Message:
    event = {"user_id": user, "item_id": item, "timestamp": NOW_MS + offset}
    return Message(partition, offset, user.encode(), json.dumps(event).encode())


def plain() -> Lines:
    return lines_of(None, "", LIMITS, PLAINTEXT)


def written(
    messages: Iterable[Any], limit: int | None = None, forgotten: Forgotten | None = None
) -> tuple[list[tuple[str, str]], Recorded]:
    """(user, item) of each line, and the figures."""
    file = io.BytesIO()
    found = write(file, messages, plain(), forgotten or Forgotten(2), "t", 2, NullProgress(), limit)
    rows = [json.loads(line) for line in file.getvalue().splitlines()]
    assert len(rows) == found.clicks
    assert found.messages == found.clicks + sum(found.left_out.values())
    return [(row["user_id"], row["item_id"]) for row in rows], found


def test_what_is_no_click_is_counted_by_its_reason() -> None:
    """A message without a value, one that is no JSON or no UTF-8, and requests about users."""
    messages = [
        click(0, 0, "u1"),
        Message(0, 1, b"u1", None),
        Message(0, 2, b"u1", b"no json"),
        Message(0, 3, b"u1", b"\xff\xfe"),
        Message(0, 4, b"u2", b'{"user_id":"u1","item_id":"i","timestamp":1760000000000}'),
        Message(0, 5, b"u9", None, FORGET),
        Message(0, 6, b"u9", None, QUIET),
        Message(0, 7, b"u9", None, [("eddy-carried", b"x")]),
        Message(0, 8, None, None, FORGET),
        Message(0, 9, b"u1", None, [("trace", b"1")]),
        click(1, 0, "u2"),
    ]
    lines, found = written(messages)
    assert lines == [("u1", "i1"), ("u2", "i1")]
    assert found.left_out == {"empty_value": 3, "not_json": 2, "key_is_not_user": 1, "request": 3}
    assert (found.first_ms, found.last_ms) == (NOW_MS, NOW_MS)


def test_a_click_ahead_of_the_clock_is_judged_as_by_a_worker() -> None:
    """Kafka's timestamp corrects a clock that is behind by up to a day."""
    now_ms = time.time_ns() // 1_000_000
    hour = 3_600_000
    messages = []
    for offset, (click_hours, kafka_hours) in enumerate([(20, 0), (20, 20), (50, 50), (30, 10)]):
        event = {"user_id": "u1", "item_id": f"i{offset}", "timestamp": now_ms + click_hours * hour}
        messages.append(Message(0, offset, b"u1", json.dumps(event).encode(), None, now_ms + kafka_hours * hour))
    lines, found = written(messages)
    assert lines == [("u1", "i1")]
    assert found.left_out == {"future_timestamp": 3}


def test_clicks_before_a_request_to_forget_are_left_out() -> None:
    """In the partition of the request, as a worker applies it; those after it are of a new user."""
    forgotten = Forgotten(2)
    messages = [
        click(0, 0, "17", "before"),
        click(0, 1, "u2", "other"),
        Message(0, 2, b"17", None, FORGET),
        click(0, 3, "17", "between"),
        Message(0, 4, b"17.0", None, FORGET),  # an id in another form
        click(0, 5, "17", "after"),
        click(1, 0, "17", "elsewhere"),
    ]
    written(messages, forgotten=forgotten)
    assert forgotten.new == 2
    forgotten.new = 0
    lines, found = written(messages, forgotten=forgotten)
    assert lines == [("u2", "other"), ("17", "after"), ("17", "elsewhere")]
    assert found.left_out == {"forgotten": 2, "request": 2}
    assert forgotten.new == 0


def test_the_requests_after_the_limit_are_found() -> None:
    """Else the first clicks of a topic would have users who were forgotten later."""
    forgotten = Forgotten(1)
    messages = [click(0, 0, "u1"), click(0, 1, "u2"), click(0, 2, "u3"), Message(0, 3, b"u1", None, FORGET)]
    lines, found = written(messages, limit=2, forgotten=forgotten)
    assert (lines, found.left_out) == ([("u1", "i1"), ("u2", "i1")], {"limit": 1, "request": 1})
    assert written(messages, limit=2, forgotten=forgotten)[0] == [("u2", "i1"), ("u3", "i1")]


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The messages that a topic has; read by `record`."""
    messages: list[Any] = []
    monkeypatch.setattr("export.record.record.span_of", lambda *_: {0: range(len(messages)), 1: range(0)})
    monkeypatch.setattr("export.record.record.read_messages", lambda *_, **__: iter(messages))
    return messages


def recorded(out: Path) -> Recorded:
    return record(out, "k:9092", "t", plain(), NullProgress())


@pytest.mark.parametrize("name", ["clicks.jsonl", "clicks.jsonl.gz", "CLICKS.JSONL.GZ"])
def test_the_file_is_there_when_it_is_complete(topic: list[Any], tmp_path: Path, name: str) -> None:
    """It is packed by its name, and nothing is beside it. A user who is forgotten is not in it."""
    topic += [click(0, 0, "u1"), click(0, 1, "u2"), Message(0, 2, b"u1", None, FORGET)]
    out = tmp_path / name
    found = recorded(out)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    data = out.read_bytes()
    text = gzip.decompress(data) if name.lower().endswith(".gz") else data
    assert [json.loads(line)["user_id"] for line in text.splitlines()] == ["u2"]
    assert (found.bytes, found.file, found.clicks) == (len(data), str(out), 1)


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "topic t has no messages$"),
        (
            [Message(0, 0, b"u", b"x")],
            r"topic t has no clicks; left out: 1 not_json \(JSON is malformed: .*\)\. If its messages have",
        ),
        (
            [Message(0, 0, b"session-1", click(0, 0, "u").value())],
            r"1 key_is_not_user .* key messages by user_id, or set rekey = true in \[key\] of the mapping",
        ),
        (
            [click(0, 0, "u"), Message(0, 1, b"u", None, FORGET)],
            r"no clicks; left out: 1 forgotten \(clicks of users .*\), 1 request \(requests about users, ",
        ),
    ],
)
def test_without_a_click_there_is_no_file(topic: list[Any], tmp_path: Path, messages: list[Any], error: str) -> None:
    """An empty log would only be refused later."""
    topic += messages
    with pytest.raises(ConfigError, match=error):
        recorded(tmp_path / "clicks.jsonl")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_reading_leaves_no_file(
    topic: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a log looks like a whole one."""

    def messages(*_: object, **__: object) -> Any:
        yield click(0, 0, "u1")
        raise KeyboardInterrupt

    monkeypatch.setattr("export.record.record.read_messages", messages)
    with pytest.raises(KeyboardInterrupt):
        recorded(tmp_path / "clicks.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_file_that_exists_is_not_replaced(topic: list[Any], tmp_path: Path) -> None:
    """Not at the start, and not if it came meanwhile."""
    out = tmp_path / "clicks.jsonl"
    out.write_text("theirs")
    with pytest.raises(ConfigError, match="exists, and eddy record does not replace a file"):
        recorded(out)
    out.unlink()

    class Late(NullProgress):
        def begin(self, label: str, clicks: int) -> None:
            out.write_text("theirs")

    topic.append(click(0, 0, "u1"))
    with pytest.raises(ConfigError, match="exists, and eddy record does not replace a file"):
        record(out, "k:9092", "t", plain(), Late())
    assert out.read_text() == "theirs"
    assert [path.name for path in tmp_path.iterdir()] == ["clicks.jsonl"]


@pytest.mark.parametrize("name", ["clicks.csv", "clicks.json", "clicks", "clicks.parquet", "clicks.gz"])
def test_an_ending_that_cannot_be_written_is_refused_with_those_that_can(tmp_path: Path, name: str) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match=r"the name must end in \.jsonl or \.jsonl\.gz$"):
        recorded(tmp_path / name)


def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """Before the topic is read."""
    with pytest.raises(ConfigError, match=r"cannot be written \(No such file or directory\); give another OUT"):
        recorded(tmp_path / "none" / "clicks.jsonl")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("earliest", 0),
        ("7d", NOW_MS - 7 * 86_400_000),
        ("-30m", NOW_MS - 1_800_000),
        ("2025-10-01", 1_759_276_800_000),
        ("2025-10-01T02:00:00+02:00", 1_759_276_800_000),
        ("1759276800", 1_759_276_800_000),
        ("1759276800000", 1_759_276_800_000),
    ],
)
def test_the_beginning_is_a_duration_or_a_time(text: str, wanted: int) -> None:
    """Durations as of `eddy feedback --quiet`, times as of `eddy train --from`."""
    assert since(text, NOW_MS) == wanted


@pytest.mark.parametrize("text", ["latest", "7w", "", "yesterday", "999999d", "-1759276800000"])
def test_another_beginning_is_refused(text: str) -> None:
    """The line has what can be given."""
    with pytest.raises(ConfigError, match=r"--from is .*; it must be earliest, a duration"):
        since(text, NOW_MS)


def test_the_command_prints_what_to_type_next(topic: list[Any], tmp_path: Path) -> None:
    """For a person with the counts; for a program one JSON object."""
    topic += [click(0, 0, "u1"), Message(0, 1, b"u1", b"x"), click(0, 2, "u2"), Message(0, 3, b"u2", None, FORGET)]
    out, more = tmp_path / "my clicks.jsonl", tmp_path / "more.jsonl"
    done = CliRunner().invoke(command, [str(out), "--topic", "t"], catch_exceptions=False)
    assert f"wrote {out}: 1 clicks from 2025-10-09T08:53:20+00:00 to 2025-10-09T08:53:20+00:00, " in done.stdout
    assert "left out of 4 messages: 1 not_json, 1 forgotten, 1 request\nnot_json: JSON is malformed" in done.stdout
    assert "\nforgotten: clicks of users before a request to forget them\n" in done.stdout
    assert "more messages before these" not in done.stdout
    assert done.stdout.endswith(f"\nNext: eddy train '{out}' --out models/mine/1\n")
    (tmp_path / "m.toml").write_text('[fields]\nuser_id="user_id"\nitem_id="item_id"\ntimestamp="timestamp"\n')
    words = [str(more), "--topic", "t", "--mapping", str(tmp_path / "m.toml")]
    done = CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found.pop("details").keys() == {"not_json", "forgotten", "request"}
    assert found == {
        "topic": "t", "partitions": 2, "file": str(more), "messages": 4, "clicks": 1, "deleted": 0, "unused": [],
        "left_out": {"not_json": 1, "forgotten": 1, "request": 1},
        "first_ms": NOW_MS, "last_ms": NOW_MS, "bytes": more.stat().st_size,
    }  # fmt: skip


def test_the_first_message_of_each_reason_shows_what_is_wrong(topic: list[Any], tmp_path: Path) -> None:
    """A mistyped path of a required field: the line has the field and its path, and no control characters."""
    (tmp_path / "m.toml").write_text('[fields]\nuser_id="usre"\nitem_id="item_id"\ntimestamp="timestamp"\n')
    topic += [click(0, 0, "u1"), click(0, 1, "u2")]
    words = [str(tmp_path / "x.jsonl"), "--topic", "t", "--mapping", str(tmp_path / "m.toml")]
    error = CliRunner().invoke(command, words).exception
    assert "left out: 2 wrong_fields (user_id (usre) is missing or empty). If its" in str(error)


def test_a_path_of_an_optional_field_without_a_value_is_named(topic: list[Any], tmp_path: Path) -> None:
    """With the path that was probably meant: the log would be one of views only."""
    fields = '[fields]\nuser_id="user_id"\nitem_id="item_id"\ntimestamp="timestamp"\nevent_type="what.kind"\n'
    (tmp_path / "m.toml").write_text(fields)
    event = b'{"user_id":"u1","item_id":"i1","timestamp":1760000000000,"what":{"kin":"view"}}'
    topic.append(Message(0, 0, b"u1", event))
    words = [str(tmp_path / "x.jsonl"), "--topic", "t", "--mapping", str(tmp_path / "m.toml")]
    done = CliRunner().invoke(command, words, catch_exceptions=False)
    line = "no click has a value for event_type at what.kind (the nearest path with values: what.kin); if a path in "
    assert line in done.stdout
    topic[0] = Message(0, 0, b"u1", event.replace(b'"kin"', b'"kind"'))
    done = CliRunner().invoke(command, [str(tmp_path / "y.jsonl"), *words[1:]], catch_exceptions=False)
    assert "no click has a value" not in done.stdout


def test_what_kafka_has_deleted_before_is_printed(
    topic: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who expects a month of clicks sees why there is a week of them. With --from nobody expects more."""
    monkeypatch.setattr("export.record.record.span_of", lambda *_: {0: range(1_000, 1_001), 1: range(234, 234)})
    topic.append(click(0, 1_000, "u1"))
    done = CliRunner().invoke(command, [str(tmp_path / "x.jsonl"), "--topic", "t"], catch_exceptions=False)
    assert "the topic once had 1,234 more messages before these: Kafka has deleted them" in done.stdout
    words = [str(tmp_path / "y.jsonl"), "--topic", "t", "--from", "2025-10-01"]
    assert "more messages" not in CliRunner().invoke(command, words, catch_exceptions=False).stdout


def test_the_topic_of_the_copies_is_refused(tmp_path: Path) -> None:
    """A request to forget a user is there in the user's partition only, and a click before a login in another one."""
    file = tmp_path / "m.toml"
    file.write_text('[fields]\nuser_id="u"\nitem_id="i"\ntimestamp="t"\n[key]\nrekey=true\n')
    words = [str(tmp_path / "x.jsonl"), "--topic", "shop-by-user", "--mapping", str(file)]
    error = CliRunner().invoke(command, words).exception
    assert isinstance(error, ConfigError)
    assert "give the topic that the producers write" in str(error)


def test_help_has_an_example_and_the_list_of_commands_has_record() -> None:
    """Both are printed without a heavy import."""
    assert "eddy record events.jsonl --topic shop-events" in CliRunner().invoke(command, ["--help"]).output
    assert "\n  record " in CliRunner().invoke(eddy, ["--help"]).output
    modules = "{'polars', 'numpy', 'confluent_kafka', 'torch'}"
    code = f"import sys, export.record.command; assert not {modules} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    code = "import sys, export.record.record, export.record.lines; assert not {'polars', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
