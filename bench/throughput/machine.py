"""CPU time of a process with its descendants and of the whole machine, and memory of a process, from Linux's /proc."""

import os
import re
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
IDLE = (3, 4)
"""Positions of idle and iowait among the times of /proc/stat."""

GUEST = 8
"""From here on the times of /proc/stat are parts of earlier ones."""


def tree_cpu_s(root: int) -> float:
    """User and system time of the process `root` and of all its living descendants, seconds."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in PROC.glob("[0-9]*/stat"):
        try:
            found = parse_stat(path.read_text())
        except (FileNotFoundError, ProcessLookupError):  # it has ended since the listing
            continue
        parents[found[0]], ticks[found[0]] = found[1], found[2]
    return sum(ticks[process] for process in descendants(parents, root)) / TICKS_PER_S


class Memory(NamedTuple):
    """Memory of a process that is in RAM, MB: `anon` is its own, `file` has the pages of mapped files."""

    anon: float
    file: float


def memory(process: int) -> Memory:
    """The memory of one process."""
    return parse_status((PROC / str(process) / "status").read_text())


def parse_status(text: str) -> Memory:
    """The memory from /proc/PID/status."""
    kilobytes = {name: int(value.split()[0]) for name, value in re.findall(r"^(Rss\w+):(.*)$", text, re.MULTILINE)}
    return Memory(kilobytes["RssAnon"] / 1024, (kilobytes["RssFile"] + kilobytes["RssShmem"]) / 1024)


def parse_stat(text: str) -> tuple[int, int, int]:
    """Process id, parent's id, and ticks of user and system time from /proc/PID/stat."""
    head, _, rest = text.rpartition(")")  # the name in parentheses may hold spaces and parentheses
    fields = rest.split()
    return int(head.split()[0]), int(fields[1]), int(fields[11]) + int(fields[12])


def descendants(parents: dict[int, int], root: int) -> set[int]:
    """`root` and all processes below it. parents: process -> its parent."""
    found = {root} & parents.keys()
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def machine_cpu_s() -> float:
    """Time in which the machine's cores were not idle since its start, seconds. It has what a hypervisor took away."""
    return busy_ticks((PROC / "stat").read_text()) / TICKS_PER_S


def busy_ticks(text: str) -> int:
    """Ticks in which the cores were not idle, from /proc/stat."""
    times = [int(field) for field in text.splitlines()[0].split()[1:]][:GUEST]
    return sum(times) - sum(times[position] for position in IDLE)
