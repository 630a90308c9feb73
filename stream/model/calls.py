"""Runs a graph on any number of rows, in calls of sizes with which the results of a row do not depend on the others."""

from typing import Any

import numpy as np
import numpy.typing as npt
from onnxruntime import InferenceSession

Array = npt.NDArray[Any]


def run_in_calls(
    graph: InferenceSession,
    outputs: list[str],
    feeds: dict[str, Array],
    constants: dict[str, Array],
    most: int,
    multiple: int,
) -> list[Array]:
    """Run a graph on B users, in calls of at most `most` users, filled up to a multiple of `multiple`.

    outputs    names of the results
    feeds      arrays (B, ...)
    constants  inputs that are the same in each call
    """
    count = len(next(iter(feeds.values())))
    if not count:  # one call, for the shapes of the outputs
        feeds = {name: np.zeros((multiple, *value.shape[1:]), value.dtype) for name, value in feeds.items()}
    parts: list[list[Array]] = []
    for start in range(0, max(1, count), most):
        some = min(most, count - start)
        rows = max(1, -(-some // multiple)) * multiple
        if rows == some:
            part = {name: value[start : start + some] for name, value in feeds.items()}
            parts.append(graph.run(outputs, part | constants))
        else:
            filled = [max(0, count - 1)] * (rows - some)
            index = np.array([*range(start, start + some), *filled])
            part = {name: value.take(index, 0) for name, value in feeds.items()}
            parts.append([value[:some] for value in graph.run(outputs, part | constants)])
    return parts[0] if len(parts) == 1 else [np.concatenate(part) for part in zip(*parts, strict=True)]
