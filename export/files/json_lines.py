"""JSON lines: each line is a row. And the lines of any text file, which may be gzipped."""

import gzip
import json
from collections.abc import Iterator
from functools import cached_property, partial
from io import TextIOWrapper
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import msgspec
import polars as pl

from export.files.cells import JsonCells
from stream.errors import ConfigError
from stream.log_lines import printable
from stream.wire.json import UNDECODABLE, loose_object

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
LONGEST_LINE = 1 << 24
"""Maximum characters of a line, which are all in memory: a file of one array can be larger than that."""

SHOWN = 60
"""Maximum characters of a line in a message."""

ONE_A_LINE = "The file must have one object a line, without commas between them: `jq -c '.[]'` writes them of an array"


class JsonLines(JsonCells):
    """A file with one JSON object per line. For the schema all of it is read: any line can have a new column."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

    @cached_property
    def schema(self) -> pl.Schema:
        names: dict[str, None] = {}
        for row in self.objects():
            names.update(dict.fromkeys(row))
        if not names:
            raise ConfigError(f"log {self._path}: the file is empty")
        return pl.Schema(dict.fromkeys(names, pl.String))

    def objects(self) -> Iterator[dict[str, msgspec.Raw]]:
        with text_lines(self._path) as lines:
            for number, line in enumerate(iter(partial(lines.readline, LONGEST_LINE), ""), 1):
                if len(line) == LONGEST_LINE:
                    many = f"line {number:,} has {LONGEST_LINE:,} characters or more"
                    raise ConfigError(f"log {self._path}: {many}. {ONE_A_LINE}")
                if line.isspace():
                    continue
                try:
                    yield self._decode(line)
                except UNDECODABLE:
                    yield self._loosely(number, line)

    def text(self, value: msgspec.Raw) -> str:
        return bytes(value).decode()

    def _loosely(self, number: int, line: str) -> dict[str, msgspec.Raw]:
        try:
            row = loose_object(line)
        except (RecursionError, ValueError) as exc:
            text = line.strip()
            shown = printable(f"line {number:,} is not a JSON object: {text[:SHOWN]}")
            # An array, an object of several lines, or objects with commas between them: so are all lines.
            advice = ONE_A_LINE if text[0] == "[" or text == "{" or text[-1] == "," else "Correct the line or remove it"
            raise ConfigError(f"log {self._path}: {shown}. {advice}") from exc
        # Bytes are a string that ends within a character. As a list it is not usable in any field, as on the topic.
        return {name: msgspec.Raw(json.dumps(cell, default=list).encode()) for name, cell in row.items()}


def text_lines(path: Path) -> TextIO:
    """The lines of a text file, unpacked if it is gzipped. Invalid UTF-8 becomes the replacement character."""
    return TextIOWrapper(unpacked(path), "utf-8-sig", "replace", "\n")


def unpacked(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked if it is gzipped. Raises OSError for Zstandard, which only polars unpacks."""
    with path.open("rb") as file:
        start = file.read(len(ZSTD))
    if start == ZSTD:
        raise OSError("packed by Zstandard")
    return cast(BinaryIO, gzip.open(path) if start.startswith(GZIP) else path.open("rb"))
