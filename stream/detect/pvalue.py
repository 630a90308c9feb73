"""Converts surprises to conformal p-values, by comparison with held-out clicks of the same kind.

Source: inductive conformal prediction (Vovk, Gammerman, Shafer 2005). If a click is exchangeable with the clicks of its
pool, its p-value is at most alpha with probability at most alpha. This is true for any model, good or bad.

There is a pool for each event type and history length. If a pool has fewer than 10 / alpha scores, its p-values are too
coarse for this alpha. Then a pool of more general clicks is used instead.
"""

import math
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from stream.errors import ArtifactError
from stream.manifest import Manifest

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

HISTORIES = ("first", "short", "long")
SHORT_BELOW = 5
"""A user without earlier clicks has the history `first`, with 1 to 4 earlier clicks `short`, else `long`."""

HISTORY_EDGES = np.array([1, SHORT_BELOW])

ALL = "all"
"""Name of the pool with all held-out clicks. Every model has this pool."""


def pool_name(event_type: str, history: str | None = None) -> str:
    """Return the name of the pool for an event type, or for an event type and one of HISTORIES.

    Different arguments give different names. Event types come from logs, so one can be `all` or contain "/". These are
    percent-encoded: `all` -> `%61ll`, `cart/add` -> `cart%2Fadd`. Other names are as in older models.
    """
    name = event_type.replace("%", "%25").replace("/", "%2F")
    if name == ALL:
        name = "%61ll"
    return name if history is None else f"{name}/{history}"


def history_of(clicks_before: npt.NDArray[np.integer]) -> I64:
    """Convert numbers of earlier clicks (n,) to indices (n,) int64 into HISTORIES."""
    return HISTORY_EDGES.searchsorted(clicks_before, "right")


def usable_alpha(smallest_p_value: float) -> float:
    """Return the smallest alpha that allows an alert, rounded up to one significant digit: 0.00149 -> 0.002."""
    digit = 10.0 ** math.floor(math.log10(smallest_p_value))
    return float(f"{math.ceil(smallest_p_value / digit) * digit:g}")


class Calibration:
    """The calibration pools. A pool has the surprises of held-out clicks of one kind.

    names   name of each pool: ALL, or a result of `pool_name`
    scores  for each pool: (m,) float32, nats, ascending
    """

    def __init__(self, names: tuple[str, ...], scores: list[F32]) -> None:
        self.names = names
        self.scores = scores

    @classmethod
    def load(cls, directory: Path, manifest: Manifest) -> "Calibration":
        """Read calibration.npz. Raises ArtifactError if a pool is missing, empty, unsorted or not finite."""
        try:
            with np.load(directory / "calibration.npz", allow_pickle=False) as file:
                scores = [np.asarray(file[f"pool_{i}"], np.float32) for i in range(len(manifest.calibration))]
        except (KeyError, ValueError, OSError, BadZipFile) as exc:
            raise ArtifactError(f"model {directory}: calibration.npz is unreadable ({exc}); train it again") from exc
        for name, pool in zip(manifest.calibration, scores, strict=True):
            if pool.ndim != 1 or not len(pool) or not np.isfinite(pool).all() or (np.diff(pool) < 0).any():
                raise ArtifactError(f"model {directory}: calibration pool {name} is empty or unsorted; train it again")
        if ALL not in manifest.calibration:
            raise ArtifactError(f"model {directory}: calibration.npz has no pool `{ALL}`; train it again")
        return cls(manifest.calibration, scores)

    def table(self, event_types: tuple[str, ...], alpha: float) -> I64:
        """Choose the pool for each event type and history, among the pools with at least 10 / alpha scores.

        returns  (T + 1, len(HISTORIES)) int64, index of the pool. The last row is for unknown event types
        """
        usable = {name: i for i, name in enumerate(self.names) if name == ALL or len(self.scores[i]) >= 10 / alpha}
        table = np.full((len(event_types) + 1, len(HISTORIES)), usable[ALL], np.int64)
        for i, event_type in enumerate(event_types):
            coarser = usable.get(pool_name(event_type), usable[ALL])
            for j, history in enumerate(HISTORIES):
                table[i, j] = usable.get(pool_name(event_type, history), coarser)
        return table

    def p_values(self, surprise: F32, pool: I64) -> F64:
        """Compute the conformal p-value of each surprise in its pool.

        surprise  (n,) float32, nats, finite
        pool      (n,) int64, index of the pool
        returns   (n,) float64 in (0, 1], new memory: (1 + #{scores >= surprise}) / (1 + m)
        """
        indices = set(pool.tolist())
        if len(indices) == 1:
            return _p_values(self.scores[indices.pop()], surprise)
        out = np.empty(len(surprise), np.float64)
        for index in indices:
            mine = pool == index
            out[mine] = _p_values(self.scores[index], surprise[mine])
        return out


def _p_values(scores: F32, surprise: F32) -> F64:
    """The p-values (n,) of surprises (n,) in a pool of ascending scores."""
    found: F64 = (1 + len(scores) - scores.searchsorted(surprise, "left")) / (1 + len(scores))
    return found
