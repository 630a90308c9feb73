"""Reads a clicks topic as a log: the lines that `eddy record` writes go to a temporary file, which is read as any log.

So the paths of a topic are those of its log. All clicks are written before the first one is counted: a request to
forget a user comes after the clicks that it is about, and a login after the clicks that it joins.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from export.log.log import Log
from export.options import take_log
from export.progress import Progress
from export.record.lines import Lines
from export.record.record import write_topic
from export.record.recorded import Recorded
from stream.errors import ConfigError
from stream.kafka_config import KafkaConfig

PREFIX = "eddy-topic-"
"""Begin of the names of the directories under TMPDIR."""


def log_of_topic(
    broker: str, topic: str, config: KafkaConfig, lines: Lines, given: dict[str, Any], progress: Progress
) -> tuple[Log, Recorded]:
    """The clicks of a topic, and what is left out. The file is under TMPDIR, and is deleted at the end.

    given  the command's keyword arguments, of `log_options`
    Raises ConfigError if the topic cannot be read, has no click, or if the file cannot be written.
    """
    with scratch() as directory:
        file = directory / "topic.jsonl"
        try:
            found = write_topic(lambda: file.open("wb"), broker, topic, lines, progress, config)
        except OSError as exc:
            raise ConfigError(
                f"topic {topic}: its clicks cannot be written to {directory} ({exc}); set TMPDIR to a larger disk"
            ) from exc
        return take_log(progress, file, given, name=f"topic {topic}"), found


@contextmanager
def scratch() -> Iterator[Path]:
    """A new directory under TMPDIR, deleted at the end. Those of processes that were killed before are deleted, too.

    The directory of a living process is locked. It gets its name when it has the lock, so no unlocked one is in use.
    """
    _delete_left()
    made = Path(tempfile.mkdtemp())
    lock = os.open(made, os.O_RDONLY)
    with suppress(OSError):  # a file system without locks: then no process deletes the directory of another one
        fcntl.flock(lock, fcntl.LOCK_EX)
    directory = made.rename(made.with_name(f"{PREFIX}{made.name}"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _delete_left() -> None:
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):  # it is locked, or another user's
            lock = os.open(left, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left)
            finally:
                os.close(lock)
