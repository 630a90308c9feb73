"""Defines the content of an alert beside the click: why it was raised, and the expected items."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Why(NamedTuple):
    """What the p-value of a click is made of; the fields are as in AlertRule."""

    pool: str
    pool_size: int
    statistics: dict[str, float]
    sentence: str


class AlertRule(NamedTuple):
    """Why a click raised an alert: p_value <= threshold, and what the p-value is made of.

    pool        the held-out clicks that its statistics were compared with: those after so many clicks of a session
    pool_size   number of held-out sessions
    threshold   of the p-value
    episode     offset of the click that opened the user's episode; the click's own offset opens one
    statistics  name -> p-value of the statistics that are unusual, the strongest first, PERSISTENCE last
    sentence    what the strongest one has seen, in words
    part_of     offset of the click that opened the episode of many users that the alert is part of; None = of none
    """

    pool: str
    pool_size: int
    threshold: float
    episode: int
    statistics: dict[str, float]
    sentence: str
    part_of: int | None = None


class Verdicts(NamedTuple):
    """The p-values of n clicks, and the a clicks among them that raise an alert.

    p_value  (n,) float64 in (0, 1]; small = unusual
    alerted  (a,) intp, positions of the clicks that raise an alert, ascending
    rules    (a,) why each of them does
    """

    p_value: npt.NDArray[np.float64]
    alerted: npt.NDArray[np.intp]
    rules: list[AlertRule]


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
