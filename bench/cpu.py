"""CPU time of ONNX graphs on one thread, measured in turn, and random inputs for them."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from export.network.mixture import STATE

ROUNDS = 5


def memory(batch: int, items: int, remembered: int, rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """Mixture memory of users who clicked random items, three of them in this session, by its names in the graphs."""
    recent = rng.integers(0, items + 1, (batch, remembered), np.int32)
    session = np.zeros_like(recent)
    session[:, :3] = 1
    return dict(zip(STATE, (recent, session), strict=True))


def running(graph: onnxruntime.InferenceSession, feed: dict[str, npt.NDArray[Any]]) -> Callable[[], object]:
    return lambda: graph.run(None, feed)


def cpu_us(runs: dict[str, Callable[[], object]], each: int, repeats: int) -> dict[str, float]:
    """Median over ROUNDS of the CPU microseconds of a run, divided by its `each` parts; the runs are interleaved."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS + 1):
        for name, run in runs.items():
            began = time.process_time()
            for _ in range(repeats):
                run()
            took[name].append((time.process_time() - began) / repeats / each * 1e6)
    return {name: float(f"{statistics.median(times[1:]):.3g}") for name, times in took.items()}  # the first warms up
