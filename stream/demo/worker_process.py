"""`eddy worker` as a process of the demo: started, watched and ended."""

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from stream.errors import EddyError

HOURS = "behaviour"
"""The topic of what users do by the hour. Simulated hours are over within seconds, so the page soon has some."""

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that a process gets when its parent ends."""


def _with_parent() -> Callable[[], object] | None:
    """What a new process calls so that it ends with its parent, also after kill -9. Linux only.

    Else the worker would wait for ever for the broker, which is in the parent.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _free_port() -> int:
    """A port that is free now. If another program takes it before the worker does, the worker ends with a reason."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class WorkerProcess:
    """A context manager that runs `eddy worker` as a process.

    The process has its own process group, so that the terminal sends Ctrl-C only to the demo.

    page  address of the page that the worker serves
    """

    def __init__(self, broker: str, model: Path, device: str, directory: Path, k: int, rules: str = "") -> None:
        """rules: the text of --triggers; "" = no such file"""
        port = _free_port()
        self.page = f"http://127.0.0.1:{port}/"
        self._log = directory / "worker.log"
        options = {"--model": model, "--broker": broker, "--device": device, "--k": k, "--worker-id": "demo"}
        options |= {"--group": "demo", "--data-dir": directory, "--behaviour-topic": HOURS}
        options |= {"--http-port": port, "--http-advertise": f"127.0.0.1:{port}"}
        if rules:
            (directory / "triggers.toml").write_text(rules)
            options["--triggers"] = directory / "triggers.toml"
        words = [str(word) for option in options.items() for word in option]
        self._command = [sys.executable, "-m", "stream.ops.cli", "worker", "--http-answers", *words]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "WorkerProcess":
        environ = {name: value for name, value in os.environ.items() if not name.startswith("EDDY_")}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                start_new_session=True,
                preexec_fn=_with_parent(),
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def check(self) -> None:
        """Raise EddyError with the last line of the worker's log if the worker has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise EddyError(f"the worker ended with exit code {self._process.returncode}: {self.last_line}")

    @property
    def provider(self) -> str:
        """The execution provider that the worker has logged; "" until it has."""
        found = re.search(r"\bprovider=(\S+)", self._log.read_text(errors="replace"))
        return found[1] if found else ""

    @property
    def last_line(self) -> str:
        """The last line of the worker's log."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("eddy: ") if lines else "its log is empty"
