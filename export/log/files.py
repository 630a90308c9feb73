"""Reads the files of a log as batches of unchanged rows, and explains why a file cannot be read.

A log is a file, a directory of files or a quoted pattern; files are read in the order of their names. The formats are
CSV (the separator is recognised), Parquet and JSON lines, by the ending of the name; text files may be gzipped. If a
text file is broken, it is searched line by line for the line to report.
"""

import csv
import glob
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO, cast

import msgspec
import polars as pl

from stream.errors import ConfigError
from stream.wire.fields import Unusable
from stream.wire.json import UNDECODABLE, loose_object

BATCH = 1 << 18
"""Rows of a batch."""

SEPARATORS = ",;\t|"
GZIP = b"\x1f\x8b"
SHOWN = 60
"""Maximum characters of a line in a message."""

CONTROL = bytes({*range(32)} - {*b"\t\n\v\f\r"})
BINARY = 0.05
"""Minimum share of control characters in the first 4,096 bytes of a file that is not text. Random bytes have 0.11."""


class Cells(Protocol):
    """The rows of one file, column by column."""

    @property
    def schema(self) -> pl.Schema:
        """Names and types of its columns. Raises ConfigError if the file is empty."""

    def batches(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        """Yield the given columns in batches of at most BATCH rows, in the order of the rows."""

    def value(self, cell: Any) -> Any:
        """The value of a cell of a batch, as stream.wire.fields reads it. Raises Unusable."""


class LogFile(Cells, Protocol):
    """One file of a log, as it is."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows, each with its cells by the names of their columns."""


class Table:
    """A CSV or Parquet file, read by polars."""

    def __init__(self, frame: pl.LazyFrame) -> None:
        self._frame = frame
        self.schema = frame.collect_schema()

    def rows(self) -> Iterator[dict[str, Any]]:
        for batch in self.batches(list(self.schema)):
            yield from batch.iter_rows(named=True)

    def batches(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        return self._frame.select(columns).collect_batches(chunk_size=BATCH, maintain_order=True)

    def value(self, cell: Any) -> Any:
        return cell


class JsonLines:
    """A file with one JSON object per line.

    The cells of a batch are JSON texts, so true, 17.0 and "17.0" stay different values; polars would give all cells of
    a column one type. For the schema the whole file is read, because any line can have a new column.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

    @cached_property
    def schema(self) -> pl.Schema:
        names: dict[str, None] = {}
        for row in self._rows():
            names.update(dict.fromkeys(row))
        if not names:
            raise ConfigError(f"log {self._path}: the file is empty")
        return pl.Schema(dict.fromkeys(names, pl.String))

    def rows(self) -> Iterator[dict[str, Any]]:
        for row in self._rows():
            yield {name: bytes(cell).decode() for name, cell in row.items()}

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
            shown = printable(f"line {number:,} is not a JSON object: {line.strip()[:SHOWN]}")
            raise ConfigError(f"log {self._path}: {shown}. Correct the line or remove it") from exc
        # Bytes are a string that ends within a character. As a list it is not usable in any field, as on the topic.
        return {name: msgspec.Raw(json.dumps(cell, default=list).encode()) for name, cell in row.items()}


def files(path: Path) -> list[Path]:
    """The files of a log, sorted by name: a file, the log files of a directory, or the matches of a pattern.

    Raises ConfigError if there is no such file, or if a name has another ending than ENDINGS.
    """
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.is_file() and _ending(file) is not None)
        if not found:
            raise ConfigError(f"log {path}: the directory has no files that end in {', '.join(ENDINGS)}")
        return found
    if not path.exists() and glob.has_magic(str(path)):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if Path(name).is_file()]
        if not found:
            raise ConfigError(f"log {path}: no file matches this pattern")
    else:
        found = [path]
    for file in found:
        if _ending(file) is None:
            raise ConfigError(f"log {file}: the name must end in {', '.join(ENDINGS)} (or .csv.gz)")
        if not file.is_file():
            raise ConfigError(f"log {file}: no such file")
    return found


def open_file(path: Path) -> LogFile:
    """Open a file by the ending of its name.

    Raises ConfigError if the content is obviously of another format, and otherwise what polars raises.
    """
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
        raise ConfigError(f"log {path}: this is a zip file or a spreadsheet; save it as CSV")
    if ending != ".parquet" and _is_binary(path):
        raise ConfigError(f"log {path}: not a text file; a {ending} file must be text. Save the log as CSV or Parquet")
    return ENDINGS[ending](path)


def _is_binary(path: Path) -> bool:
    """True if the start of the file, unpacked if it is gzipped, has too many control characters for a text."""
    start = b""
    with suppress(OSError, EOFError, zlib.error), _unpacked(path) as file:
        start = file.read(4096)
    return len(start) - len(start.translate(None, CONTROL)) > BINARY * len(start)


def _ending(path: Path) -> str | None:
    """The ending of the name among ENDINGS, without .gz; None if it has another one."""
    name = path.name.lower().removesuffix(".gz")
    return next((known for known in ENDINGS if name.endswith(known)), None)


def _csv(path: Path) -> LogFile:
    """Open a CSV file; all columns are text, because 007 is not 7. Invalid UTF-8 becomes the replacement character."""

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
"""Ending of the name -> function that opens the file. The name may end in .gz after it."""


def text_lines(path: Path) -> TextIO:
    """The lines of a text file, unpacked if it is gzipped. Invalid UTF-8 becomes the replacement character."""
    return TextIOWrapper(_unpacked(path), "utf-8-sig", "replace", "\n")


def _unpacked(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        packed = file.read(len(GZIP)) == GZIP
    return cast(BinaryIO, gzip.open(path) if packed else path.open("rb"))


def trouble(file: Path, exc: BaseException) -> str:
    """One line that explains an exception of reading a file: for the usual reasons with the line and with advice."""
    text = str(exc).strip() or type(exc).__name__
    if isinstance(exc, pl.exceptions.NoDataError) or "empty reader" in text:
        return "the file is empty"
    if "found more fields" in text:
        long = _too_many_fields(file) or "a line has more fields than the header"
        return f"{long}: is a separator not quoted?"
    if "could not parse" in text:
        return _broken_quote(file) or "a quote is opened and not closed, or the file is not CSV"
    return f"not readable ({printable(text.splitlines()[0])})"


def printable(text: str) -> str:
    """The first 200 characters, with ? for control characters: names can come from a broken file."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])


def _too_many_fields(path: Path) -> str | None:
    """The first line of a CSV file with more fields than the header, as text for a message; None if not found."""
    with suppress(csv.Error, OSError, EOFError, zlib.error), text_lines(path) as lines:
        header = next(lines, "")
        separator = max(SEPARATORS, key=header.count)
        rows = csv.reader(lines, delimiter=separator)
        names = len(next(csv.reader([header], delimiter=separator)))
        for row in rows:
            if len(row) > names:
                return f"line {1 + rows.line_num:,} has {len(row)} fields, but the header has {names}"
    return None


def _broken_quote(path: Path) -> str | None:
    """The first line of a CSV file with a wrong quote, as text for a message; None if not found.

    A quote that is not closed extends to the end of the file, so the line where its row begins is reported.
    """
    with suppress(OSError, EOFError, zlib.error), text_lines(path) as lines:
        header = next(lines, "")
        rows = csv.reader(lines, delimiter=max(SEPARATORS, key=header.count), strict=True)
        begins = 2
        try:
            for _ in rows:
                begins = 2 + rows.line_num
        except csv.Error as exc:
            if "expected after" in str(exc):
                return (
                    f"line {1 + rows.line_num:,}: text follows a closing quote; write a quote in a field as two quotes"
                )
            return f"line {begins:,}: a quote is opened and not closed"
    return None
