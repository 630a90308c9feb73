"""Opens the ONNX graphs of a model as the worker does, and defines the inputs of score.onnx."""

from pathlib import Path
from typing import Any

import onnxruntime

from export.network.mixture import STATE

BATCH_MULTIPLE = 4
"""Batch sizes of step.onnx are multiples of this; the manifest lists it."""

SCORE_STATE = ("h", *STATE)
"""Names of the state tensors that score.onnx reads."""


def score_state(state: tuple[Any, ...]) -> tuple[Any, ...]:
    """The tensors of a complete state that SCORE_STATE names: the cell's first tensor and the mixture's two."""
    return state[0], *state[-2:]


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    """Load a graph, to run on one CPU thread, as in the worker."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
