"""A model's graphs as the worker runs them, and what they take."""

from pathlib import Path
from typing import Any

import onnxruntime

from export.network import mixture

BATCH_MULTIPLE = 4

SCORE_STATE = ("h", *(part.name for part in mixture.STATE))
"""The parts of the state that score.onnx reads."""


def score_state(state: tuple[Any, ...]) -> tuple[Any, ...]:
    """The SCORE_STATE parts of a whole state: the cell's first tensor and the last two."""
    return state[0], *state[-2:]


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    """The graph on one CPU thread, as the worker runs it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
