"""The tests trace a structure once, not once for each run, process and training: torch takes seconds for it.

A trace has no values of weights, so it can be kept in a file, as long as the code that makes it is the same.
tests/contracts/test_cells.py compares a network in a kept trace with a new trace, bit by bit.
"""

import fcntl
import hashlib
import inspect
import os
import platform
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from torch import nn

from export.model import trace

ROOT = Path(__file__).parents[1]
TRACERS = ("torch", "onnx", "onnx-ir", "onnxscript")
"""The packages whose versions a trace depends on."""
WEEK_S = 7 * 86_400


def trace_directory(parent: Path, sources: Iterable[Path] | None = None) -> Path:
    """The directory, in `parent`, of the traces that these sources make. It stays for the next run.

    A change of any source, also one that no trace depends on, gives another directory. Those of other sources are
    removed after a week without a new trace.

    sources  all of export/ if None
    """
    digest = hashlib.sha256(repr([platform.python_version(), *map(version, TRACERS)]).encode())
    for source in sorted((ROOT / "export").rglob("*.py") if sources is None else sources):
        digest.update(f"{source}\0".encode() + source.read_bytes() + b"\0")
    directory = parent / digest.hexdigest()
    directory.mkdir(parents=True, exist_ok=True)
    for other in parent.iterdir():
        with suppress(FileNotFoundError):  # another process of this run has removed it
            if other != directory and other.stat().st_mtime < time.time() - WEEK_S:
                shutil.rmtree(other, ignore_errors=True)
    return directory


class KeptTraces:
    """A replacement for `trace.trace`. `directory` holds the traces for all processes; see `trace_directory`."""

    def __init__(self, directory: str | Path) -> None:
        self.trace = trace.trace
        self._directory = Path(directory)

    def __call__(self, module: nn.Module, example: tuple[torch.Tensor, ...], *names: Any) -> onnx_ir.Model:
        key = trace.structure(module, example, names)
        path = self._directory / f"{hashlib.sha256((key + _code_of_tests(module)).encode()).hexdigest()}.onnx"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # all processes need the first structures at the same time
            if not path.is_file():
                build_registry_once()
                partial = path.with_suffix(f".{os.getpid()}.partial")
                onnx_ir.save(self.trace(module, example, *names), partial)
                partial.rename(path)  # last, so that a file with this name is complete, also after a kill
        return onnx_ir.load(path)


def _code_of_tests(module: nn.Module) -> str:
    """The source files of the classes that a test has defined itself."""
    classes = {type(part) for part in module.modules() if type(part).__module__.startswith("tests")}
    return "".join(sorted(Path(inspect.getfile(one)).read_text() for one in classes))


def build_registry_once() -> None:
    """Let torch keep its table of ONNX operators. It builds the table for each graph, a quarter of a trace's time."""
    with suppress(ImportError, AttributeError):  # private names of torch: without them the tests are only slower
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        if not isinstance(vars(ONNXRegistry)["from_torchlib"], staticmethod):
            ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
