"""The rows of one file, column by column: of a table that polars reads, or of objects in JSON."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol

import msgspec
import polars as pl

from stream.wire.fields import Unusable
from stream.wire.json import UNDECODABLE

BATCH = 1 << 18
"""Rows of a batch."""


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
        """The cell, or its text if it has the bytes of one: other programs write text to Parquet without its type."""
        if isinstance(cell, bytes):
            with suppress(UnicodeDecodeError):
                return cell.decode()
        return cell


class JsonCells(ABC):
    """A file whose cells are JSON texts, so true, 17.0 and "17.0" stay different values.

    polars would give all cells of a column one type. The columns of the schema are text.
    """

    @abstractmethod
    def objects(self) -> Iterator[Mapping[str, Any]]:
        """Yield the rows, each with its values by the names of their columns."""

    @abstractmethod
    def text(self, value: Any) -> str:
        """A value of an object as JSON."""

    def rows(self) -> Iterator[dict[str, Any]]:
        for row in self.objects():
            yield {name: self.text(cell) for name, cell in row.items()}

    def batches(self, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        rows = self.objects()
        while True:
            cells: dict[str, list[str | None]] = {name: [] for name in columns}
            count = 0
            for row in islice(rows, BATCH):
                count += 1
                for name, column in cells.items():
                    cell = row.get(name)
                    column.append(None if cell is None else self.text(cell))
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
