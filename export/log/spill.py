"""Sorts rows by user on disk: rows in the order of the file -> runs of complete users.

A log may be larger than memory. Memory holds only the row count of each user and item, one run and one chunk. The
temporary files are deleted from their directory at once, so the system frees them when the process ends, even after a
crash. They are in TMPDIR, which must not be a file system in memory.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from export.arrays import I32, I64, Flags

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
"""A click on disk: indices of names, time in ms since the epoch; -1 and NaN = none."""

Rows = npt.NDArray[np.void]

CHUNK = 1 << 18
"""Maximum rows that are read or written at once."""

RUN = 1 << 21
"""Approximate rows of a run. A user with more rows is a run of its own."""


def _nameless() -> IO[bytes]:
    return tempfile.TemporaryFile()


def _added(counts: I64, indices: I32) -> I64:
    """The counts of indices from 0 on, with those of more indices (m,)."""
    sums = np.bincount(indices, minlength=len(counts))
    sums[: len(counts)] += counts
    return sums


class Spool:
    """Stores rows in any order of users, and returns them sorted by user."""

    def __init__(self) -> None:
        self._file = _nameless()
        self._counts = np.zeros(0, np.int64)
        self._items = np.zeros(0, np.int64)
        self._ends: list[int] | None = None

    def __len__(self) -> int:
        return int(self._counts.sum())

    def add(self, rows: Rows) -> None:
        assert self._ends is None, "rows after the first run was read"
        self._counts = _added(self._counts, rows["user"])
        self._items = _added(self._items, rows["item"])
        rows.tofile(self._file)

    def change_users(self, change: Callable[[Rows], npt.NDArray[Any]]) -> None:
        """Give each row the user that `change` returns for rows (m,): (m,) indices. It may be called again."""
        assert self._ends is None, "other users after the first run was read"
        total, counts = len(self), np.zeros(0, np.int64)
        for start in range(0, total, CHUNK):
            rows = self._read(start, CHUNK)
            rows["user"] = change(rows)
            counts = _added(counts, rows["user"])
            self._file.seek(start * ROW.itemsize)
            rows.tofile(self._file)
        self._counts = counts

    def clicks_of_users(self) -> I64:
        """(users,) int64, rows of each user."""
        return self._counts

    def clicks_of_items(self) -> I64:
        """(items,) int64, rows of each item."""
        return self._items

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
        """Write the rows to a new file, sorted by run. Returns the end row of each run."""
        _, run = np.unique((np.cumsum(self._counts) - 1) // RUN, return_inverse=True)  # (users,) ascending
        sizes = np.bincount(run, weights=self._counts).astype(np.int64)
        ends = np.cumsum(sizes)
        if len(sizes) > 1:
            at = ends - sizes
            sorted_file = _nameless()
            for start in range(0, len(self), CHUNK):
                rows = self._read(start, CHUNK)
                of_row = run[rows["user"]]
                rows = rows[np.argsort(of_row, kind="stable")]
                for number, part in enumerate(
                    np.split(rows, np.cumsum(np.bincount(of_row, minlength=len(sizes)))[:-1])
                ):
                    sorted_file.seek(int(at[number]) * ROW.itemsize)
                    part.tofile(sorted_file)
                    at[number] += len(part)
            self._file.close()
            self._file = sorted_file
        return [int(end) for end in ends]


class Column:
    """A column on disk: values are appended, and then the file is memory-mapped."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._file = _nameless()
        self._dtype = np.dtype(dtype)

    def append(self, values: npt.NDArray[Any]) -> None:
        values.astype(self._dtype, copy=False).tofile(self._file)

    def array(self) -> npt.NDArray[Any]:
        """(n,) memory-mapped array. The file exists as long as the array; call this method once."""
        self._file.flush()
        if os.fstat(self._file.fileno()).st_size == 0:
            return np.zeros(0, self._dtype)
        mapped = np.memmap(self._file, self._dtype, "r+")
        self._file.close()
        return np.asarray(mapped)


def part(column: npt.NDArray[Any], keep: Flags) -> npt.NDArray[Any]:
    """column[keep], as a new column on disk."""
    kept = Column(column.dtype)
    for at in chunks(len(column)):
        kept.append(column[at][keep[at]])
    return kept.array()


def chunks(count: int) -> Iterator[slice]:
    """Slices of at most CHUNK rows that cover `count` rows."""
    for start in range(0, count, CHUNK):
        yield slice(start, min(count, start + CHUNK))
