"""Ctrl-C while a trained network is written as a model: ignored, so that no finished training is lost."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any


class Interrupts:
    """Context in which SIGINT is ignored and logged once; inside `allowed` it raises KeyboardInterrupt as usual."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._allowed = False
        self.came = False  # True once a SIGINT was ignored
        self._before: Any = None

    def __enter__(self) -> "Interrupts":
        before = signal.getsignal(signal.SIGINT)
        # Only the main thread may set a handler. A SIGINT that is already ignored (nohup) stays ignored.
        if threading.current_thread() is threading.main_thread() and callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._come)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """A part that Ctrl-C may end: the first SIGINT raises KeyboardInterrupt, later ones are ignored."""
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
            with suppress(RuntimeError):  # the signal may arrive while another line is being written
                self._say("finishing: a few seconds")
