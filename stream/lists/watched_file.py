"""Reads a file again when it changes, and keeps the last valid content.

A bad file at the start stops the start. A bad file later is a warning in the log, and the previous content stays in use
until the file is valid again. Replace the file by a rename: a reader cannot detect every file that is half written.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from stream.errors import ConfigError

T = TypeVar("T")

log = logging.getLogger(__name__)


class WatchedFile(Generic[T]):
    """The result of `load` for the file at `path`, in `value`. Raises ConfigError if the first load fails.

    load  raises ConfigError on a bad file
    """

    def __init__(self, path: Path, load: Callable[[Path], T]) -> None:
        self._path = path
        self._load = load
        self._version = _version(path)
        self.value = load(path)

    def refresh(self) -> None:
        """Load the file again if its mtime, size or inode has changed since the last try.

        Without a change it costs one stat, which takes microseconds.
        """
        version = _version(self._path)
        if version == self._version:
            return
        self._version = version
        try:
            self.value = self._load(self._path)
        except ConfigError as exc:
            log.warning("catalogue not loaded, the previous one stays in use: error=%s", exc)


def _version(path: Path) -> tuple[int, int, int] | None:
    """The file's mtime, size and inode; None if there is no file."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
