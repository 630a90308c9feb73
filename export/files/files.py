"""Reads the files of a log as batches of unchanged rows, and explains why a file cannot be read.

A log is a file, a directory of files or a quoted pattern; files are read in the order of their names. The formats are
CSV (the separator is recognised), Parquet, JSON lines and Avro, by the ending of the name; text files may be gzipped,
and CSV also packed by Zstandard. If a text file is broken, it is searched line by line for the line to report.
"""

import csv
import glob
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import polars as pl

from export.files.cells import LogFile, Table
from export.files.json_lines import GZIP, ZSTD, JsonLines, text_lines, unpacked
from stream.errors import ConfigError
from stream.log_lines import printable

SEPARATORS = ",;\t|"
CONTROL = bytes({*range(32)} - {*b"\t\n\v\f\r"})
BINARY = 0.05
"""Minimum share of control characters in the first 4,096 bytes of a file that is not text. Random bytes have 0.11."""

LONGEST_HEADER = 1 << 20
"""Maximum bytes of the header of a CSV. A file without line feeds, such as an array in JSON, is all header, and polars
takes 2 GB for 58 MB of it."""

BINARIES = ((".parquet", "a Parquet", b"PAR1"), (".avro", "an Avro", b"Obj\x01"))
"""Formats that are not text: ending of the name, words for it, first bytes."""

PACKERS = {GZIP: "gzip", ZSTD: "Zstandard", b"BZh": "bzip2", b"\xfd7zX": "xz"}
"""First bytes of a packed file -> what has packed it."""

TOO_SHORT = ("end-of-stream marker", "unexpected end of file", "incomplete frame", "must end with PAR1")
OTHER_BYTES = ("Not a gzipped file", "invalid gzip header", "Unknown frame descriptor")
"""Words of the readers for a file that was cut, and for one that goes on after its packed part."""

UNPACKED = {".csv": (GZIP, ZSTD), ".tsv": (GZIP, ZSTD), ".jsonl": (GZIP,), ".ndjson": (GZIP,)}
"""Ending of a text file -> the first bytes of the packed files that are read."""


def files(path: Path) -> list[Path]:
    """The files of a log, sorted by name: a file, the log files of a directory, or the matches of a pattern.

    Raises ConfigError if there is no such file, or if a name has another ending than ENDINGS.
    """
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if _is_log(file))
        if not found:
            raise ConfigError(
                f"log {path}: the directory has no files that end in {', '.join(ENDINGS)}; a pattern in "
                f"quotes, such as '{path}/**/*.parquet', finds those in the directories below it"
            )
    elif not path.exists() and glob.has_magic(str(path)):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True)) if not Path(name).is_dir()]
        if not found:
            raise ConfigError(f"log {path}: no file matches this pattern")
    else:
        found = [path]
    for file in found:
        if _ending(file) is None:
            lines = (
                "; if it has one JSON object a line, rename it to .jsonl; `jq -c '.[]'` writes such lines of one array"
                if ".json" in file.suffixes
                else ""
            )
            raise ConfigError(f"log {file}: the name must end in {', '.join(ENDINGS)} (or .csv.gz, .csv.zst){lines}")
        if not file.exists():
            raise ConfigError(f"log {file}: no such file{', its link leads nowhere' if file.is_symlink() else ''}")
        if not file.is_file():
            raise ConfigError(f"log {file}: not a regular file; write its rows to a file first")
    return found


def _is_log(path: Path) -> bool:
    """True for a log file of a directory, also for one that cannot be read: leaving it out would lose its rows.

    Names with a dot first are files of a program about another file.
    """
    return not path.is_dir() and _ending(path) is not None and not path.name.startswith(".")


def not_read(path: Path) -> list[str]:
    """The names in a directory that `files` leaves out, sorted; none of those with a dot first, and empty files."""
    if not path.is_dir():
        return []
    others = (file for file in path.iterdir() if not _is_log(file) and not file.name.startswith("."))
    return sorted(
        f"{file.name}/" if file.is_dir() else file.name for file in others if not file.is_file() or file.stat().st_size
    )


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
    packed = next((signs for signs in PACKERS if start.startswith(signs)), None)
    if packed is not None and packed not in UNPACKED.get(ending, ()):
        pack = ", or pack it with gzip" if ending in UNPACKED else ""
        raise ConfigError(f"log {path}: packed by {PACKERS[packed]}; unpack it{pack}")
    for own, kind, signs in BINARIES:
        if ending == own and start != signs:
            raise ConfigError(f"log {path}: this is not {kind} file; give the name the ending of its format")
    if ending in UNPACKED:
        _check_text(path, ending)
    return ENDINGS[ending](path)


def _check_text(path: Path, ending: str) -> None:
    """Raise ConfigError if the start of a file, unpacked if it is gzipped, is no text with lines.

    The start of a file that Zstandard has packed is not looked at.
    """
    start = b""
    with suppress(OSError, EOFError, zlib.error), unpacked(path) as file:
        start = file.read(LONGEST_HEADER)
    first = start[:4096]
    if len(first) - len(first.translate(None, CONTROL)) > BINARY * len(first):
        raise ConfigError(f"log {path}: not a text file; a {ending} file must be text. Save the log as CSV or Parquet")
    if b"\r" in start[:-1] and b"\n" not in start:
        raise ConfigError(f"log {path}: its lines end with a carriage return alone; save it with line feeds")
    if ENDINGS[ending] is _csv and len(start) == LONGEST_HEADER and b"\n" not in start:
        raise ConfigError(f"log {path}: no line ends in its first {len(start):,} bytes; a CSV has a header and lines")


def _ending(path: Path) -> str | None:
    """The ending of the name among ENDINGS, without .gz and .zst; None if it has another one."""
    name = path.name.lower().removesuffix(".gz").removesuffix(".zst")
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
"""Ending of the name -> function that opens the file. The name may end in .gz or .zst after it."""


def trouble(file: Path, exc: BaseException) -> str:
    """One line that explains an exception of reading a file: for the usual reasons with the line and with advice."""
    text = str(exc).strip() or type(exc).__name__
    if isinstance(exc, pl.exceptions.NoDataError) or "empty reader" in text:
        return "the file is empty"
    if "found more fields" in text:
        long = _too_many_fields(file) or "a line has more fields than the header"
        return f"{long}: is a separator not quoted?"
    if "could not parse" in text or "CSV malformed" in text:
        return _broken_quote(file) or _inner_quote(file) or "a quote is opened and not closed, or the file is not CSV"
    shown = printable(text.splitlines()[0])
    if any(words in text for words in TOO_SHORT):
        return f"its end is missing ({shown}): write it or copy it again"
    if any(words in text for words in OTHER_BYTES):
        return f"its packed bytes are damaged, or others follow them ({shown}); pack it again"
    return f"not readable ({shown})"


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


def _inner_quote(path: Path) -> str | None:
    """The first line of a CSV file with a quote inside a field that is not quoted, for a message; None if not found."""
    read: list[str] = []

    def kept(lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            read.append(line)
            yield line

    with suppress(csv.Error, OSError, EOFError, zlib.error), text_lines(path) as lines:
        header = next(lines, "")
        rows = csv.reader(kept(lines), delimiter=max(SEPARATORS, key=header.count))
        for row in rows:
            text = "".join(read)
            read.clear()
            if any('"' in cell and cell.replace('"', '""') not in text for cell in row):
                return (
                    f"line {1 + rows.line_num:,}: a quote inside a field; put the field in quotes and write this quote "
                    "as two quotes"
                )
    return None
