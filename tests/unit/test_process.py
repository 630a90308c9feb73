"""How a worker's process ends."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

ENDING = """
import atexit, ctypes
from stream.process import end_process

class Client:
    def __del__(self):
        ctypes.string_at(0)  # as a library does that is taken down under its own threads

client = Client()
atexit.register(print, "the last spans are sent")
print("what was printed before")
end_process(70)
"""


def test_the_exit_code_stays_although_a_native_library_crashes_at_the_end_of_python() -> None:
    """The process ends with the worker's code, not with -11, and what was registered for the end has been called."""
    done = subprocess.run(
        [sys.executable, "-c", ENDING],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()) == (70, ["what was printed before", "the last spans are sent"])
