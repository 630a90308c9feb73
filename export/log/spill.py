"""Rows in a file's order -> the same rows in runs of whole users, on disk.

A log may be larger than memory: memory holds the number of rows of each user, one run and one chunk. The temporary
files have no names, so the system removes them when the process ends, however it ends. They are in TMPDIR, which must
not be in memory itself.
"""

import os
import tempfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from export.arrays import I64, Flags

ROW = np.dtype(
    [
        ("user", "<i4"),
        ("item", "<i4"),
        ("event_type", "<i4"),
        ("session", "<i4"),
        ("category", "<i4"),
        ("time_ms", "<i8"),
        ("price", "<f8"),
    ]
)
"""A click on disk: indices of names, ms since the epoch; -1 and NaN mean none."""

Rows = npt.NDArray[np.void]

CHUNK = 1 << 18
"""Rows that are read or written at a time."""

RUN = 1 << 21
"""Rows of a run, roughly; a user with more rows is a run alone."""


def _nameless() -> IO[bytes]:
    return tempfile.TemporaryFile()


class Spool:
    """Stores rows in the order in which they come and returns them by user."""

    def __init__(self) -> None:
        self._file = _nameless()
        self._counts = np.zeros(0, np.int64)
        self._ends: list[int] | None = None

    def __len__(self) -> int:
        return int(self._counts.sum())

    def add(self, rows: Rows) -> None:
        assert self._ends is None, "rows after the first run was read"
        counts = np.bincount(rows["user"], minlength=len(self._counts))
        counts[: len(self._counts)] += self._counts
        self._counts = counts
        rows.tofile(self._file)

    def clicks_of_users(self) -> I64:
        """(users,) how many rows each has, by index."""
        return self._counts

    def by_user(self) -> Iterator[Rows]:
        """Runs of whole users in index order; within a run the rows are in the order in which they were added."""
        if self._ends is None:
            self._ends = self._sort()
        start = 0
        for end in self._ends:
            yield self._read(start, end - start)
            start = end

    def _read(self, start: int, count: int) -> Rows:
        self._file.seek(start * ROW.itemsize)
        return np.fromfile(self._file, ROW, count)

    def _sort(self) -> list[int]:
        """Moves every row to its run; returns where the runs end."""
        _, run = np.unique((np.cumsum(self._counts) - 1) // RUN, return_inverse=True)  # (users,) never falling
        sizes = np.bincount(run, weights=self._counts).astype(np.int64)
        ends = np.cumsum(sizes)
        if len(sizes) > 1:
            at = ends - sizes
            sorted_file = _nameless()
            for start in range(0, len(self), CHUNK):
                rows = self._read(start, CHUNK)
                place = run[rows["user"]]
                rows = rows[np.argsort(place, kind="stable")]
                for number, part in enumerate(np.split(rows, np.cumsum(np.bincount(place, minlength=len(sizes)))[:-1])):
                    sorted_file.seek(int(at[number]) * ROW.itemsize)
                    part.tofile(sorted_file)
                    at[number] += len(part)
            self._file.close()
            self._file = sorted_file
        return [int(end) for end in ends]


class Column:
    """A column that is written once, from first to last, and then memory-mapped."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._file = _nameless()
        self._dtype = np.dtype(dtype)

    def append(self, values: npt.NDArray[Any]) -> None:
        values.astype(self._dtype, copy=False).tofile(self._file)

    def array(self) -> npt.NDArray[Any]:
        """(n,) memory-mapped; the file exists as long as the array."""
        self._file.flush()
        if os.fstat(self._file.fileno()).st_size == 0:
            return np.zeros(0, self._dtype)
        mapped = np.memmap(self._file, self._dtype, "r+")
        self._file.close()
        return np.asarray(mapped)


def part(column: npt.NDArray[Any], keep: Flags) -> npt.NDArray[Any]:
    """column[keep], on disk too."""
    kept = Column(column.dtype)
    for at in chunks(len(column)):
        kept.append(column[at][keep[at]])
    return kept.array()


def chunks(count: int) -> Iterator[slice]:
    """Slices of at most CHUNK rows that cover `count` rows."""
    for start in range(0, count, CHUNK):
        yield slice(start, min(count, start + CHUNK))
