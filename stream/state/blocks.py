"""Provides the memory of values by slot: blocks of BLOCK_SLOTS values, in RAM or in a file that is mapped to memory.

More users need more blocks, and no value moves. The kernel writes the blocks of a file to the disk, keeps in RAM the
pages that were used last, as many as there is room for, and reads the others when they are used again. The file has no
name and is gone when the process ends; the changelog in Kafka is the durable copy.

Two traps of mapped files:

- Writing to a page for which the disk has no room kills the process with SIGBUS. So a block's space is reserved before
  the block is used (posix_fallocate). That holds only on file systems that overwrite in place, see RESERVING.
- A value that is not in RAM stops the thread, with Python's lock, while the disk reads it: 150 us for each. `will_read`
  requests all values of a batch at once, before the first one is used: 20 us for each.
"""

import itertools
import logging
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from stream.errors import ConfigError

Slots: TypeAlias = npt.NDArray[np.intp]
Values: TypeAlias = npt.NDArray[Any]

BLOCK_SLOTS = 8192

MAP_BYTES = 1 << 30
"""Size of a mapping. Python keeps an open file for each one, and 1,024 open files are a common limit."""

RESERVING = ("ext2", "ext3", "ext4", "xfs", "tmpfs")
"""File systems on which reserved space stays reserved. Those that copy on write (btrfs, zfs) may need new space for a
page that was written before, and network file systems can lose their server."""

log = logging.getLogger(__name__)


class Block(NamedTuple):
    """The values of some slots that follow each other.

    values     (n, ...) the memory. Its first content is undefined
    will_read  called with the indices (m,) of values before they are read, so that a disk reads them all at once
    """

    values: Values
    will_read: Callable[[Slots], None]


NewBlock = Callable[["np.dtype[Any]"], Block]
"""Makes a block of BLOCK_SLOTS values of a dtype. Raises ConfigError if there is no room for it on the disk."""


def in_ram(dtype: "np.dtype[Any]") -> Block:
    """Make a block in RAM."""
    return Block(np.empty(BLOCK_SLOTS, dtype), _no_disk)


def _no_disk(within: Slots) -> None:
    pass


def on_disk(directory: Path) -> NewBlock:
    """Make a state file in a directory, and return what makes its blocks.

    Raises ConfigError if this system or the file system cannot reserve space, or the directory cannot be written.
    """
    if sys.platform != "linux":
        raise ConfigError("setting state_on_disk needs Linux, to reserve space on the disk; start without it")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        check_reserves(directory, Path("/proc/self/mounts").read_text())
        file = StateFile(directory)
        log.info("states are in a file: directory=%s free_gb=%.1f", directory, shutil.disk_usage(directory).free / 1e9)
        return file.new_block
    except OSError as exc:
        raise ConfigError(
            f"no file for the states can be made in {directory} ({exc.strerror}); give another --data-dir, or start "
            "without --state-on-disk"
        ) from exc


class StateFile:
    """A file without a name for the blocks of one process. It lives as long as a block of it."""

    def __init__(self, directory: Path) -> None:
        """Create the file. Raises OSError."""
        self._directory = directory
        self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115
        self._map: mmap.mmap | None = None
        self._start = self._used = 0  # where the newest mapping begins in the file, and its used bytes

    def new_block(self, dtype: "np.dtype[Any]") -> Block:
        """Make a block in the file. Raises ConfigError if its space cannot be reserved."""
        size = BLOCK_SLOTS * dtype.itemsize
        try:
            if self._map is None or self._used + size > len(self._map):
                self._add_map(max(MAP_BYTES, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE))
            os.posix_fallocate(self._file.fileno(), self._start + self._used, size)
        except OSError as exc:
            raise ConfigError(
                f"the states need {size:,} more bytes of disk in {self._directory}: {exc.strerror}; free space there, "
                "give another --data-dir, or start without --state-on-disk"
            ) from exc
        assert self._map is not None
        block = np.frombuffer(self._map, np.uint8, size, self._used).view(dtype.base)
        will_read = partial(_will_read, self._map, self._used, dtype.itemsize)
        self._used += size
        return Block(block.reshape(BLOCK_SLOTS, *dtype.shape), will_read)

    def _add_map(self, size: int) -> None:
        """Map more of the file. It has no space for these bytes yet, so they are not used before they are reserved."""
        start, file = os.fstat(self._file.fileno()).st_size, self._file.fileno()
        os.ftruncate(file, start + size)
        self._map, self._start, self._used = mmap.mmap(file, size, offset=start), start, 0
        self._map.madvise(mmap.MADV_RANDOM)  # else the kernel reads 128 KB around each value


def _will_read(mapped: mmap.mmap, start: int, size: int, within: Slots) -> None:
    """Request the pages of some values from the disk. Costs 1 us for a value that is in RAM."""
    page = mmap.PAGESIZE
    for begin in (start + size * within).tolist():
        first = begin - begin % page
        mapped.madvise(mmap.MADV_WILLNEED, first, begin + size - first)  # keeps Python's lock, unlike posix_fadvise


def by_block(slots: Slots) -> Iterator[tuple[int, Slots | slice, Slots]]:
    """Split slots by block: the number of the block, the indices into `slots`, and the indices into the block."""
    if len(slots):  # often all are of one block, and a batch of one click is 5 % faster without what follows
        first = int(slots[0]) // BLOCK_SLOTS
        within = slots - first * BLOCK_SLOTS
        if within.view(np.uint64).max() < BLOCK_SLOTS:  # a negative number is a large one
            yield first, slice(None), within
            return
    number, within = np.divmod(slots, BLOCK_SLOTS)
    order = np.argsort(number, kind="stable")
    ends = np.flatnonzero(np.diff(number[order], append=-2)) + 1
    for start, end in itertools.pairwise([0, *ends.tolist()]):
        which: Slots | slice = order[start:end]
        first, last = order[start], order[end - 1]
        if last - first == end - start - 1:  # new slots of one block: a slice saves a copy of their rows
            which = slice(first, last + 1)
        yield int(number[first]), which, within[which]


def check_reserves(directory: Path, mounts: str) -> None:
    """Check that the file system of a directory keeps the space that a file has reserved.

    mounts  the content of /proc/self/mounts
    Raises ConfigError that names the file system if it does not, or if it is not known to.
    """
    path, kinds = directory.resolve(), dict[Path, str]()
    for line in mounts.splitlines():
        _, mounted_at, kind, *_ = line.split(" ")
        kinds[Path(mounted_at.replace("\\040", " "))] = kind  # of mounts on one directory, the last one counts
    kind = next((kinds[parent] for parent in (path, *path.parents) if parent in kinds), "an unknown file system")
    if kind not in RESERVING:
        raise ConfigError(
            f"setting state_on_disk needs a --data-dir on a local disk with ext4 or xfs, but {directory} is on {kind}, "
            "where a full disk would kill the worker. Mount a volume there, or start without --state-on-disk"
        )
