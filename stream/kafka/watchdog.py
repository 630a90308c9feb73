"""Ends a worker that must not continue, and warns if the consumer group has a problem.

- A worker that may have lost its partitions must not write, flush, commit or wait. `end` exits at once. The exit code
  shows whether a restart helps.
- aiokafka keeps a fatal error of the group, such as a fenced instance id, until it is asked for it. Faust never asks;
  `watch_group` does.
- Two workers with the same worker id remove each other from the group about once a second, and Kafka's clients log
  nothing. `Rebalances` counts the rebalances and logs a warning.
"""

import asyncio
import logging
import math
import os
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError

from stream.access.refusal import refused
from stream.errors import EddyError, Fenced
from stream.kafka.waiting import KafkaWatch
from stream.log_lines import last_line

EXIT_OPERATOR = 2
EXIT_WORKER = 70
"""EX_SOFTWARE of sysexits.h. A supervisor should restart the worker. With EXIT_OPERATOR a restart does not help."""

CHECK_S = 1.0
REBALANCES_PER_MINUTE = 6

UNKNOWN = "UnknownError()"
"""How aiokafka names an error of the group whose code it does not know, such as FENCED_INSTANCE_ID (82)."""

log = logging.getLogger(__name__)


def end(exc: BaseException) -> NoReturn:
    """End the process at once, without cleanup, because it must not flush or commit anything.

    A ConfigError or ArtifactError prints one line and exits with 2. So does an operation that Kafka does not allow this
    user. Any other error exits with 70; it is logged with its traceback if it can be a bug of Eddy.
    """
    exc = refused(exc) or exc
    if type(exc) is KafkaError and UNKNOWN in str(exc):
        exc = Fenced(
            "Kafka has refused this member of the group, as it does if another process joins under the same --worker-id"
        )
    if isinstance(exc, EddyError) and not isinstance(exc, Fenced):
        last_line(f"eddy: {exc}")
        code = EXIT_OPERATOR
    elif isinstance(exc, Fenced):
        log.critical("worker fenced: %s", exc)
        code = EXIT_WORKER
    elif isinstance(exc, MemoryError):
        log.critical(
            "worker ends, its memory is used up: %s; give it more memory, start more workers, or lower "
            "--max-cycle-clicks, --k or --forget-after-days",
            exc,
        )
        code = EXIT_WORKER
    else:
        log.critical("worker ends: %s: %s", type(exc).__name__, exc, exc_info=exc)
        code = EXIT_WORKER
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def set_asked_to_end(app: Any) -> None:
    """Note that a Faust app stops because of a signal. What fails after it is no reason to start the worker again."""
    app.eddy_asked_to_end = True


def asked_to_end(app: Any) -> bool:
    """True if a Faust app stops because of a signal, and not because of an error."""
    return getattr(app, "eddy_asked_to_end", False)


def end_app(app: Any, exc: BaseException) -> NoReturn:
    """End the process of a Faust app because of an error; with 0 if it was asked to end.

    Such a process has nothing to finish: an open transaction is rolled back, and its clicks are read again.
    """
    if asked_to_end(app):
        log.warning("the worker was asked to end and does not wait longer for Kafka: %s: %s", type(exc).__name__, exc)
        sys.stderr.flush()
        os._exit(0)
    end(exc)


class Rebalances:
    """Counts the rebalances of the last minute and warns if the consumer group keeps rebalancing."""

    def __init__(self) -> None:
        self._at_s: deque[float] = deque()

    def note(self, now_s: float) -> bool:
        """Count a rebalance at `now_s` (monotonic seconds). Return True if the last minute had too many."""
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
    """Logs each message of a library at most once in `every_s`: aiokafka logs a lost broker 100 times a second."""

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


class Brief(logging.Filter):
    """Suppresses what Kafka's clients log of errors that pass, and of an outage, which the watch itself logs.

    A message of aiokafka is logged if it is repeated for `after_s` while Kafka answers, or if it has a stack trace.
    """

    WAITING = ("stream.kafka.delivery", "stream.kafka.changelog", "stream.worker.cycles.recovery")

    def __init__(self, watch: KafkaWatch, after_s: float = 10.0) -> None:
        super().__init__()
        self._watch = watch
        self._after_s = after_s
        self._seen: dict[object, tuple[float, float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith("aiokafka"):
            return not (self._watch.out and record.name in self.WAITING)
        if record.exc_info or record.levelno < logging.WARNING:
            return True
        first, latest = self._seen.get(record.msg, (record.created, record.created))
        if record.created - latest > 3 * self._after_s:
            first = record.created
        self._seen[record.msg] = first, record.created
        return record.created - first >= self._after_s and not self._watch.out


NO_COORDINATOR = "Group Coordinator Request failed: %s"
"""aiokafka's error message: the broker that answered does not know the group's coordinator."""


class NoCoordinatorYet(logging.Filter):
    """Changes NO_COORDINATOR from an error to an INFO line in the first `grace_s` of a process.

    A cluster creates the topic for the offsets when its first group starts, and has no coordinator until then. Add this
    filter to the logger aiokafka.consumer.group_coordinator.
    """

    def __init__(self, grace_s: float = 30.0) -> None:
        super().__init__()
        self._until = time.time() + grace_s

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg == NO_COORDINATOR and record.created < self._until:
            reason = record.args[0] if isinstance(record.args, tuple) and record.args else None
            if isinstance(reason, GroupCoordinatorNotAvailableError):
                record.levelno, record.levelname = logging.INFO, "INFO"
                record.msg, record.args = "the group has no coordinator yet, so the worker asks again: %s", (reason,)
        return True


async def watch_group(app: Any, check: Callable[[], Awaitable[None]]) -> NoReturn:
    """Ask for a fatal error of the group once a second. An error ends the process.

    app    the Faust app
    check  raises the error that aiokafka keeps (transport.check_group)
    """
    while True:
        await asyncio.sleep(CHECK_S)
        try:
            await check()
        except Exception as exc:  # after such an error this member gets no messages and does not know it
            end_app(app, exc)
