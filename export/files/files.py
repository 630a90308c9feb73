"""Reads the files of a log as batches of unchanged rows, and explains why a file cannot be read.

A log is a file, a directory of files or a quoted pattern; files are read in the order of their names. The formats are
CSV (the separator is recognised), Parquet, JSON lines and Avro, by the ending of the name; text files may be gzipped.
If a text file is broken, it is searched line by line for the line to report.
"""

import csv
import glob
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import polars as pl

from export.files.cells import LogFile, Table
from export.files.json_lines import JsonLines, text_lines, unpacked
from stream.errors import ConfigError
from stream.log_lines import printable

SEPARATORS = ",;\t|"
CONTROL = bytes({*range(32)} - {*b"\t\n\v\f\r"})
BINARY = 0.05
"""Minimum share of control characters in the first 4,096 bytes of a file that is not text. Random bytes have 0.11."""


BINARIES = ((".parquet", "a Parquet", b"PAR1"), (".avro", "an Avro", b"Obj\x01"))
"""Formats that are not text: ending of the name, words for it, first bytes."""


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
            lines = "; if it has one JSON object a line, rename it to .jsonl" if ".json" in file.suffixes else ""
            raise ConfigError(f"log {file}: the name must end in {', '.join(ENDINGS)} (or .csv.gz){lines}")
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
    for own, kind, signs in BINARIES:
        if ending != own and start == signs:
            raise ConfigError(f"log {path}: this is {kind} file; name it {own}")
    if start[:2] == b"PK":
        raise ConfigError(f"log {path}: this is a zip file or a spreadsheet; save it as CSV")
    if ending not in (own for own, *_ in BINARIES) and _is_binary(path):
        raise ConfigError(f"log {path}: not a text file; a {ending} file must be text. Save the log as CSV or Parquet")
    return ENDINGS[ending](path)


def _is_binary(path: Path) -> bool:
    """True if the start of the file, unpacked if it is gzipped, has too many control characters for a text."""
    start = b""
    with suppress(OSError, EOFError, zlib.error), unpacked(path) as file:
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


def _avro(path: Path) -> LogFile:
    from export.files.avro import AvroFile  # only here: other formats do not need fastavro

    return AvroFile(path)


ENDINGS: dict[str, Callable[[Path], LogFile]] = {
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".jsonl": JsonLines,
    ".ndjson": JsonLines,
    ".avro": _avro,
}
"""Ending of the name -> function that opens the file. The name may end in .gz after it."""


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
