"""Detects anomalous clicks by their surprise: a click is anomalous if the p-value of its surprise is at most alpha."""

from pathlib import Path

import numpy as np

from stream.detect.alert import AlertRule
from stream.detect.detector import Evidence, Verdicts
from stream.detect.pvalue import I64, Calibration, history_of
from stream.manifest import Manifest, Tensor


class SurpriseDetector:
    """A Detector that uses only the surprise of a click.

    alpha  threshold of the p-value, and the nominal false-alarm rate per click
    """

    row_fields: tuple[Tensor, ...] = ()

    def __init__(self, calibration: Calibration, event_types: tuple[str, ...], alpha: float) -> None:
        self.calibration = calibration
        self.alpha = alpha
        self._table = calibration.table(event_types, alpha)

    @classmethod
    def load(cls, directory: Path, manifest: Manifest, alpha: float) -> "SurpriseDetector":
        return cls(Calibration.load(directory, manifest), manifest.event_types, alpha)

    @property
    def smallest_p_value(self) -> float:
        """The smallest p-value of the largest pool in use."""
        return 1 / (1 + max(len(self.calibration.scores[i]) for i in np.unique(self._table)))

    def judge(self, seen: Evidence) -> Verdicts:
        pool = self._table[seen.event_type, history_of(seen.clicks_before)]
        p_value = self.calibration.p_values(seen.surprise, pool)
        return Verdicts(p_value, pool, p_value <= self.alpha)

    def alert_rules(self, pool: I64) -> list[AlertRule]:
        names, scores = self.calibration.names, self.calibration.scores
        return [AlertRule(names[i], len(scores[i]), self.alpha) for i in pool.tolist()]
