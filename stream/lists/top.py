"""Users' states -> the k likeliest next items of each, without those left out."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream.model.runtime import F32, I64, Model, StateArray

SCORE_ROWS = 64
"""Users scored in one call: their logits over the catalogue stay in the CPU's cache (design part 3)."""


@dataclass(frozen=True)
class Lists:
    """n lists.

    items, log_probs        (n, k), of which the first counts (n,) count
    propensities, explored  (n, k) float64 and bool, None where nothing was explored
    """

    items: I64
    log_probs: F32
    counts: I64
    propensities: npt.NDArray[np.float64] | None = None
    explored: npt.NDArray[np.bool_] | None = None


def front(model: Model, state: list[StateArray], reach: int) -> tuple[I64, F32]:
    """The `reach` likeliest next items of each user and their log-probabilities, (n, reach) best first.

    state  score.onnx's inputs, each (n, *shape)
    """
    count = len(state[0])
    parts = [model.score([value[a : a + SCORE_ROWS] for value in state], reach) for a in range(0, count, SCORE_ROWS)]
    if not parts:
        return np.empty((0, reach), np.int64), np.empty((0, reach), np.float32)
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def top_items(model: Model, state: list[StateArray], left_out: npt.NDArray[np.int32], k: int) -> Lists:
    """The k likeliest next items of each user, without those left out; fewer where the catalogue is smaller.

    state     score.onnx's inputs, each (n, *shape)
    left_out  (n, N) item indices; -1 and the unknown item match none
    """
    reach = min(k + left_out.shape[1], len(model.items))
    items, log_probs = front(model, state, reach)
    unwanted = among(items, left_out)
    keep_first = np.argsort(unwanted, axis=1, kind="stable")[:, :k]
    counts = np.minimum(k, reach - unwanted.sum(1))
    return Lists(np.take_along_axis(items, keep_first, 1), np.take_along_axis(log_probs, keep_first, 1), counts)


def among(items: I64, left_out: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """(n, R) bool: which of each user's items (n, R) are among the user's left_out (n, N).

    Column by column: in one comparison (n, R, N) it took three times as long (N = 17).
    """
    found = np.zeros(items.shape, np.bool_)
    for column in left_out.T.astype(np.int64):
        found |= items == column[:, None]
    return found
