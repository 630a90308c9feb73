"""Consumer groups of Eddy workers for bench/parity.py: two workers of which one is killed, and one worker alone."""

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench.command import eddy_command, environment, stop
from bench.readers import progress
from bench.report import ROOT
from stream.settings import Topics

EXCLUDE_RECENT = 1
KILL_AT = 0.4
"""Share of the clicks that have a decision when one worker is killed."""

DRAIN_S = 600.0
"""Maximum time of one run."""


@dataclass
class Run:
    """The workers of one consumer group on the clicks topic, with their own output topics."""

    broker: str
    model: Path
    group: str
    logs: Path

    @property
    def topics(self) -> Topics:
        written = ("recommendations", "anomalies", "dead", "states", "system", "sessions")
        return Topics("clicks", *(f"{self.group}-{word}" for word in written))

    def start(self, worker_id: int) -> subprocess.Popen[bytes]:
        topics = [("--" + name.replace("_", "-") + "-topic", topic) for name, topic in _fields(self.topics)]
        with (self.logs / f"{self.group}-{worker_id}.log").open("ab") as log:
            return subprocess.Popen(
                eddy_command(
                    *("worker", "--model", self.model, "--broker", self.broker, "--group", self.group),
                    *("--worker-id", worker_id, "--exclude-recent", EXCLUDE_RECENT, "--device", "cpu"),
                    *(part for pair in topics for part in pair),
                ),
                cwd=ROOT,
                env=environment(),
                stdout=log,
                stderr=log,
            )

    def wait(self, reached: Callable[[int, int], bool], processes: list[subprocess.Popen[bytes]]) -> float:
        """Wait until `reached(committed, all)`; return the clicks per second since the first commit that was seen.

        processes  the workers; if one has ended, or after DRAIN_S seconds, the benchmark ends with exit code 2
        """
        deadline = time.monotonic() + DRAIN_S
        first: tuple[float, int] | None = None
        with progress(self.broker, self.group, "clicks") as read_progress:
            while True:
                committed, ends = read_progress()
                now = time.monotonic()
                first = (now, committed) if first is None and committed else first
                if reached(committed, ends):
                    since, before = first or (now, committed)
                    return (committed - before) / max(now - since, 1e-9)
                ended = [process.returncode for process in processes if process.poll() is not None]
                if ended or now > deadline:
                    logs = "\n".join(path.read_text()[-3000:] for path in self.logs.glob(f"{self.group}-*.log"))
                    stop(f"workers of {self.group} are at {committed} of {ends} clicks, exit codes: {ended}\n{logs}")
                time.sleep(0.02)


def _fields(topics: Topics) -> list[tuple[str, str]]:
    return list(msgspec.structs.asdict(topics).items())


def disturbed(run: Run, publish: Callable[[], object], clicks: int) -> dict[str, Any]:
    """Two workers. One is killed with kill -9 when KILL_AT of all clicks have a decision, and restarted with its id."""
    first, second = run.start(0), run.start(1)
    try:
        publish()
        run.wait(lambda done, _: done >= KILL_AT * clicks, [first, second])
        first.send_signal(signal.SIGKILL)
        first.wait()
        with progress(run.broker, run.group, "clicks") as read_progress:
            killed_at = read_progress()[0]
        if killed_at >= clicks:
            stop("the workers had finished before one was killed; give more --clicks")
        first = run.start(0)
        run.wait(lambda done, _: done >= clicks, [first, second])
        return {"killed_at_click": killed_at}
    finally:
        _end(first, second)


def undisturbed(run: Run, clicks: int) -> dict[str, Any]:
    """One worker processes all clicks without a crash."""
    worker = run.start(0)
    try:
        return {"one_worker_clicks_per_s": round(run.wait(lambda done, _: done >= clicks, [worker]))}
    finally:
        _end(worker)


def _end(*processes: subprocess.Popen[bytes]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
