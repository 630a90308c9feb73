"""A text log that polars cannot read -> the line where it goes wrong, for whoever has to mend it.

Looked for only after a refusal, a line at a time, so that it takes no memory. Where nothing is found, nothing is said.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import polars as pl

SEPARATORS = ",;\t|"
GZIP = b"\x1f\x8b"
SHOWN = 60
"""Characters of a line that a message shows."""


def trouble(file: Path, ending: str | None, exc: BaseException) -> str:
    """The first line of what polars says, and for the usual reasons where it is and what to do."""
    text = str(exc).strip() or type(exc).__name__
    if isinstance(exc, pl.exceptions.NoDataError) or "empty reader" in text:
        return "the file is empty"
    if "found more fields" in text:
        long = too_many_fields(file) or "a line has more fields than the first one, which names them"
        return f"{long}: is a separator not quoted?"
    if ending in (".jsonl", ".ndjson") and (broken := no_json_object(file)):
        return f"{printable(broken)}. Mend it or leave it out"
    if "could not parse" in text:
        return "a quote is opened and not closed, or the file is no CSV"
    return f"not readable ({printable(text.splitlines()[0])})"


def printable(text: str) -> str:
    """At most 200 characters for a line: a file of noise has control characters for names."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def no_json_object(path: Path) -> str | None:
    """Which line of JSON lines is no object, and how it begins; empty lines may be."""
    for number, line in enumerate(_lines(path), 1):
        if line.strip() and not _is_object(line):
            return f"line {number:,} is no JSON object: {line.strip()[:SHOWN]}"
    return None


def too_many_fields(path: Path) -> str | None:
    """Which line of a CSV has more fields than the first one."""
    lines = _lines(path)
    header = next(lines, "")
    separator = max(SEPARATORS, key=header.count)
    rows = csv.reader(lines, delimiter=separator)
    with suppress(csv.Error):
        names = len(next(csv.reader([header], delimiter=separator)))
        for row in rows:
            if len(row) > names:
                return f"line {1 + rows.line_num:,} has {len(row)} fields and the first one, which names them, {names}"
    return None


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _lines(path: Path) -> Iterator[str]:
    """As far as they can be read; bytes that are not UTF-8 are replaced."""
    with suppress(OSError, EOFError, zlib.error), path.open("rb") as raw:
        packed = raw.read(len(GZIP)) == GZIP
        raw.seek(0)
        with gzip.GzipFile(fileobj=raw) if packed else raw as file:
            for line in file:
                yield line.decode("utf-8", "replace")
