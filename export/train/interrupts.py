"""Ctrl-C during a training: it ends the epochs but not the writing of the model, so no hours of training are lost.

The rule: the signal handler raises no exception. Python can run it inside an import or the destructor of a tensor,
where the exception would be lost and only a stack trace printed. It sets a flag, which the training reads after each
batch.
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
    """A context in which SIGINT only prints a line, except inside `allowed`. `received` is True after such a SIGINT."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._part: _Interruptible | None = None
        self.received = False
        self._before: Any = None

    def __enter__(self) -> "Interrupts":
        self._before = _handle(self._come)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def allowed(self) -> Iterator[Progress]:
        """A part that the first Ctrl-C ends; further ones only print a line.

        yields  a Progress for this part, whose `seen` raises KeyboardInterrupt after a SIGINT
        """
        part = self._part = _Interruptible(self._progress)
        try:
            yield part
        finally:
            self._part = None
            if part.asked:  # SIGINT came after the last batch
                self._hold_back()

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self._part is not None and not self._part.ended:
            self._part.asked = True
        else:
            self._hold_back()

    def _hold_back(self) -> None:
        if not self.received:
            self.received = True
            with suppress(RuntimeError):  # raised if SIGINT came while another line was being printed
                self._progress.say("Ctrl-C: finishing the model without further training")


class _Interruptible:
    """A Progress that raises KeyboardInterrupt from `seen`, once, after `asked` was set."""

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

    Later SIGINTs are ignored. Use it where there is nothing to save: before a training, or after the model is written.
    """

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            clean_up()
        finally:
            os._exit(INTERRUPTED)  # sys.exit would raise an exception here, and ending the interpreter takes seconds

    before = _handle(end)
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # while the interpreter ends


def _handle(handler: Handler) -> Any:
    """Install a handler of SIGINT. Returns the previous handler, or None if the handler must not be changed."""
    before = signal.getsignal(signal.SIGINT)
    # Only the main thread may set a handler. If SIGINT is ignored (nohup), it stays ignored.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        return None
    signal.signal(signal.SIGINT, handler)
    return before
