"""What an alert says beside the click itself: the rule that raised it, and what was expected instead."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class AlertRule(NamedTuple):
    """An alert is raised when p_value <= threshold.

    pool, pool_size  which calibration pool judges, and how many scores it holds
    threshold        also the promised false-alarm rate per click
    """

    pool: str
    pool_size: int
    threshold: float


@dataclass(frozen=True)
class Alerts:
    """The alerts among n judged clicks, as columns.

    click             (a,) positions among the n clicks, ascending
    rules             (a,) which rule raised each
    items, log_probs  (a, E) the likeliest items before the click, best first, int64 and float32
    """

    click: npt.NDArray[np.intp]
    rules: list[AlertRule]
    items: npt.NDArray[np.int64]
    log_probs: npt.NDArray[np.float32]
