"""Ctrl-C while a training is turned into a model: held back, so that hours of training are not lost for seconds.

The rule: no exception is raised where the signal arrives. It would be lost in a callback of an import or of a tensor
that is freed, and Python would print a stack trace. The training looks at a flag after each batch instead.
"""

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from export.progress import Progress

Handler = Callable[[int, FrameType | None], None]

INTERRUPTED = 130
"""Exit code of a command that Ctrl-C ended."""


class Interrupts:
    """Within this context SIGINT is held back with one line, but for the parts in `allowed`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._part: _Interruptible | None = None
        self.came = False  # one that was held back
        self._before: Any = None

    def __enter__(self) -> "Interrupts":
        self._before = _handle(self._come)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def allowed(self) -> Iterator[Progress]:
        """A part that Ctrl-C may end, once: a second one is held back.

        yields  the progress to report to: its `seen` raises KeyboardInterrupt if SIGINT came
        """
        part = self._part = _Interruptible(self._progress)
        try:
            yield part
        finally:
            self._part = None
            if part.asked:  # it came after the last batch
                self._hold_back()

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self._part is not None and not self._part.ended:
            self._part.asked = True
        else:
            self._hold_back()

    def _hold_back(self) -> None:
        if not self.came:
            self.came = True
            with suppress(RuntimeError):  # it may have come in the midst of another line
                self._progress.say("finishing: a few seconds")


class _Interruptible:
    """Progress that ends what reports to it, once it is asked to."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.asked = self.ended = False

    def begin(self, label: str, clicks: int) -> None:
        self._progress.begin(label, clicks)

    def seen(self, clicks: int) -> None:
        self._progress.seen(clicks)
        if self.asked:
            self.asked, self.ended = False, True
            raise KeyboardInterrupt

    def say(self, line: str) -> None:
        self._progress.say(line)


@contextmanager
def ending_at_once(clean_up: Callable[[], None]) -> Iterator[None]:
    """Within this context the first SIGINT calls `clean_up` and ends the process with exit code INTERRUPTED.

    Later SIGINTs are ignored. It is for a command that has nothing to save: not yet, or everything is saved.
    """

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            clean_up()
        finally:
            os._exit(INTERRUPTED)  # sys.exit would raise here, and the end of the interpreter takes its time

    before = _handle(end)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # all is done: nothing is left to interrupt


def _handle(handler: Handler) -> Any:
    """Let SIGINT call this; returns what it called before, or None where it must stay as it is."""
    before = signal.getsignal(signal.SIGINT)
    # Only the main thread may set a handler; what is ignored (nohup) stays ignored.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        return None
    signal.signal(signal.SIGINT, handler)
    return before
