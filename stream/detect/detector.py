"""Defines the interface of a detector: the input is evidence on n clicks, the output is n verdicts.

The rule that must not break: the verdict on a click depends only on the evidence on this click, never on the batch.
"""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from stream.detect.alert import AlertRule
from stream.detect.pvalue import F32, F64, I64
from stream.manifest import Tensor


class Evidence(NamedTuple):
    """The input of a detector: facts about n clicks.

    surprise       (n,) float32, nats, finite: -log probability of each click, given the user's state before the click
    event_type     (n,) int64, index of the event type; T (the number of event types) = the model does not know it
    clicks_before  (n,) int64, number of earlier clicks of the same user
    """

    surprise: F32
    event_type: I64
    clicks_before: I64


class Verdicts(NamedTuple):
    """The output of a detector: its results for n clicks.

    p_value    (n,) float64 in (0, 1]; small = unusual
    pool       (n,) int64, index of the calibration pool that gave the p-value
    anomalous  (n,) bool: the click raises an alert
    """

    p_value: F64
    pool: I64
    anomalous: npt.NDArray[np.bool_]


class Detector(Protocol):
    """Finds anomalous clicks. One object serves all users. Its data about a user is stored in the user's row."""

    @property
    def row_fields(self) -> tuple[Tensor, ...]:
        """The fields that it needs in each user's row. They are zero for a new user.

        If they change, rows that were written before cannot be read.
        """

    @property
    def smallest_p_value(self) -> float:
        """The smallest possible p-value. If it is above the threshold, the detector can never raise an alert."""

    def judge(self, seen: Evidence) -> Verdicts:
        """Compute the verdicts on n clicks, in new memory."""

    def alert_rules(self, pool: I64) -> list[AlertRule]:
        """Return the alert rule for each of the pools (a,), which are indices as in Verdicts.pool."""
