"""Converts the time between two clicks of a user to what the model reads, and decides where a session starts."""

import numpy as np
import numpy.typing as npt

I64 = npt.NDArray[np.int64]

SESSION_GAP_MS = 30 * 60 * 1000
"""A pause of this length starts a new session. Web analytics usually uses the same half hour."""


def starts_session(gap_ms: I64) -> npt.NDArray[np.bool_]:
    """True (n,) where a gap (n,), ms since the user's last click, starts a session: gap >= SESSION_GAP_MS."""
    return gap_ms >= SESSION_GAP_MS


def gap_bucket(gap_ms: I64, first: npt.NDArray[np.bool_], edges_ms: I64 | tuple[int, ...]) -> I64:
    """Convert gaps (n,) in ms since the user's last click to buckets (n,) int64.

    The bucket is 0 if `first` (n,) is true, else 1 + the number of edges <= gap.
    """
    bucket = 1 + np.asarray(edges_ms, np.int64).searchsorted(gap_ms, "right")
    bucket[first] = 0
    return bucket
