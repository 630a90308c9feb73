"""Runs `eddy worker` processes as a supervisor does: it starts a worker again if its exit code says so.

0    the worker was asked to stop (SIGTERM); otherwise the run fails
70   start it again
-9   only after a kill of the harness
-15  after SIGTERM, while Python still starts
any other code means that a person must act: the run fails
"""

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.chaos.traffic import LONGEST_MESSAGE
from bench.command import eddy_command, environment
from bench.report import ROOT
from stream.settings import Topics

SESSION_S, HANG_S, K = 6.0, 10.0, 5

STOP_S = 45.0
RECOVERED = "partitions recovered"


class RunFailed(Exception):
    """The run cannot go on; the text is the reason."""


ASSERTION = "rd_kafka_enq_once_del_source_return"
"""librdkafka 2.16 can abort a process that loses its connection while it asks about a group, as a worker does once at
its start (librdkafka #5397). A supervisor starts it again."""


class Worker:
    """The process of one worker id. `log` is the file of the present process; each process has its own."""

    def __init__(self, number: int, command: list[str], logs: Path) -> None:
        self.number = number
        self._command, self._logs, self._starts = command, logs, 0
        self.start()

    def start(self) -> None:
        self.asked = self.killed = False
        self.start_at: float | None = None
        self.started_s = time.monotonic()
        self.log = self._logs / f"worker-{self.number}-{self._starts:03}.log"
        self._starts += 1
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self._command, cwd=ROOT, env=environment(), stdout=log, stderr=log)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def says(self, text: str) -> bool:
        return text in self.log.read_text(errors="replace")

    def kill(self) -> None:
        self.killed = True
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Ask it to stop, with SIGTERM."""
        self.asked = True
        self.process.terminate()


class Supervisor:
    """The workers of one group. `tend` must be called often: it starts workers again and judges exit codes.

    exits  how a worker ended -> how often
    why    for each worker that ended by itself: when, its log, how long it ran, and the last line that says why
    due    (monotonic time, action) for `tend` to do later
    """

    def __init__(self, broker: str, model: Path, group: str, topics: Topics, triggers: Path, logs: Path) -> None:
        named = [
            ("--" + name.replace("_", "-") + "-topic", topic) for name, topic in msgspec.structs.asdict(topics).items()
        ]
        self._command = eddy_command(
            *("worker", "--model", model, "--broker", broker, "--group", group, "--device", "cpu", "--k", K),
            *("--session-timeout-s", SESSION_S, "--hang-s", HANG_S, "--max-message-bytes", LONGEST_MESSAGE),
            *("--triggers", triggers),
            *(word for pair in named for word in pair),
        )
        self._logs = logs
        logs.mkdir()
        self.workers: list[Worker] = []
        self.exits: Counter[str] = Counter()
        self.why: list[str] = []
        self.due: list[tuple[float, Callable[[], None]]] = []

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Do something in so many seconds, within `tend`."""
        self.due.append((time.monotonic() + seconds, action))

    def add(self) -> Worker:
        """Start one more worker under the lowest free id."""
        taken = {worker.number for worker in self.workers}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        worker = Worker(number, [*self._command, "--worker-id", str(number)], self._logs)
        self.workers.append(worker)
        return worker

    def tend(self) -> None:
        """Do what is due, judge the workers that have ended, and start them again. Raises RunFailed."""
        now = time.monotonic()
        for entry in [entry for entry in self.due if entry[0] <= now]:
            self.due.remove(entry)
            entry[1]()
        for worker in self.workers:
            if worker.start_at is not None:
                if now >= worker.start_at:
                    worker.start()
            elif worker.ended and not worker.asked:
                if not worker.killed:
                    self.judge(worker)
                worker.start()

    def tend_until(self, true: Callable[[], bool], what: str, limit_s: float) -> None:
        """Tend the workers until something is true. Raises RunFailed after `limit_s` seconds."""
        end = time.monotonic() + limit_s
        while not true():
            if time.monotonic() > end:
                raise RunFailed(f"not within {limit_s:.0f} s: {what}; last lines of the logs:\n{self._tails()}")
            self.tend()
            time.sleep(0.02)

    def tend_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.tend_until(lambda: time.monotonic() >= end, "time goes by", seconds + 60)

    def kill(self, worker: Worker, away_s: float) -> None:
        """kill -9; the worker starts again `away_s` seconds later."""
        worker.kill()
        worker.start_at = time.monotonic() + away_s

    def stop(self, worker: Worker) -> None:
        """SIGTERM, and wait for the end; a worker that is away must come back first. The others are tended meanwhile.

        Raises RunFailed if it does not end well.
        """
        self.tend_until(lambda: not worker.ended, f"worker {worker.number} runs", STOP_S)
        worker.stop()
        self.tend_until(lambda: worker.ended, f"worker {worker.number} ends after SIGTERM", STOP_S)
        self.judge(worker)

    def remove(self, worker: Worker) -> None:
        """Stop a worker for good."""
        self.stop(worker)
        self.workers.remove(worker)

    def judge(self, worker: Worker) -> None:
        """Count an exit code. Raises RunFailed if it is not one with which a supervisor goes on."""
        code = worker.process.returncode
        self.exits[f"{'after SIGTERM' if worker.asked else 'by itself'}: {code}"] += 1
        log = worker.log.read_text(errors="replace")
        if not worker.asked:
            ran_s = time.monotonic() - worker.started_s
            self.why.append(f"{clock()} {worker.log.name} after {ran_s:.1f} s: {last_reason(log)}")
        fine = {0} if worker.asked else {70}
        if not log:  # Python has not yet come to the worker: nothing had begun
            fine.add(-signal.SIGTERM)
        if code == -signal.SIGABRT and ASSERTION in log:
            return
        if code not in fine:
            raise RunFailed(f"worker {worker.number} ended with exit code {code}:\n{log[-3000:]}")

    def end_all(self) -> None:
        """Kill what still runs."""
        for worker in self.workers:
            worker.kill()

    def _tails(self) -> str:
        tails = [f"{worker.log.name}:\n{worker.log.read_text(errors='replace')[-1500:]}" for worker in self.workers]
        return "\n".join([*tails, f"now {clock()}; workers that ended by themselves:", *self.why])


def clock(ago_s: float = 0.0) -> str:
    """The time of day in UTC, as the workers' logs have it."""
    return time.strftime("%H:%M:%S", time.gmtime(time.time() - ago_s))


def last_reason(log: str) -> str:
    """The last line of a worker's log that says why it ended, or its last line."""
    lines = log.splitlines() or ["(an empty log)"]
    return next((line for line in reversed(lines) if " CRITICAL " in line), lines[-1])
