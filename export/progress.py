"""Progress of trainings and evaluations: the interface for reporting, and a progress bar in the terminal."""

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """Receives the progress of a training or an evaluation."""

    def begin(self, label: str, clicks: int) -> None:
        """A task over `clicks` clicks starts, such as an epoch or a baseline; `label` names it."""

    def seen(self, clicks: int) -> None:
        """So many more clicks of the task are processed."""

    def say(self, line: str) -> None:
        """Print a line."""


class NullProgress:
    """Ignores all progress."""

    def begin(self, label: str, clicks: int) -> None:
        pass

    def seen(self, clicks: int) -> None:
        pass

    def say(self, line: str) -> None:
        pass


class Bar:
    """A progress bar on stderr with clicks/s, or another noun, and the remaining time; lines are printed above it.

    If stderr is not a terminal, each task prints a line when it begins.
    """

    def __init__(self, what: str = "clicks") -> None:
        """what: the noun of what is counted"""
        self._what = what
        # Lines contain names and values of the log. Rich must not interpret their brackets and colons as markup.
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {what}"),
            TextColumn("{task.fields[pace]}"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "Bar":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._console.is_terminal:  # elsewhere `stop` would print an empty line
            self._bar.stop()

    def begin(self, label: str, clicks: int) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(label, total=clicks, pace="")
        if not self._console.is_terminal:
            self.say(f"{label}: {clicks:,} {self._what}")

    def seen(self, clicks: int) -> None:
        assert self._task is not None
        self._bar.advance(self._task, clicks)
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, pace=f"{speed:,.0f} {self._what}/s" if speed else "")

    def say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)
