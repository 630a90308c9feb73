"""Whoever waits for a training or an evaluation -> what is told of it, and a bar in the terminal."""

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """Who is told how a training or an evaluation goes."""

    def begin(self, label: str, clicks: int) -> None:
        """A round over `clicks` clicks starts, or a method on them."""

    def seen(self, clicks: int) -> None:
        """So many more of them are done."""

    def say(self, line: str) -> None:
        """A fact worth a line."""


class NullProgress:
    """Tells nobody."""

    def begin(self, label: str, clicks: int) -> None:
        pass

    def seen(self, clicks: int) -> None:
        pass

    def say(self, line: str) -> None:
        pass


class Bar:
    """A progress bar on stderr with clicks/s and the time left; lines go above it."""

    def __init__(self) -> None:
        # What is printed holds names and values of the log: brackets and colons in them are theirs, not rich's.
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} clicks"),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "Bar":
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def begin(self, label: str, clicks: int) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(label, total=clicks, pace="")

    def seen(self, clicks: int) -> None:
        assert self._task is not None
        self._bar.advance(self._task, clicks)
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, pace=f"{speed:,.0f} clicks/s" if speed else "")

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
