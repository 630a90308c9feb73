"""Step results -> which clicks are anomalous: the p-value of their surprise is at or below alpha."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stream.detect.pvalue import F32, F64, I64, Calibration, history_of
from stream.manifest import Manifest


@dataclass(frozen=True)
class Verdicts:
    """Of n clicks: p_value (n,) float64, pool (n,) int64, anomalous (n,) bool."""

    p_value: F64
    pool: I64
    anomalous: npt.NDArray[np.bool_]


class SurpriseDetector:
    """Judges clicks by surprise alone. `alpha` is the threshold on the p-value and the promised false-alarm rate."""

    def __init__(self, calibration: Calibration, event_types: tuple[str, ...], alpha: float) -> None:
        self.calibration = calibration
        self.alpha = alpha
        self._table = calibration.table(event_types, alpha)

    @classmethod
    def load(cls, directory: Path, manifest: Manifest, alpha: float) -> "SurpriseDetector":
        return cls(Calibration.load(directory, manifest), manifest.event_types, alpha)

    @property
    def smallest_p_value(self) -> float:
        """What the largest pool can reach; if it is above alpha no click can ever be reported."""
        return 1 / (1 + max(len(self.calibration.scores[i]) for i in np.unique(self._table)))

    def judge(self, surprise: F32, event_type: I64, clicks_before: npt.NDArray[np.integer]) -> Verdicts:
        """Verdicts on n clicks, from surprise (n,) nats, event type (n,) index and earlier clicks of the user (n,)."""
        pool = self._table[event_type, history_of(clicks_before)]
        p_value = self.calibration.p_values(surprise, pool)
        return Verdicts(p_value, pool, p_value <= self.alpha)
