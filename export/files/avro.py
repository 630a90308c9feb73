"""Avro object container files: a schema, and blocks of records, which may be compressed.

The records become what messages in Avro become: `stream/registry/avro.py` has the rules. So a log and a topic are read
alike.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from fastavro import block_reader, schemaless_reader

from export.files.cells import JsonCells
from stream.errors import ConfigError
from stream.registry.avro import plain_schema


class AvroFile(JsonCells):
    """A file of records. It is read block by block; a block usually has some thousand bytes.

    Raises ConfigError if the file is damaged, or its schema is not of records.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._records = 0  # that were read
        with self._readable(), path.open("rb") as file:
            self._schema = plain_schema(block_reader(file).metadata["avro.schema"])
            if not isinstance(self._schema, dict) or self._schema["type"] != "record" or not self._schema["fields"]:
                raise ValueError("its schema is not that of a record with fields")
        self.schema = pl.Schema({field["name"]: pl.String for field in self._schema["fields"]})

    def objects(self) -> Iterator[dict[str, Any]]:
        self._records = 0
        with self._readable(), self._path.open("rb") as file:
            for block in block_reader(file):
                body = block.bytes_
                for _ in range(block.num_records):
                    yield schemaless_reader(body, self._schema, None)
                    self._records += 1
                if body.read(1):
                    raise ValueError("a block has more bytes than its records")

    def text(self, value: Any) -> str:
        return json.dumps(value, default=list)  # bytes that are no text are a list, which no field takes

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:  # of the library and of five kinds of compression
            why = " ".join(str(exc).split())[:200] or type(exc).__name__
            raise ConfigError(f"log {self._path}: not readable after {self._records:,} records ({why})") from exc
