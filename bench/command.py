"""Runs `eddy` commands as processes, and prints the messages of a benchmark on stderr."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

from bench.report import ROOT


class Ran(NamedTuple):
    """A command that has succeeded: its output on stdout, its duration, its peak memory, and its time on processors."""

    output: str
    seconds: float
    peak_mb: int
    cpu_seconds: float


def eddy_command(*arguments: object) -> list[str]:
    """The command line that runs `eddy` with this Python."""
    return [sys.executable, "-m", "stream.ops.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    """The environment in which `eddy` is run from this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run_eddy(*arguments: object) -> Ran:
    """Run an `eddy` command as a process and wait for its end. If it fails, the benchmark ends with exit code 2."""
    began = time.monotonic()
    with subprocess.Popen(
        eddy_command(*arguments), cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)  # of this process only; getrusage has the maximum of all
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        stop(f"eddy {arguments[0]} ended with exit code {process.returncode}")
    kilobytes = usage.ru_maxrss if sys.platform == "linux" else usage.ru_maxrss // 1024
    return Ran(output, time.monotonic() - began, round(kilobytes / 1024), usage.ru_utime + usage.ru_stime)


def recovered_partitions(log: str) -> list[set[int]]:
    """The partitions that a worker has recovered, for each time it got some. log: what it has logged so far."""
    lines = (line for line in log.splitlines() if "partitions recovered" in line)
    names = (line.partition("partitions=[")[2].partition("]")[0].split(", ") for line in lines)
    return [{int(name.rpartition("-")[2]) for name in each if name} for each in names]


def say(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr)


def stop(line: str) -> NoReturn:
    """Print a line on stderr, after the name of the benchmark, and end with exit code 2."""
    say(f"{Path(sys.argv[0]).stem}: {line}")
    sys.exit(2)
