"""Computes the decisions from the results of the model steps.

Each click gets a list of recommendations for the user's new state, a p-value, and an alert if it is anomalous.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream.detect.alert import Alerts
from stream.detect.detector import Detector, Evidence, Verdicts
from stream.detect.pvalue import F64, I64
from stream.engine.columns import Columns
from stream.engine.step import Steps
from stream.lists.rules import RuledLists
from stream.lists.top import Lists, top_items
from stream.model.runtime import F32, Model, StateArray
from stream.settings import Rules, words
from stream.state.row import NO_ITEM

EXPECTED_ITEMS = 3


@dataclass(frozen=True)
class Decisions:
    """The decisions on n clicks, in their order.

    lists      the recommendations after each click
    surprise   (n,) float32, nats: -log probability of each click, given the user's state before the click
    p_value    (n,) float64 in (0, 1]; small = unusual
    pool       (n,) int64, index of the calibration pool that the detector used
    alerts     the anomalous clicks
    """

    lists: Lists
    surprise: F32
    p_value: F64
    pool: I64
    alerts: Alerts


class Decider:
    """Computes decisions with one model, one detector and the rules for the lists.

    k               recommendations per click
    exclude_recent  the items of the user's last N clicks, including the current one, are not recommended
    rules           the shop's rules for a list
    Raises ConfigError if the catalogue is not usable.
    """

    def __init__(self, model: Model, detector: Detector, k: int, exclude_recent: int, rules: Rules) -> None:
        self._model = model
        self._detector = detector
        self._k = k
        self._exclude_recent = exclude_recent
        self._holds = bool(words(rules.exclude_events))
        self._popular_if_unknown = rules.popular_if_unknown
        self._ruled = RuledLists(model, rules, k) if rules.catalogue or rules.explore else None

    @property
    def category(self) -> npt.NDArray[np.int32] | None:
        """(V,) int32, code of each item's category, NO_CATEGORY = none. None if the catalogue has no categories."""
        return self._ruled.category if self._ruled is not None else None

    def categories(self) -> Mapping[str, int]:
        """The categories of the catalogue and their codes: category -> code. Valid until the next `refresh`."""
        return self._ruled.codes if self._ruled is not None else {}

    def refresh(self) -> None:
        """Read the catalogue again if its file has changed. If the new file is bad, log it and use the old content."""
        if self._ruled is not None:
            self._ruled.refresh()

    def __call__(self, clicks: Columns, steps: Steps) -> Decisions:
        """Compute the decisions on n clicks from their n steps."""
        verdicts = self._detector.judge(Evidence(steps.surprise, clicks.event_type, steps.clicks_before))
        return Decisions(
            self._lists(clicks, steps), steps.surprise, verdicts.p_value, verdicts.pool, self._alerts(steps, verdicts)
        )

    def _lists(self, clicks: Columns, steps: Steps) -> Lists:
        """Make the list of each click under the rules."""
        state, left_out = steps.after, steps.recent[:, : self._exclude_recent]
        if self._holds:
            left_out = np.concatenate([left_out, steps.held], axis=1)
        if self._popular_if_unknown:
            state = self._as_new(state, steps.recent)
        if self._ruled is None:
            return top_items(self._model, state, left_out, self._k)
        return self._ruled(state, left_out, clicks.item, clicks.category, clicks.ids)

    def _as_new(self, state: list[StateArray], recent: npt.NDArray[np.int32]) -> list[StateArray]:
        """Return the states (n, ...), with the state of a new user where the model knows none of the recent items."""
        unknown = ((recent == NO_ITEM) | (recent == len(self._model.items))).all(1)
        new = [np.zeros_like(value[:1]) for value in state]
        return [np.where(unknown.reshape(-1, *[1] * (v.ndim - 1)), n, v) for n, v in zip(new, state, strict=True)]

    def _alerts(self, steps: Steps, verdicts: Verdicts) -> Alerts:
        """Make an alert for each anomalous click. Its expected items are those for the state before the click."""
        which = np.flatnonzero(verdicts.anomalous)
        if not len(which):  # as in nearly all small cycles
            return Alerts(which, [], np.empty((0, EXPECTED_ITEMS), np.int64), np.empty((0, EXPECTED_ITEMS), np.float32))
        none_left_out = np.empty((len(which), 0), np.int32)
        likely = top_items(self._model, [value[which] for value in steps.before], none_left_out, EXPECTED_ITEMS)
        return Alerts(which, self._detector.alert_rules(verdicts.pool[which]), likely.items, likely.log_probs)
