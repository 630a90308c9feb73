"""Ctrl-C while a training is turned into a model: held back, so that hours of training are not lost for seconds."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any


class Interrupts:
    """Within this context SIGINT is held back with one line, but for the parts in `allowed`."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._allowed = False
        self.came = False  # one that was held back
        self._before: Any = None

    def __enter__(self) -> "Interrupts":
        before = signal.getsignal(signal.SIGINT)
        # Only the main thread may set a handler; what is ignored (nohup) stays ignored.
        if threading.current_thread() is threading.main_thread() and callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._come)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """A part that Ctrl-C may end, once: a second one is held back."""
        self._allowed = True
        try:
            yield
        finally:
            self._allowed = False

    def _come(self, number: int, frame: FrameType | None) -> None:
        if self._allowed:
            self._allowed = False
            raise KeyboardInterrupt
        if not self.came:
            self.came = True
            with suppress(RuntimeError):  # it may have come in the midst of another line
                self._say("finishing: a few seconds")
