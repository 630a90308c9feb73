"""Checks at the start whether the result of a row depends on the other rows of its batch.

On a CPU with prepacked weights it does not. Then a state does not depend on the traffic at the time it was computed,
and the states of a recovered worker can be compared byte by byte. A GPU chooses its kernels by shape, so its results
may differ.
"""

import numpy as np
import numpy.typing as npt

from stream.errors import ArtifactError
from stream.model.runtime import I64, Model, StateArray


def batch_invariant(model: Model, k: int, rows: int = 13) -> bool:
    """Return True if step and score give bit-equal results for `rows` random users in one batch and one by one.

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
    rng = np.random.default_rng(0)
    manifest = model.manifest
    item: I64 = rng.integers(0, manifest.items + 1, rows)
    event_type: I64 = rng.integers(0, len(manifest.event_types) + 1, rows)
    gap: I64 = rng.integers(0, len(manifest.gap_edges_ms) + 2, rows)
    state: list[StateArray] = [np.zeros((rows, *tensor.shape), tensor.dtype) for tensor in manifest.state]
    for _ in range(3):  # random tensors may be impossible states, so the model makes them
        state = model.step(rng.permutation(item), event_type, rng.permutation(gap), state)[1]
    k = min(k, manifest.items)
    names = [tensor.name for tensor in manifest.state]

    def run(a: int, b: int) -> list[bytes]:
        surprise, after = model.step(item[a:b], event_type[a:b], gap[a:b], [value[a:b] for value in state])
        items, log_probs, _ = model.score([after[names.index(name)] for name in model.score_inputs], k)
        results: list[npt.NDArray[np.generic]] = [surprise, *after, items, log_probs]
        return [b"".join(value[i].tobytes() for value in results) for i in range(b - a)]

    return run(0, rows) == [run(i, i + 1)[0] for i in range(rows)]
