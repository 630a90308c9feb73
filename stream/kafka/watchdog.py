"""Ends a worker that must not go on, and notices a consumer group in trouble.

A worker that may have lost its partitions must not write, flush, commit or wait: `end` leaves at once, with an exit
code that says what to do. aiokafka keeps a fatal error of the group (such as a fenced instance id) until somebody asks
for it, and Faust never asks: `watch_group` does. Two workers with one worker id take the group from each other about
once a second, and nothing is logged: `Rebalances` counts and warns.
"""

import asyncio
import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NoReturn

from aiokafka.errors import GroupCoordinatorNotAvailableError

from stream.errors import EddyError, Fenced

EXIT_OPERATOR = 2
EXIT_WORKER = 70
"""sysexits' EX_SOFTWARE: a supervisor should start the worker again; with EXIT_OPERATOR that would not help."""

CHECK_S = 1.0
REBALANCES_PER_MINUTE = 6

log = logging.getLogger(__name__)


def end(exc: BaseException) -> NoReturn:
    """End the process now, without unwinding: nothing may be flushed or committed any more.

    A ConfigError or ArtifactError is one line and exit 2, everything else a log entry and exit 70.
    """
    if isinstance(exc, EddyError) and not isinstance(exc, Fenced):
        print(f"eddy: {exc}", file=sys.stderr)
        code = EXIT_OPERATOR
    elif isinstance(exc, Fenced):
        log.critical("worker fenced: %s", exc)
        code = EXIT_WORKER
    else:
        log.critical("worker ends: %s: %s", type(exc).__name__, exc, exc_info=exc)
        code = EXIT_WORKER
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Rebalances:
    """Counts the rebalances of the last minute and warns if the consumer group keeps rebalancing."""

    def __init__(self) -> None:
        self._at_s: deque[float] = deque()

    def note(self, now_s: float) -> bool:
        """Count one rebalance at `now_s` (monotonic seconds); True if there are too many."""
        self._at_s.append(now_s)
        while self._at_s[0] < now_s - 60:
            self._at_s.popleft()
        return len(self._at_s) > REBALANCES_PER_MINUTE

    def warn(self, worker_id: str) -> None:
        log.warning(
            "the consumer group keeps rebalancing: rebalances_last_minute=%d worker_id=%s; "
            "check whether another worker has this worker id, and whether workers restart in a loop",
            len(self._at_s),
            worker_id,
        )


class Repeats(logging.Filter):
    """Passes each message of a logger once in `every_s`: aiokafka logs a lost broker 100 times a second."""

    def __init__(self, library: str, every_s: float = 10.0) -> None:
        super().__init__()
        self._library = library
        self._every_s = every_s
        self._last: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(self._library):
            return True
        if record.created - self._last.get(record.msg, -math.inf) < self._every_s:
            return False
        self._last[record.msg] = record.created
        return True


NO_COORDINATOR = "Group Coordinator Request failed: %s"
"""aiokafka's words, as an error: whoever answered does not know the group's coordinator."""


class NoCoordinatorYet(logging.Filter):
    """Makes NO_COORDINATOR an INFO in the first `grace_s` of a process; after them it is the error it says.

    A cluster creates the topic of the groups' offsets for its first group and has no coordinator until that is done.
    For the logger of aiokafka.consumer.group_coordinator.
    """

    def __init__(self, grace_s: float = 30.0) -> None:
        super().__init__()
        self._until = time.time() + grace_s

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == NO_COORDINATOR and record.created < self._until:
            reason = record.args[0] if isinstance(record.args, tuple) and record.args else None
            if isinstance(reason, GroupCoordinatorNotAvailableError):
                record.levelno, record.levelname = logging.INFO, "INFO"
                record.msg, record.args = "the group has no coordinator yet, asked again: %s", (reason,)
        return True


async def watch_group(check: Callable[[], Awaitable[None]]) -> NoReturn:
    """Ask for parked group errors once a second; one that comes ends the process.

    check  raises what the group membership has parked (transport.check_group)
    """
    while True:
        await asyncio.sleep(CHECK_S)
        try:
            await check()
        except Exception as exc:  # any parked error means this member gets no more work and does not know it
            end(exc)
