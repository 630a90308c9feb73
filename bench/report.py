"""Writes the result of a benchmark: a JSON file with command, date, versions, machine, conditions and results."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
DATA_DIRECTORY = Path(os.environ.get("EDDY_DATA", ROOT.parent / "shared" / "data"))
"""Directory of the real logs, which are not part of the project. A benchmark without its log prints that, or simulates
one."""

Figures = dict[str, Any]

PACKAGES = ("eddy-stream", "faust-streaming", "aiokafka", "confluent-kafka", "numpy", "polars", "torch")


def write_report(
    path: Path,
    module: str,
    conditions: dict[str, Any],
    results: dict[str, Any],
    failures: list[str],
    **more_versions: str,
) -> dict[str, Any]:
    """Write the report of `python -m module` and return it.

    results        they are in the report twice: under `results` and as keys of the report itself
    failures       one line for each part of the benchmark's claim that does not hold
    more_versions  versions of software other than Python packages
    """
    found = {name: v for name in (*PACKAGES, runtime_package()) if (v := installed(name))}
    report = {
        "command": " ".join(["python -m", module, *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **more_versions, **found},
        "machine": machine(),
        "conditions": conditions,
        "results": results,
        **results,
        "failures": failures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    return report


def commit(checkout: Path) -> str:
    """The commit of a checkout, with "-dirty" if files have changed since."""
    command = ["git", "-C", checkout, "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def installed(package: str) -> str | None:
    """Version of a package; None if it is not there: a benchmark of the model alone runs without Kafka's clients."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def runtime_package() -> str:
    """The package of ONNX Runtime that is installed: of the extra cpu or of the extra cuda."""
    return next(name for name in ("onnxruntime", "onnxruntime-gpu") if installed(name))


def kept(path: Path, key: str) -> dict[str, Any]:
    """The value of a key in the result file of an earlier run; {} without a file."""
    if not path.is_file():
        return {}
    earlier: dict[str, Any] = json.loads(path.read_text()).get(key, {})
    return earlier


def conclude(report: dict[str, Any], as_json: bool) -> int:
    """Print the failures of a report, and the report itself if `as_json`. Returns the benchmark's exit code."""
    for line in report["failures"]:
        print(f"FAILED: {line}")
    if as_json:
        print(json.dumps(report))
    return 1 if report["failures"] else 0


def machine() -> dict[str, Any]:
    """CPU, cores, operating system and load of this machine."""
    cpu = platform.processor() or platform.machine()
    path = Path("/proc/cpuinfo")
    if path.is_file():
        names = [line.split(":", 1)[1].strip() for line in path.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {"cpu": cpu, "cores": os.cpu_count(), "system": platform.platform(), "load": os.getloadavg()[0]}
