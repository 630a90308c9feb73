"""Runs ahead.onnx: the counters of a user -> probabilities of what the user does next."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from onnxruntime import InferenceSession

from stream.errors import ArtifactError
from stream.model.calls import Array, run_in_calls

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]

INPUTS, OUTPUT = ("counters", "event_type"), "probabilities"

MULTIPLE = 16
"""The rows of a call are a multiple of this. The sine of a value is computed with 16 values at once, or apart from them
with other last bits; so no tensor of the graph may have a rest."""

MOST_ROWS = 512
"""Rows per call."""


class Forecast(NamedTuple):
    """What n users do next, each as of one click.

    next        (n, T) float32, probability that the session's next event has this type, for each known one
    intent      (n,) float32, probability that the session still has an event of the intent's type
    leaves      (n,) float32, probability that no click follows in this session
    returns_7d  (n,) float32, probability that the user comes back within 7 days, if this click ends the session
    """

    next: F32
    intent: F32
    leaves: F32
    returns_7d: F32


class AheadGraph:
    """ahead.onnx of a model with so many event types."""

    def __init__(self, graph: InferenceSession, event_types: int, directory: Path) -> None:
        """Raises ArtifactError if it is not a graph for so many event types."""
        (given, out) = graph.get_inputs(), graph.get_outputs()
        names = [value.name for value in (*given, *out)]
        if names != [*INPUTS, OUTPUT] or out[0].shape[1:] != [event_types + 3]:
            raise ArtifactError(
                f"model {directory}: the inputs and outputs of ahead.onnx do not match the manifest; train it again"
            )
        self.counters = int(given[0].shape[1])
        self._graph = graph

    def __call__(self, counters: F32, event_type: I64) -> Forecast:
        """Run it on n clicks. counters: (n, C) float32 after each; event_type: (n,) in [0, T], T = unknown"""
        known = np.ascontiguousarray(counters[:, : self.counters])  # a model of an earlier Eddy has fewer
        feeds: dict[str, Array] = {"counters": known, "event_type": event_type}
        [found] = run_in_calls(self._graph, [OUTPUT], feeds, {}, MOST_ROWS, MULTIPLE)
        return Forecast(found[:, :-3], found[:, -3], found[:, -2], found[:, -1])
