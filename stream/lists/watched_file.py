"""A file that is read again when it changes, and a worker that outlives its mistakes.

At the start a file that cannot be used refuses the start. Later it costs one line in the log: what was read before
stays until the file is good again. Replace the file by a rename: a file read half-written may look whole.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from stream.errors import ConfigError

T = TypeVar("T")

log = logging.getLogger(__name__)


class Watched(Generic[T]):
    """What `load` makes of the file at `path`. Raises ConfigError if that fails the first time.

    load  raises ConfigError on a file that cannot be used
    """

    def __init__(self, path: Path, load: Callable[[Path], T]) -> None:
        self._path = path
        self._load = load
        self._mark = _mark(path)
        self.value = load(path)

    def refresh(self) -> None:
        """Load the file again if its time, size or inode changed since the last try (one stat, microseconds)."""
        mark = _mark(self._path)
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self.value = self._load(self._path)
        except ConfigError as exc:
            log.warning("catalogue not taken, the one before stays: error=%s", exc)


def _mark(path: Path) -> tuple[int, int, int] | None:
    """None where there is no file."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
