"""What a worker sets and checks for its process: the event loop, how memory is taken from the system, its one thread
for the engine."""

import asyncio
import atexit
import ctypes
import gc
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from stream.errors import ConfigError

T = TypeVar("T")

log = logging.getLogger(__name__)

M_ARENA_MAX = -8  # mallopt(3)

SLOW_S, HANGS_S = 20.0, 300.0
"""The log says that one call in the engine thread takes so long, and the worker ends. A cycle takes less than a second,
but a GPU may compile its kernels for minutes at the first one."""

SWITCH_S, COLLECT_AFTER = 0.0005, 50_000

SLOW = (
    "no click is decided, the engine works on one batch: busy_s=%.0f at=%s; the model is too slow for "
    "--max-cycle-clicks, or it hangs: then the worker ends after %.0f s"
)

ADDRESS_SPACE = 2 << 30
"""Bytes of address space below which a worker refuses to start. Where librdkafka cannot start its threads it waits
without end or aborts the process; seen with 0.3 to 1.3 GiB."""


def use_uvloop() -> None:
    """Let asyncio make event loops of uvloop, which is faster; Windows has none."""
    if sys.platform != "win32":
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def limit_arenas() -> None:
    """Let glibc's malloc have two arenas, unless the user has set their number.

    By default it makes one for each thread that is busy at the same time. What a backlog took from an arena stays
    there, and the next one takes it from others, so a worker's memory grew with each of its first backlogs.
    """
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(AttributeError):  # another libc
            ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def tune_interpreter() -> None:
    """Set how Python's threads take turns, and how often its collector looks for cycles.

    The engine leaves Python for each graph, and needs it again after some ms: with the default, 5 ms, it then waits for
    the thread that makes the records as long as the graph took. And a batch makes some ten thousand objects that live
    until it is committed: with the default the collector looks at them again and again.
    """
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])


def check_address_space() -> None:
    """Raise ConfigError if a worker could not start its threads."""
    if sys.platform == "win32":  # it has no such limit
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESS_SPACE:
        raise ConfigError(
            f"the address space of this process is limited to {limit >> 20} MiB, and a worker needs "
            f"{ADDRESS_SPACE >> 20} MiB or more: raise the limit (ulimit -v), or limit the memory of its container"
        )


def end_process(code: int) -> NoReturn:
    """End a worker with an exit code, without the end of Python's interpreter.

    What was registered for the end is still called. A thread may wait in librdkafka for a broker that does not answer,
    and a Kafka client may be removed meanwhile. If Python takes its modules down under them, the process sometimes ends
    with SIGSEGV (-11) instead of its exit code; seen twice in some hundred stops, and confluent-kafka-python #1761 has
    such a case.
    """
    atexit._run_exitfuncs()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class OneThread:
    """A thread that runs one call at a time, and notices one that takes long.

    pool   the thread
    clock  s; it may stand still for a while
    """

    def __init__(self, name: str, clock: Callable[[], float]) -> None:
        self.pool = ThreadPoolExecutor(1, name)
        self._clock = clock
        self._calls = 0
        self._since_s: float | None = None
        self._reported_s = 0.0

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Run a call and wait for it, in the event loop. Calls run in the order in which they came."""
        if not self._calls:
            self._since_s = self._clock()
        self._calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, call, *arguments)
        finally:
            self._calls -= 1
            self._since_s = self._clock() if self._calls else None

    def busy_s(self) -> float:
        """How long the call runs already; 0 if there is none."""
        since_s = self._since_s
        return 0.0 if since_s is None else self._clock() - since_s

    def check(self) -> None:
        """Log a warning if the call runs for SLOW_S, and again as often. Raises TimeoutError after HANGS_S."""
        now_s, busy_s = self._clock(), self.busy_s()
        if busy_s > HANGS_S:
            raise TimeoutError(f"the engine has worked on one batch for {busy_s:.0f} s; it is at {self.line()}")
        if busy_s > SLOW_S and now_s - self._reported_s > SLOW_S:
            self._reported_s = now_s
            log.warning(SLOW, busy_s, self.line(), HANGS_S)

    def line(self) -> str:
        """The line of Python that the thread is at."""
        for thread in self.pool._threads:
            frame = sys._current_frames().get(thread.ident or 0)
            if frame is not None:
                return f"{frame.f_code.co_filename.rpartition('/stream/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        return "no line"
