"""What a detector is: steps of users' states in, verdicts out.

The rule that must not break: a verdict on a click depends on that click's evidence alone, never on the batch it is in.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stream.detect.alert import AlertRule
from stream.detect.pvalue import F32, F64, I64
from stream.manifest import Tensor


@dataclass(frozen=True)
class Evidence:
    """What is known of n clicks.

    surprise       (n,) float32, nats, finite: of each click under the state before it
    event_type     (n,) int64 index, the last = unknown
    clicks_before  (n,) int64, earlier clicks of the same user
    """

    surprise: F32
    event_type: I64
    clicks_before: I64


@dataclass(frozen=True)
class Verdicts:
    """Of n clicks.

    p_value    (n,) float64 in (0, 1]; small = unusual
    pool       (n,) int64, which of the detector's pools judged the click
    anomalous  (n,) bool: an alert is raised
    """

    p_value: F64
    pool: I64
    anomalous: npt.NDArray[np.bool_]


class Detector(Protocol):
    """Judges clicks. One object serves all users; what it keeps of each user lies in the user's row."""

    @property
    def row_fields(self) -> tuple[Tensor, ...]:
        """The fields it keeps in each user's row; zero for a new user. Another layout makes older rows unreadable."""

    @property
    def smallest_p_value(self) -> float:
        """The smallest p-value it can give; above the threshold no click can ever be reported."""

    def judge(self, seen: Evidence) -> Verdicts:
        """Verdicts on n clicks, new memory."""

    def alert_rules(self, pool: I64) -> list[AlertRule]:
        """By which rule a click of each of these pools (a,) is reported."""
