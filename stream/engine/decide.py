"""Steps -> decisions: a list for every user's new state, a verdict on every click, and what an alert must say."""

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

    lists      what each user is recommended now
    surprise   (n,) float32, nats, of each click under the state before it
    p_value    (n,) float64 in (0, 1]; small = unusual
    pool       (n,) int64, which of the detector's pools judged the click
    alerts     the clicks that were too unlikely
    """

    lists: Lists
    surprise: F32
    p_value: F64
    pool: I64
    alerts: Alerts


class Decider:
    """Decides on steps, by one model, one detector and the rules for the lists.

    k               recommendations per click
    exclude_recent  leave out the items of the user's last N clicks, this one among them
    rules           what else a list must keep. Raises ConfigError on a catalogue that cannot be used
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
        """(V,) the number of each item's category, NO_CATEGORY = none; None where no catalogue names one."""
        return self._ruled.category if self._ruled is not None else None

    def categories(self) -> Mapping[str, int]:
        """The catalogue's categories -> their numbers, until the next `refresh`."""
        return self._ruled.codes if self._ruled is not None else {}

    def refresh(self) -> None:
        """Take up a catalogue file that has changed. A broken one is logged, and what was read before stays."""
        if self._ruled is not None:
            self._ruled.refresh()

    def __call__(self, clicks: Columns, steps: Steps) -> Decisions:
        """Decide on clicks that have been stepped."""
        verdicts = self._detector.judge(Evidence(steps.surprise, clicks.event_type, steps.clicks_before))
        return Decisions(
            self._lists(clicks, steps), steps.surprise, verdicts.p_value, verdicts.pool, self._alerts(steps, verdicts)
        )

    def _lists(self, clicks: Columns, steps: Steps) -> Lists:
        """Each click's list under the rules."""
        state, left_out = steps.after, steps.recent[:, : self._exclude_recent]
        if self._holds:
            left_out = np.concatenate([left_out, steps.held], axis=1)
        if self._popular_if_unknown:
            state = self._as_new(state, steps.recent)
        if self._ruled is None:
            return top_items(self._model, state, left_out, self._k)
        return self._ruled(state, left_out, clicks.item, clicks.category, clicks.ids)

    def _as_new(self, state: list[StateArray], recent: npt.NDArray[np.int32]) -> list[StateArray]:
        """The states, but a new user's where none of the recent items is known."""
        unknown = ((recent == NO_ITEM) | (recent == len(self._model.items))).all(1)
        new = [np.zeros_like(value[:1]) for value in state]
        return [np.where(unknown.reshape(-1, *[1] * (v.ndim - 1)), n, v) for n, v in zip(new, state, strict=True)]

    def _alerts(self, steps: Steps, verdicts: Verdicts) -> Alerts:
        """An alert for each anomalous click, with what was expected of the state before it."""
        which = np.flatnonzero(verdicts.anomalous)
        none_left_out = np.empty((len(which), 0), np.int32)
        likely = top_items(self._model, [value[which] for value in steps.before], none_left_out, EXPECTED_ITEMS)
        return Alerts(which, self._detector.alert_rules(verdicts.pool[which]), likely.items, likely.log_probs)
