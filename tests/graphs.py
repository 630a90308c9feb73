"""Networks that differ only in their weights share one ONNX trace, because torch takes seconds to trace a graph.

A training writes four graphs, and most tests need only their content. `Traced` replaces torch's exporter: torch traces
and optimizes the first network of a structure, and each later network puts its own weights into that graph. Eddy's own
gate (export/model/parity.py) still compares every graph with its network, so weights in a trace of a different
structure fail the test. tests/contracts/test_cells.py compares both ways bit by bit.
"""

import fcntl
import hashlib
from collections.abc import Callable, Iterable
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
        if key not in self._models:
            with path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # all processes need the first structures at the same time
                self._models[key] = onnx_ir.load(path) if path.is_file() else self._trace(module, example, options)
                if not path.is_file():
                    onnx_ir.save(self._models[key], path)
        program = torch.onnx.ONNXProgram(self._models[key].clone(), None)
        program.apply_weights(module.state_dict())
        return program

    def _trace(self, module: nn.Module, example: tuple[torch.Tensor, ...], options: dict[str, Any]) -> onnx_ir.Model:
        program = self.export(module, example, **{**options, "optimize": False})
        assert program is not None
        optimize(program, module.state_dict().keys())
        return program.model


def optimize(program: torch.onnx.ONNXProgram, weights: Iterable[str]) -> None:
    """Optimize a graph for any values of its weights: as inputs they are no constants that are computed with."""
    graph = program.model.graph
    values = {name: graph.initializers.pop(name) for name in weights if name in graph.initializers}
    numbers = {name: value.const_value for name, value in values.items()}
    for value in values.values():
        value.const_value = None
    inputs = len(graph.inputs)
    graph.inputs.extend(values.values())
    program.optimize()
    del graph.inputs[inputs:]
    for name, value in values.items():
        value.const_value = numbers[name]
        graph.register_initializer(value)


def structure(module: nn.Module, example: tuple[torch.Tensor, ...], options: dict[str, Any]) -> str:
    """Everything except the weights that a trace depends on: modules, their plain attributes, shapes, dtypes,
    options."""
    parts = [(name, type(part), _plain(part)) for name, part in module.named_modules()]
    weights = [(name, weight.shape, weight.dtype) for name, weight in module.state_dict().items()]
    inputs = [(one.shape, one.dtype) for one in example]
    return repr((parts, weights, inputs, sorted(options.items(), key=repr)))


def _plain(module: nn.Module) -> dict[str, object]:
    return {name: value for name, value in vars(module).items() if isinstance(value, (bool, int, float, str, tuple))}
