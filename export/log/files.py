"""The files of a log -> batches of their rows as they are, and what is wrong with a file that cannot be read.

CSV (the separator is recognised), Parquet and JSON lines: a file, a directory of them or a quoted pattern, in the order
of their names. .gz may follow a name's ending. Where a text file is broken, the line is looked for, a line at a time.
"""

import csv
import glob
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TextIO

import msgspec
import polars as pl

from stream.errors import ConfigError
from stream.wire.fields import Unusable
from stream.wire.json import UNDECODABLE, loose_object

BATCH = 1 << 18
"""Rows at a time."""

SEPARATORS = ",;\t|"
GZIP = b"\x1f\x8b"
SHOWN = 60
"""Characters of a line that a message shows."""


class LogFile(Protocol):
    """One file of a log."""

    schema: pl.Schema
    """Its columns."""

    def batches(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Some of its columns, BATCH rows at a time, in the order of its rows."""

    def value(self, cell: Any) -> Any:
        """What a cell of a batch holds, as stream.wire.fields takes it. Raises Unusable."""


class Table:
    """A file that polars reads."""

    def __init__(self, frame: pl.LazyFrame) -> None:
        self._frame = frame
        self.schema = frame.collect_schema()

    def batches(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        return self._frame.select(columns).collect_batches(chunk_size=BATCH, maintain_order=True)

    def value(self, cell: Any) -> Any:
        return cell


class JsonLines:
    """A JSON object a line. Its cells are JSON, so that true, 17.0 and "17.0" stay apart in one column.

    The file is read twice, because a new column may begin at any line; polars would give a column a type for all cells.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
        names: dict[str, None] = {}
        for row in self._rows():
            names.update(dict.fromkeys(row))
        if not names:
            raise ConfigError(f"log {path}: the file is empty")
        self.schema = pl.Schema(dict.fromkeys(names, pl.String))

    def batches(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        rows = self._rows()
        while True:
            cells: dict[str, list[str | None]] = {name: [] for name in columns}
            count = 0
            for row in islice(rows, BATCH):
                count += 1
                for name, column in cells.items():
                    cell = row.get(name)
                    column.append(None if cell is None else bytes(cell).decode())
            if not count:
                return
            yield pl.DataFrame(cells, dict.fromkeys(columns, pl.String))

    def value(self, cell: Any) -> Any:
        try:
            return msgspec.json.decode(cell)
        except UNDECODABLE:
            pass
        try:
            return json.loads(cell)  # NaN
        except (RecursionError, ValueError) as exc:
            raise Unusable("nested too deeply, or a number of thousands of digits") from exc

    def _rows(self) -> Iterator[dict[str, msgspec.Raw]]:
        with text_lines(self._path) as lines:
            for number, line in enumerate(lines, 1):
                if line.isspace():
                    continue
                try:
                    yield self._decode(line)
                except UNDECODABLE:
                    yield self._loosely(number, line)

    def _loosely(self, number: int, line: str) -> dict[str, msgspec.Raw]:
        try:
            row = loose_object(line)
        except (RecursionError, ValueError) as exc:
            shown = printable(f"line {number:,} is no JSON object: {line.strip()[:SHOWN]}")
            raise ConfigError(f"log {self._path}: {shown}. Mend it or leave it out") from exc
        # bytes are a string that is cut within a character: as a list it is in no field usable, here as on the topic
        return {name: msgspec.Raw(json.dumps(cell, default=list).encode()) for name, cell in row.items()}


def files(path: Path) -> list[Path]:
    """A file, the log files in a directory, or those that a pattern finds, by name. Raises ConfigError if none is."""
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.is_file() and _ending(file) is not None)
        if not found:
            raise ConfigError(f"log {path}: a directory without files that end in {', '.join(ENDINGS)}")
        return found
    if not path.exists() and glob.has_magic(str(path)):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        if not found:
            raise ConfigError(f"log {path}: no file has such a name")
    else:
        found = [path]
    for file in found:
        if _ending(file) is None:
            raise ConfigError(f"log {file}: the name must end in {', '.join(ENDINGS)} (or .csv.gz)")
        if not file.is_file():
            raise ConfigError(f"log {file}: no such file")
    return found


def open_file(path: Path) -> LogFile:
    """By the name's ending. Raises ConfigError where the content is of another kind, and what polars raises."""
    ending = _ending(path)
    assert ending is not None
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise ConfigError(f"log {path}: the file is empty")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ConfigError(f"log {path}: the text is UTF-16; save it as UTF-8")
    if ending != ".parquet" and start == b"PAR1":
        raise ConfigError(f"log {path}: this is a Parquet file; name it .parquet")
    if start[:2] == b"PK":
        raise ConfigError(f"log {path}: this is a zip or a spreadsheet; save it as CSV")
    return ENDINGS[ending](path)


def _ending(path: Path) -> str | None:
    name = path.name.lower().removesuffix(".gz")
    return next((known for known in ENDINGS if name.endswith(known)), None)


def _csv(path: Path) -> LogFile:
    """All columns stay text: 007 is not 7. Bytes that are not UTF-8 become the replacement character."""

    def table(separator: str) -> Table:
        return Table(pl.scan_csv(path, separator=separator, infer_schema=False, encoding="utf8-lossy", glob=False))

    return max(map(table, SEPARATORS), key=lambda table: len(table.schema))


def _parquet(path: Path) -> LogFile:
    return Table(pl.scan_parquet(path, glob=False))


ENDINGS: dict[str, Callable[[Path], LogFile]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
}
"""How a file is opened, by its name's ending; .gz may follow, which is unpacked."""


def text_lines(path: Path) -> TextIO:
    """The lines of a text file, also of a gzipped one; bytes that are not UTF-8 become the replacement character."""
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
    return TextIOWrapper(gzip.open(path) if packed else path.open("rb"), "utf-8-sig", "replace", "\n")


def trouble(file: Path, exc: BaseException) -> str:
    """The first line of what was raised on reading, and for the usual reasons where it is and what to do."""
    text = str(exc).strip() or type(exc).__name__
    if isinstance(exc, pl.exceptions.NoDataError) or "empty reader" in text:
        return "the file is empty"
    if "found more fields" in text:
        long = _too_many_fields(file) or "a line has more fields than the first one, which names them"
        return f"{long}: is a separator not quoted?"
    if "could not parse" in text:
        return "a quote is opened and not closed, or the file is no CSV"
    return f"not readable ({printable(text.splitlines()[0])})"


def printable(text: str) -> str:
    """At most 200 characters for a line: a file of noise has control characters for names."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def _too_many_fields(path: Path) -> str | None:
    """Which line of a CSV has more fields than the first one."""
    with suppress(csv.Error, OSError, EOFError, zlib.error), text_lines(path) as lines:
        header = next(lines, "")
        separator = max(SEPARATORS, key=header.count)
        rows = csv.reader(lines, delimiter=separator)
        names = len(next(csv.reader([header], delimiter=separator)))
        for row in rows:
            if len(row) > names:
                return f"line {1 + rows.line_num:,} has {len(row)} fields and the first one, which names them, {names}"
    return None
