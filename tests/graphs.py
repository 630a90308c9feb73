"""The tests of one run trace a structure once, not once for each process and training: torch takes seconds for it.

A trace has no values of weights, so it can be kept in a file. tests/contracts/test_cells.py compares a network in a
kept trace with a new trace, bit by bit.
"""

import fcntl
import hashlib
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from torch import nn

from export.model import trace


class KeptTraces:
    """A replacement for `trace.trace`. `directory` holds the traces for all processes of this run of the tests."""

    def __init__(self, directory: str | Path) -> None:
        self.trace = trace.trace
        self._directory = Path(directory)

    def __call__(self, module: nn.Module, example: tuple[torch.Tensor, ...], *names: Any) -> onnx_ir.Model:
        key = trace.structure(module, example, names)
        path = self._directory / f"{hashlib.sha256(key.encode()).hexdigest()}.onnx"
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # all processes need the first structures at the same time
            if not path.is_file():
                build_registry_once()
                onnx_ir.save(self.trace(module, example, *names), path)
        return onnx_ir.load(path)


def build_registry_once() -> None:
    """Let torch keep its table of ONNX operators. It builds the table for each graph, a quarter of a trace's time."""
    with suppress(ImportError, AttributeError):  # private names of torch: without them the tests are only slower
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        if not isinstance(vars(ONNXRegistry)["from_torchlib"], staticmethod):
            ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))
