"""The lines of a worker's log: text, or JSON with one object a line.

    {"time": "2026-01-05T10:00:30.000Z", "level": "INFO", "logger": "stream.kafka.waiting",
     "message": "Kafka answers again: broker=k:9092 waited_s=102", "facts": {"broker": "k:9092", "waited_s": 102}}

`facts` has the `name=value` pairs of the message, where it has some, and `trace` a stack trace. Only what a native
library prints itself is not JSON.
"""

import hashlib
import json
import logging
import math
import os
import re
import sys
import time
from contextlib import suppress
from typing import Any

TEXT = "%(asctime)s %(levelname)s %(message)s"

PLACE = re.compile(r"(?:\b(\w+)=)?%[-#0 +]*\d*(?:\.\d+)?([a-zA-Z%])")
"""A placeholder of a message, with the name before it."""

PAIR = re.compile(r"\b([a-z]\w*)=(\S+)")


class JsonLines(logging.Formatter):
    """Formats each record as one JSON object without line breaks."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        found = facts(record)
        if found:
            line["facts"] = found
        traces = [self.formatException(record.exc_info)] if record.exc_info else []
        traces += [self.formatStack(record.stack_info)] if record.stack_info else []
        if traces:
            line["trace"] = "\n".join(traces)
        return json.dumps(line)  # not msgspec: it refuses half of a surrogate pair, which a producer may have sent


def facts(record: logging.LogRecord) -> dict[str, Any]:
    """The `name=value` pairs of a record: name -> number or text.

    They are the arguments with a name before their placeholder. A message that was made before, such as the status
    line, is searched up to its first semicolon: after it, a message may quote what a producer has sent.
    """
    places = [name for name, kind in PLACE.findall(str(record.msg)) if kind != "%"]
    if any(places) and isinstance(record.args, tuple) and len(places) == len(record.args):
        named = zip(places, record.args, strict=True)
        return {name: _number(value) for name, value in named if name}
    return {name: _number(value) for name, value in PAIR.findall(record.getMessage().partition(";")[0])}


def _number(value: object) -> float | str:
    """A finite number as a number, also text that is written as Python writes it; everything else as text.

    Text in another form may be an id: 007 is not 7.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value if -math.inf < value < math.inf else str(value)  # isfinite fails on an integer of 400 digits
    text = str(value)
    for kind in (int, float):
        with suppress(ValueError):
            number = kind(text)
            if repr(number) == text and -math.inf < number < math.inf:
                return number
    return text


def log_to_stderr(log_format: str) -> None:
    """Log warnings and errors to standard error, as "text" or "json"."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=TEXT)
    if log_format == "json":
        as_json(logging.getLogger())


def as_json(root: logging.Logger) -> None:
    """Let the handlers of the root logger write JSON, also Python's warnings."""
    for handler in root.handlers:
        handler.setFormatter(JsonLines())
    logging.captureWarnings(True)


def open_streams() -> None:
    """Open the null device in the place of each standard stream that this process began without (`2>&-`).

    Else a file or a connection to Kafka would have its number, with what a native library prints in it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def last_line(text: str) -> None:
    """Print why the process ends, for the operator: the text itself, or a JSON line if the log is JSON."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, JsonLines):
            handler.handle(logging.makeLogRecord({"name": "eddy", "levelname": "CRITICAL", "msg": text}))
            return
    print(text, file=sys.stderr, flush=True)


def counted(count: int, one: str, many: str = "") -> str:
    """A count with its noun: "1 row", "2 rows". many: the plural; by default `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def printable(text: str, most: int = 500) -> str:
    """A text that others wrote, for a line of a log or a terminal: its first `most` characters, control characters as
    question marks."""
    return "".join(c if c.isprintable() else "?" for c in text[:most])


def hashed(user: bytes) -> str:
    """Hash a user's key for log lines: the first 12 hex digits of its SHA-256.

    To find the lines of a known user: `printf %s USER | sha256sum | cut -c1-12`.
    """
    return hashlib.sha256(user).hexdigest()[:12]
