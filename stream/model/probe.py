"""Does a row's result depend on the batch it is in? Asked once at start, answered in bits.

On a CPU with prepacked weights it does not, and then a state is the same whatever the traffic was when it was
computed: that is what lets a recovered worker be compared byte by byte. A GPU picks kernels by shape and may differ.
"""

import numpy as np
import numpy.typing as npt

from stream.model.runtime import I64, Model, StateArray


def batch_invariant(model: Model, k: int, rows: int = 13) -> bool:
    """True if stepping and scoring `rows` random users together equals doing it one by one, bit for bit."""
    rng = np.random.default_rng(0)
    manifest = model.manifest
    item: I64 = rng.integers(0, manifest.items + 1, rows)
    event_type: I64 = rng.integers(0, len(manifest.event_types) + 1, rows)
    gap: I64 = rng.integers(0, len(manifest.gap_edges_ms) + 2, rows)
    state: list[StateArray] = [np.zeros((rows, *tensor.shape), tensor.dtype) for tensor in manifest.state]
    for _ in range(3):  # what a state may hold only the model knows: so some of its own
        state = model.step(rng.permutation(item), event_type, rng.permutation(gap), state)[1]
    k = min(k, manifest.items)
    names = [tensor.name for tensor in manifest.state]

    def run(a: int, b: int) -> list[bytes]:
        surprise, after = model.step(item[a:b], event_type[a:b], gap[a:b], [value[a:b] for value in state])
        items, log_probs, _ = model.score([after[names.index(name)] for name in model.score_inputs], k)
        results: list[npt.NDArray[np.generic]] = [surprise, *after, items, log_probs]
        return [b"".join(value[i].tobytes() for value in results) for i in range(b - a)]

    return run(0, rows) == [run(i, i + 1)[0] for i in range(rows)]
