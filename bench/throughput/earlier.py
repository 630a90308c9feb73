"""Contenders with the files that an earlier checkout exports for a model of the same size.

The files have random weights, too, and other results than today's, so these contenders are compared with the limit
that has the same files.
"""

import os
import statistics
import subprocess
import sys
from pathlib import Path

from bench.command import stop
from bench.throughput.clicks import EVENTS, HIDDEN, ITEMS
from bench.throughput.rounds import Measured

NAMES = ("limit", "bytewax_batched", "quix_batched")
MARK = "_earlier"

WRITE = """
import sys
from pathlib import Path
try:
    from export.model.untrained import write_untrained
except ImportError:
    from export.convert import write_untrained
directory, items, hidden, *types = sys.argv[1:]
write_untrained(Path(directory), [f"i{number}" for number in range(int(items))], types, int(hidden))
"""


def write_earlier_model(checkout: Path, directory: Path) -> None:
    """Let a checkout with a .venv write a model. Exit code 2 if it cannot."""
    python, types = checkout / ".venv" / "bin" / "python", dict.fromkeys(EVENTS)
    if not python.is_file():
        stop(f"--old: {checkout} has no .venv")
    done = subprocess.run(
        [python, "-c", WRITE, directory, str(ITEMS), str(HIDDEN), *types],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=sys.stderr,
        check=False,
    )
    if done.returncode != 0:
        stop(f"--old: {checkout} could not write a model")


def ratios(rounds: list[dict[str, Measured]]) -> dict[str, dict[str, float]]:
    """Eddy's clicks per second as a multiple of each contender's with the earlier files, by rounds."""
    found = {}
    for name in (name + MARK for name in NAMES):
        each = [one["eddy"].clicks_per_s / one[name].clicks_per_s for one in rounds if name in one and "eddy" in one]
        if each:
            found[name] = {
                "times": round(statistics.median(each), 3),
                "lowest": round(min(each), 3),
                "highest": round(max(each), 3),
            }
    return found


def table(found: dict[str, dict[str, float]]) -> str:
    """The ratios, for a person."""
    lines = [f"{'Eddy to':32}{'times':>8}{'lowest':>8}{'highest':>9}"]
    lines += [f"{name:32}{of['times']:>8.2f}{of['lowest']:>8.2f}{of['highest']:>9.2f}" for name, of in found.items()]
    return "\n".join(lines)
