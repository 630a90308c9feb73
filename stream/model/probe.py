"""Checks at the start whether the result of a click depends on the other clicks of its batch.

On a CPU with prepacked weights it does not. Then a state does not depend on the traffic at the time it was computed,
and the states of a recovered worker can be compared byte by byte. A GPU chooses its kernels by shape, so its results
may differ.
"""

import numpy as np
import numpy.typing as npt

from stream.errors import ArtifactError
from stream.model.runtime import I64, Model, StateArray

CLICKS = 4
"""Clicks of each user. Random tensors may be impossible states, so the model makes the states."""


def batch_invariant(model: Model, k: int, rows: int = 13) -> bool:
    """Return True if the graphs give bit-equal results for clicks of `rows` random users together and one by one.

    Raises ArtifactError if a graph fails on them.
    """
    try:
        return _invariant(model, k, rows)
    except Exception as exc:  # onnxruntime's exceptions have no other common base class
        reason = " ".join(str(exc).split())[:300]
        raise ArtifactError(
            f"model {model.manifest.label}: onnxruntime fails on a run ({reason}); train it again"
        ) from exc


def _invariant(model: Model, k: int, rows: int) -> bool:
    rng, manifest = np.random.default_rng(0), model.manifest
    item: I64 = rng.integers(0, manifest.items + 1, (rows, CLICKS))
    event_type: I64 = rng.integers(0, len(manifest.event_types) + 1, (rows, CLICKS))
    gap: I64 = rng.integers(0, len(manifest.gap_edges_ms) + 2, (rows, CLICKS))
    counters = np.zeros((rows, 0), np.float32)
    if model.ahead is not None:
        counters = rng.integers(1, 10_000, (rows, model.ahead.counters)).astype(np.float32)
    new: list[StateArray] = [np.zeros((rows, *tensor.shape), tensor.dtype) for tensor in manifest.state]
    names = [tensor.name for tensor in manifest.state]

    def results(a: int, b: int, before: list[StateArray], after: list[StateArray]) -> list[bytes]:
        """All results of the last clicks of the users a to b, given their states before and after these clicks."""
        read = [before[names.index(name)] for name in model.surprise_inputs]
        surprises = model.surprise(item[a:b, -1], event_type[a:b, -1], gap[a:b, -1], read)
        items, log_probs = model.score(
            [after[names.index(name)] for name in model.score_inputs], min(k, manifest.items)
        )
        parts: list[npt.NDArray[np.generic]] = [*surprises, *after, items, log_probs]
        if model.ahead is not None:
            parts += model.ahead(counters[a:b], event_type[a:b, -1])
        return [b"".join(part[i].tobytes() for part in parts) for i in range(b - a)]

    states = model.step(item, event_type, gap, new)
    together = results(0, rows, [value[:, -2] for value in states], [value[:, -1] for value in states])
    alone: list[bytes] = []
    for user in range(rows):
        mine = slice(user, user + 1)
        before, after = new, [value[mine] for value in new]
        for click in range(CLICKS):
            now = slice(click, click + 1)
            step = model.step(item[mine, now], event_type[mine, now], gap[mine, now], after)
            before, after = after, [value[:, 0] for value in step]
        alone += results(user, user + 1, before, after)
    return together == alone
