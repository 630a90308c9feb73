"""Each record of the log is one JSON object, with the facts of its message."""

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from stream.log_lines import JsonLines, as_json, last_line


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a root logger with JSON lines has written."""
    root, written = logging.getLogger(), io.StringIO()
    before, root.handlers = root.handlers, [logging.StreamHandler(written)]
    as_json(root)
    yield written
    root.handlers = before
    logging.captureWarnings(False)


def only(lines: io.StringIO) -> dict[str, Any]:
    [line] = lines.getvalue().splitlines()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


def test_a_line_has_time_level_logger_message_and_facts(lines: io.StringIO) -> None:
    """A number is a number, and a value with spaces is whole, as it was given."""
    record = logging.makeLogRecord(
        {
            "name": "stream.kafka.waiting",
            "levelname": "WARNING",
            "levelno": logging.WARNING,
            "msg": "Kafka does not answer: broker=%s waited_s=%.0f done=%d%% reason=%s; last seen %s",
            "args": ("k:9092", 7.25, 50, "k:9092: connection refused", "today"),
            "created": 1_767_607_230.5,
            "msecs": 500.0,
        }
    )
    logging.getLogger().handle(record)
    assert only(lines) == {
        "time": "2026-01-05T10:00:30.500Z",
        "level": "WARNING",
        "logger": "stream.kafka.waiting",
        "message": "Kafka does not answer: broker=k:9092 waited_s=7 done=50% reason=k:9092: connection refused; "
        "last seen today",
        "facts": {"broker": "k:9092", "waited_s": 7.25, "done": 50, "reason": "k:9092: connection refused"},
    }


def test_text_that_is_no_number_as_it_is_written_stays_text(lines: io.StringIO) -> None:
    """An id of digits is not changed: 007 is another worker than 7. A number stays the number that it was."""
    ids = ["007", "1_0", "1e5", "+1", " 1", "1.50", "inf", "\u0661", "9" * 5_000]
    logging.getLogger("stream").error(" ".join(f"f{n}=%s" for n in range(len(ids))), *ids)
    assert list(only(lines)["facts"].values()) == ids
    numbers = [7, 10**17 + 1, 2.5, 3.0, "12", "-0.5", "17.0", 10**400, "1" * 400]
    logging.getLogger("stream").error(" ".join(f"f{n}=%s" for n in range(len(numbers))), *numbers)
    found = json.loads(lines.getvalue().splitlines()[1])["facts"].values()
    assert [repr(value) for value in found] == [
        "7",
        str(10**17 + 1),
        "2.5",
        "3.0",
        "12",
        "-0.5",
        "17.0",
        str(10**400),
        "1" * 400,
    ]


def test_facts_of_a_line_that_was_made_before_end_at_the_semicolon(lines: io.StringIO) -> None:
    """The status line and the warnings come as one text. What they quote of a producer is no fact."""
    logging.getLogger("stream").warning("%s", "many: dead_letters=12 share=1.2% p50=none; detail of one: level=9 x=1")
    assert only(lines)["facts"] == {"dead_letters": 12, "share": "1.2%", "p50": "none"}
    assert only(lines)["level"] == "WARNING"


def test_a_line_without_facts_has_none(lines: io.StringIO) -> None:
    """A library's message is as it is."""
    logging.getLogger("aiokafka").error("Heartbeat failed for %s: %r", "group", ValueError("x"))
    assert "facts" not in only(lines)
    assert only(lines)["message"] == "Heartbeat failed for group: ValueError('x')"


def test_a_crash_is_one_line_with_its_trace(lines: io.StringIO) -> None:
    """The stack trace has line breaks, and the line has none."""
    try:
        raise OSError("disk")
    except OSError:
        logging.getLogger("stream").exception("worker crashed")
    assert only(lines)["trace"].startswith("Traceback (most recent call last):\n")
    assert only(lines)["trace"].endswith("OSError: disk")


@pytest.mark.parametrize(
    "text",
    ['"quoted"\n{"level": 1}', "\ud800 half a character", "\x00\x1b[31m", "ü"],
    ids=["quotes", "surrogate", "control characters", "umlaut"],
)
def test_every_text_is_one_line(lines: io.StringIO, text: str) -> None:
    """Also what a producer has sent, such as quotes, line breaks and half of a surrogate pair."""
    record = logging.makeLogRecord({"msg": "refused: value=%s", "args": (text,)})
    logging.getLogger().handlers[0].handle(record)  # not by a logger: pytest cannot report half of a character
    assert only(lines)["message"] == f"refused: value={text}"
    assert only(lines)["facts"] == {"value": text}


def test_numbers_that_json_does_not_have_are_text(lines: io.StringIO) -> None:
    """JSON knows neither nan nor infinity, and a parser would refuse the line."""
    logging.getLogger("stream").error("odd: a=%s b=%s c=%s", float("nan"), float("inf"), True)
    assert only(lines)["facts"] == {"a": "nan", "b": "inf", "c": "True"}


def test_warnings_of_python_and_the_last_line_are_json_too(lines: io.StringIO) -> None:
    """So a collector of JSON sees why a worker has ended."""
    warnings.warn("old", stacklevel=1)
    last_line("eddy: topic clicks is missing")
    first, second = map(json.loads, lines.getvalue().splitlines())
    assert first["logger"] == "py.warnings"
    assert (second["level"], second["message"]) == ("CRITICAL", "eddy: topic clicks is missing")


def test_the_last_line_is_plain_in_a_text_log(capsys: pytest.CaptureFixture[str]) -> None:
    """As every command prints it."""
    assert not any(isinstance(handler.formatter, JsonLines) for handler in logging.getLogger().handlers)
    last_line("eddy: topic clicks is missing")
    sys.stderr.flush()
    assert capsys.readouterr().err == "eddy: topic clicks is missing\n"
