"""Networks that differ only in their weights share one ONNX trace, because torch takes seconds to trace a graph.

A training writes four graphs, and most tests need only their content. `Traced` replaces torch's exporter: torch traces
the first network of a structure, and each later network puts its own weights into that trace. Eddy's own gate
(export/model/parity.py) still compares every graph with its network, so weights in a trace of a different structure
fail the test. tests/contracts/test_cells.py compares both ways bit by bit.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir
import torch
from torch import nn

Exporter = Callable[..., torch.onnx.ONNXProgram | None]


class Traced:
    """A replacement for `torch.onnx.export`.

    export     the original function
    directory  holds the traces for all processes of this run of the tests
    """

    def __init__(self, export: Exporter, directory: Path) -> None:
        self.export = export
        self._directory = directory
        self._models: dict[str, onnx_ir.Model] = {}

    def __call__(self, module: nn.Module, example: tuple[torch.Tensor, ...], **options: Any) -> torch.onnx.ONNXProgram:
        key = structure(module, example, options)
        path = self._directory / f"{hashlib.sha256(key.encode()).hexdigest()}.onnx"
        if key not in self._models and path.is_file():
            self._models[key] = onnx_ir.load(path)
        if key not in self._models:
            program = self.export(module, example, **{**options, "optimize": False})
            assert program is not None
            self._models[key] = program.model
            part = path.with_suffix(f".{os.getpid()}")
            onnx_ir.save(program.model, part)
            part.replace(path)
        program = torch.onnx.ONNXProgram(self._models[key].clone(), None)
        program.apply_weights(module.state_dict())
        program.optimize()
        return program


def structure(module: nn.Module, example: tuple[torch.Tensor, ...], options: dict[str, Any]) -> str:
    """Everything except the weights that a trace depends on: modules, their plain attributes, shapes, dtypes,
    options."""
    parts = [(name, type(part), _plain(part)) for name, part in module.named_modules()]
    weights = [(name, weight.shape, weight.dtype) for name, weight in module.state_dict().items()]
    inputs = [(one.shape, one.dtype) for one in example]
    return repr((parts, weights, inputs, sorted(options.items(), key=repr)))


def _plain(module: nn.Module) -> dict[str, object]:
    return {name: value for name, value in vars(module).items() if isinstance(value, (bool, int, float, str, tuple))}
