"""Makes what all processes of a run of the tests share, once: traced graphs, a broker, models."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def shared_directory(factory: pytest.TempPathFactory) -> Path:
    """A temporary directory of this run, the same for all processes of pytest-xdist."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def once(path: Path, make: Callable[[Path], object]) -> Path:
    """The path, after the first process that asks for it has made it. The others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = path.with_name(f"{path.name}.made")  # `path` alone could be half of it, if `make` has failed
        if not made.exists():
            make(path)
            made.touch()
    return path
