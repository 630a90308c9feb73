"""Opens the ONNX graphs of a model as the worker does, and defines which tensors of the state they read."""

from pathlib import Path
from typing import Any

import onnxruntime

from export.arrays import F32, I64
from export.network.mixture import STATE

BATCH_MULTIPLE = 4
"""Batch sizes of all graphs are multiples of this; the manifest lists it."""

CLICK = ("item", "event_type", "gap")
"""Names of the inputs of step.onnx and surprise.onnx that describe the clicks, int64."""

SCORE_STATE = ("h", *STATE)
"""Names of the state tensors that score.onnx and surprise.onnx read."""


def score_state(state: tuple[Any, ...]) -> tuple[Any, ...]:
    """The tensors of a complete state that SCORE_STATE names: the cell's first tensor and the mixture's two."""
    return state[0], *state[-2:]


class ClickGraphs:
    """step.onnx and surprise.onnx of a model directory, for one click of each user at a time."""

    def __init__(self, directory: Path) -> None:
        self._step, self._surprise = open_graph(directory / "step.onnx"), open_graph(directory / "surprise.onnx")
        self._read = [value.name for value in self._surprise.get_inputs()]

    def __call__(self, clicks: dict[str, I64], state: dict[str, Any]) -> tuple[F32, F32, list[Any]]:
        """The surprise of the item and of the event type of each click (B,), and the states after it, each (B, *shape).

        clicks  the columns of CLICK, each (B,) int64. B is a multiple of BATCH_MULTIPLE
        state   the states before the clicks, each (B, *shape)
        """
        after = self._step.run(None, {**{name: column[:, None] for name, column in clicks.items()}, **state})
        known = {**clicks, **state}
        surprise, event_surprise = self._surprise.run(None, {name: known[name] for name in self._read})
        return surprise, event_surprise, [value[:, 0] for value in after]


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    """Load a graph, to run on one CPU thread, as in the worker."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
