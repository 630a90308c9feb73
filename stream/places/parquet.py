"""A Sink in a directory: Parquet files whose names are the offsets.

    DIRECTORY/TOPIC/TOPIC-PARTITION-FIRST-LAST.parquet   the messages of a partition from offset FIRST to offset LAST

A file is written under another name, synchronised to the disk and then renamed: a file with this name is whole. The
largest LAST of a partition is where the next file begins, so the offsets are stored with the data by the rename. Files
of a partition follow on each other without a gap. A lock keeps a second process out.
"""

import fcntl
import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from stream.errors import ConfigError
from stream.events import Expected, Partition, Run
from stream.outputs import OUTPUTS, Column, columns, values
from stream.places.sink import Away, Event, Moved, Part

NAME = re.compile(r"(.+)-(\d+)-(\d{20})-(\d{20})\.parquet")
LOCK = "eddy-sink.lock"
UNFINISHED = ".unfinished"

TYPES: dict[Any, Any] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    datetime: pa.timestamp("ms", tz="UTC"),
    list[str]: pa.list_(pa.string()),
    list[int]: pa.list_(pa.int64()),
    list[float]: pa.list_(pa.float64()),
    dict[str, float]: pa.map_(pa.string(), pa.float64()),
    dict[str, int]: pa.map_(pa.string(), pa.int64()),
    dict[str, dict[str, int]]: pa.map_(pa.string(), pa.map_(pa.string(), pa.int64())),
    list[Expected]: pa.list_(pa.struct([("item_id", pa.string()), ("probability", pa.float64())])),
    list[Run]: pa.list_(pa.struct([("event_type", pa.string()), ("clicks", pa.int64())])),
}
"""Type of a column's values -> its Arrow type."""

UNFIT = (pa.ArrowException, OverflowError, ValueError)
"""Errors of a row that no file can hold, such as an integer of more than 64 bits."""


class ParquetSink:
    """A Sink in one directory, of which it holds the lock while it is open."""

    def __init__(self, directory: Path) -> None:
        self.where = str(directory)
        self._directory = directory
        self._lock: int | None = None
        self._ends: dict[Partition, int] = {}

    def open(self) -> None:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
        except OSError as exc:
            why = "it is a file" if self._directory.is_file() else exc.strerror
            raise ConfigError(f"--directory {self.where} cannot be written ({why}); give another one") from exc

    def offsets(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        self._ends = {}
        for topic in sorted({partition.topic for partition in partitions}):
            self._ends |= self._look_through(topic)
        return {partition: self._ends[partition] for partition in partitions if partition in self._ends}

    def write(self, part: Part) -> int:
        if self._ends.get(part.partition) != part.begin:
            raise Moved(part.partition, part.begin)
        table, left_out = _table(part)
        first = part.first if part.begin is None else part.begin
        name = f"{part.partition}-{first:020d}-{part.end - 1:020d}.parquet"
        folder = self._directory / part.partition.topic
        try:
            if not folder.exists():
                folder.mkdir()
                synchronise(self._directory)
            unfinished = folder / f"{name}{UNFINISHED}"
            with unfinished.open("wb") as file:
                pq.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(folder / name)
            synchronise(folder)
        except OSError as exc:
            raise Away(f"{folder / name} cannot be written: {exc.strerror or exc}") from exc
        self._ends[part.partition] = part.end
        return left_out

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _locked(self) -> int:
        file = os.open(self._directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise ConfigError(f"another eddy sink writes to {self.where}; run one process for a directory") from None
        return file

    def _look_through(self, topic: str) -> dict[Partition, int]:
        """Where the files of a topic end. Removes unfinished ones. Raises ConfigError if two have the same offsets."""
        folder = self._directory / topic
        ranges: dict[Partition, list[tuple[int, int, str]]] = {}
        try:
            for path in folder.iterdir() if folder.exists() else ():
                if path.name.endswith(UNFINISHED):
                    path.unlink()  # its process was killed; the lock is ours
                elif (found := NAME.fullmatch(path.name)) and found[1] == topic:
                    partition = Partition(topic, int(found[2]))
                    ranges.setdefault(partition, []).append((int(found[3]), int(found[4]), path.name))
        except OSError as exc:
            raise Away(f"{folder} cannot be read: {exc.strerror}") from exc
        for files in ranges.values():
            files.sort()
            for before, after in pairwise(files):
                if after[0] <= before[1]:
                    raise ConfigError(
                        f"{before[2]} and {after[2]} in {folder} have the same offsets; remove one of them"
                    )
        return {partition: files[-1][1] + 1 for partition, files in ranges.items()}


def _table(part: Part) -> tuple[Any, int]:
    """The events of a part as an Arrow table, and how many were left out."""
    of = columns(OUTPUTS[part.output])
    try:
        return _arrow(part.events, of), 0
    except UNFIT:
        fit = [event for event in part.events if _fits(event, of)]
        return _arrow(fit, of), len(part.events) - len(fit)


def _fits(event: Event, of: list[Column]) -> bool:
    try:
        _arrow([event], of)
    except UNFIT:
        return False
    return True


def _arrow(events: Iterable[Event], of: list[Column]) -> Any:
    rows = [values(event, of) for event in events]
    schema = pa.schema([pa.field(name, TYPES[kind], nullable=optional) for name, kind, optional in of])
    made = [
        pa.array([_value(row[n], column.kind) for row in rows], type=TYPES[column.kind]) for n, column in enumerate(of)
    ]
    return pa.Table.from_arrays(made, schema=schema)


def _value(value: Any, kind: Any) -> Any:
    if value is None:
        return None
    if kind in (dict[str, float], dict[str, int]):
        return list(value.items())
    if kind == dict[str, dict[str, int]]:
        return [(name, list(counts.items())) for name, counts in value.items()]
    return msgspec.to_builtins(value) if kind in (list[Expected], list[Run]) else value


def synchronise(directory: Path) -> None:
    """Make the names in a directory last: without it, a power failure may lose a rename. Raises OSError."""
    file = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
