"""The command line of both benchmarks of alerts: which logs, which set of episodes, which models, and the result."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.anomaly import logs as sources
from bench.anomaly.logs import Log
from bench.anomaly.ranges import SETS
from bench.command import stop
from bench.report import Figures, conclude, kept, write_report

BARS = (MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))


class Measured(NamedTuple):
    """What was measured on one log, its conditions, both as text for a person, and what does not hold of a claim."""

    figures: Figures
    conditions: Figures
    text: str
    failures: tuple[str, ...] = ()


def options(module: str, what: str | None, result: Path) -> argparse.ArgumentParser:
    """The options that both have. what: the text of --help; result: where it is written by default."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=what, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ",".join(sources.SOURCES)
    parser.add_argument("--logs", default=names, help=f"logs, separated by commas [{names}]")
    parser.add_argument("--set", choices=SETS, default="reporting", help="ranges and seeds of the episodes [reporting]")
    parser.add_argument("--train", default="", help="options of `eddy train`; the default is none")
    parser.add_argument("--json", action="store_true", help="also print the result as one JSON object")
    parser.add_argument("--out", type=Path, default=result, help="where to write the result; other logs in it stay")
    return parser


def run(module: str, given: argparse.Namespace, measure: Callable[[Log, Path, Progress], Measured]) -> int:
    """Measure each log with its model, and write the result after each. Returns the exit code.

    measure  (log, directory of its model, progress) -> what was measured
    """
    if unknown := set(given.logs.split(",")) - set(sources.SOURCES):
        stop(f"unknown log {sorted(unknown)[0]!r}; known are {','.join(sources.SOURCES)}")
    results, conditions = kept(given.out, "results"), kept(given.out, "conditions")
    report: Figures | None = None
    failures: list[str] = []
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    for name in given.logs.split(","):
        log = sources.read(name)
        if log is None:
            continue
        model = sources.trained_model(name, given.train)
        with Progress(*BARS, console=console, transient=True, disable=not console.is_terminal) as progress:
            results[name], conditions[name], text, wrong = measure(log, model, progress)
        failures += [f"{name}: {line}" for line in wrong]
        report = write_report(given.out, module, conditions, results, failures)
        print(text, flush=True)
    if report is None:
        stop("no log is there: set EDDY_DATA to the directory of the logs")
    return conclude(report, given.json)
