"""What a worker sets and checks for its whole process: the event loop, memory, and what a thread does."""

import asyncio
import ctypes
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from stream.errors import ConfigError

M_ARENA_MAX = -8  # mallopt(3)

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


def line_of(pool: ThreadPoolExecutor) -> str:
    """The line of Python that the pool's thread is at."""
    for thread in pool._threads:
        frame = sys._current_frames().get(thread.ident or 0)
        if frame is not None:
            return f"{frame.f_code.co_filename.rpartition('/stream/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
    return "no line"
