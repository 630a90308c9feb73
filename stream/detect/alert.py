"""Defines the content of an alert beside the click: the rule that raised it, and the expected items."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class AlertRule(NamedTuple):
    """A rule that raises an alert if p_value <= threshold.

    pool       name of the calibration pool that gives the p-value
    pool_size  number of scores in the pool
    threshold  also the nominal false-alarm rate per click
    """

    pool: str
    pool_size: int
    threshold: float


class Alerts(NamedTuple):
    """The a alerts among n clicks, as columns.

    click      (a,) intp, positions of the anomalous clicks among the n clicks, ascending
    rules      (a,) the rule that raised each alert
    items      (a, E) int64, the most probable items for the state before the click, best first
    log_probs  (a, E) float32, log probabilities of these items, nats
    """

    click: npt.NDArray[np.intp]
    rules: list[AlertRule]
    items: npt.NDArray[np.int64]
    log_probs: npt.NDArray[np.float32]
