"""Traces a module to an ONNX graph whose weights can be replaced.

torch takes seconds to trace a graph, and a training writes each graph twice, the second time with other weights. The
parity check (parity.py) compares every written graph with its network, so weights in a trace of a different structure
write no model.
"""

import logging
import warnings
from inspect import Parameter, signature
from operator import itemgetter
from typing import Any

import onnx_ir as ir
import torch
from onnx import TensorProto
from onnx.defs import OpSchema
from onnx.helper import make_tensor
from onnxscript import opset20 as standard
from onnxscript.values import Op, Opset
from torch import Tensor, nn

from export.ranking.byte_product import ZERO

OPSET = 20
_T = OpSchema.FormalParameter
PRODUCT = Op(
    Opset("com.microsoft", 1),
    "MatMulIntegerToFloat",
    OpSchema(
        "MatMulIntegerToFloat",
        "com.microsoft",
        1,
        inputs=[
            _T("A", "tensor(uint8)"),
            _T("B", "tensor(int8)"),
            _T("a_scale", "tensor(float)"),
            _T("b_scale", "tensor(float)"),
            _T("a_zero_point", "tensor(uint8)", param_option=OpSchema.FormalParameterOption.Optional),
            _T("b_zero_point", "tensor(int8)", param_option=OpSchema.FormalParameterOption.Optional),
            _T("bias", "tensor(float)", param_option=OpSchema.FormalParameterOption.Optional),
        ],
        outputs=[_T("Y", "tensor(float)")],
    ),
)
"""An operator of ONNX Runtime, which onnx does not know."""


def _byte_product(output: Any, codes: Any, scale: Any, bias: Any) -> Any:
    one = standard.Constant(value=make_tensor("one", TensorProto.FLOAT, [], [1.0]))
    zero = standard.Constant(value=make_tensor("zero", TensorProto.UINT8, [], [ZERO]))
    return PRODUCT(output, codes, one, scale, zero, None, bias)


def _rows(table: Any, indices: Any) -> Any:
    (index,) = indices
    return standard.Gather(table, index, axis=0)


def _quotient(dividend: Any, divisor: Any, rounding_mode: str) -> Any:
    assert rounding_mode == "trunc"  # as ONNX divides integers; floats are not divided so
    return standard.Div(dividend, divisor)


TRANSLATIONS: dict[Any, Any] = {
    torch.ops.eddy.byte_product.default: _byte_product,
    torch.ops.aten.index.Tensor: _rows,
    torch.ops.aten.div.Tensor_mode: _quotient,
}
"""Operators of torch that the export cannot translate itself, or into more nodes: a node costs about a microsecond."""


class Traces:
    """The graphs traced so far, by the structure of their module."""

    def __init__(self) -> None:
        self._graphs: dict[str, ir.Model] = {}

    def graph(self, module: nn.Module, example: tuple[Tensor, ...], inputs: list[str], outputs: list[str]) -> ir.Model:
        """The graph of a module with its present weights, not copied. A variable batch size B is their first axis.

        example          inputs of the module; a module with the input `k` takes it as a number, not by user
        inputs, outputs  their names in the graph
        """
        key = structure(module, example, (inputs, outputs))
        if key not in self._graphs:
            self._graphs[key] = trace(module, example, inputs, outputs)
        model, weights = self._graphs[key].clone(), module.state_dict()
        for value in list(model.graph.inputs):
            if (weight := weights.get(value.name or "")) is not None:
                model.graph.inputs.remove(value)
                value.const_value = ir.tensor(weight.numpy(), name=value.name)
                model.graph.register_initializer(value)
        return model


def trace(module: nn.Module, example: tuple[Tensor, ...], inputs: list[str], outputs: list[str]) -> ir.Model:
    """Trace a module. Its weights are inputs of the graph, so that none is a constant that is computed with."""
    batch = torch.export.Dim("B", min=1)
    dims: tuple[Any, ...] = tuple(None if name == "k" else {0: batch} for name in inputs)
    named = [one for one in signature(module.forward).parameters.values() if one.kind is not Parameter.VAR_POSITIONAL]
    if len(named) < len(signature(module.forward).parameters):  # torch wants those of *arguments as one
        dims = (*dims[: len(named)], dims[len(named) :])
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about every optional package that is missing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that repeated names of the axis "will not be used"
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=dims,
            external_data=False,
            custom_translation_table=TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
    assert program is not None  # it is None only without dynamo
    graph = program.model.graph
    for name in [name for name in module.state_dict() if name in graph.initializers]:
        value = graph.initializers.pop(name)
        value.const_value = None
        graph.inputs.append(value)
    program.optimize()
    return program.model


def structure(module: nn.Module, example: tuple[Tensor, ...], names: tuple[Any, ...]) -> str:
    """All that a trace depends on except the weights: modules, their plain attributes, shapes, dtypes, names.

    The order of modules and weights does not matter: a network that was read from a file has another one.
    """
    parts = {name: (type(part), _plain(part)) for name, part in module.named_modules()}
    weights = {name: (weight.shape, weight.dtype) for name, weight in module.state_dict().items()}
    of_example = [(one.shape, one.dtype) for one in example]
    return repr((sorted(parts.items(), key=itemgetter(0)), sorted(weights.items()), of_example, names))


def _plain(module: nn.Module) -> dict[str, object]:
    return {name: value for name, value in vars(module).items() if isinstance(value, (bool, int, float, str, tuple))}
