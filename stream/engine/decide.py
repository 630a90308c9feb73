"""Computes the decisions from the results of the model steps.

Each click gets a p-value, and an alert if it is anomalous. Each click, or only the last one of each user in the batch,
gets a list of recommendations for the user's new state.
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
from stream.engine.superseded import SUPERSEDED
from stream.engine.waves import Index
from stream.lists.rules import RuledLists
from stream.lists.top import Lists, top_items
from stream.model.runtime import F32, Model, StateArray
from stream.settings import Rules, words
from stream.state.row import NO_ITEM

EXPECTED_ITEMS = 3

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Decisions:
    """The decisions on n clicks, in their order.

    lists          the recommendations after each click; empty where the click is superseded
    superseded_by  (n,) intp, position among the n of the user's later click that has the list; -1 = this click has one
    surprise       (n,) float32, nats: -log probability of each click, given the user's state before the click
    p_value        (n,) float64 in (0, 1]; small = unusual
    pool           (n,) int64, index of the calibration pool that the detector used
    alerts         the anomalous clicks
    """

    lists: Lists
    superseded_by: Index
    surprise: F32
    p_value: F64
    pool: I64
    alerts: Alerts


@dataclass(frozen=True)
class Ranked:
    """The most likely items after each of n clicks, before all rules, to be used again by the user's next click.

    known             (n,) bool: the row is of the state after the click; else it is of a new user's state
    items, log_probs  (n, depth) int64 and float32, best first. depth >= EXPECTED_ITEMS, or the whole catalogue
    """

    known: Bools
    items: I64
    log_probs: F32


class Decider:
    """Computes decisions with one model, one detector and the rules for the lists.

    k               recommendations per click
    exclude_recent  the items of the user's last N clicks, including the current one, are not recommended
    rules           the shop's rules for a list
    lists           which clicks get a list: "every", or "last" = the last one of each user in a batch
    Raises ConfigError if the catalogue is not usable.
    """

    def __init__(self, model: Model, detector: Detector, k: int, exclude_recent: int, rules: Rules, lists: str) -> None:
        self._model = model
        self._detector = detector
        self._k = k
        self._exclude_recent = exclude_recent
        self._holds = bool(words(rules.exclude_events))
        self._popular_if_unknown = rules.popular_if_unknown
        self._ruled = RuledLists(model, rules, k) if rules.catalogue or rules.explore else None
        self._superseded_by = SUPERSEDED[lists]

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
        superseded_by = self._superseded_by(clicks)
        listed = np.flatnonzero(superseded_by < 0)
        if len(listed) == len(clicks):
            lists, ranked = self._lists(clicks, steps)
        else:
            some, _ = self._lists(clicks.take(listed), steps.take(listed))
            lists, ranked = some.spread(listed, len(clicks)), None  # a user's last click is nobody's previous one
        alerts = self._alerts(steps, verdicts, ranked)
        return Decisions(lists, superseded_by, steps.surprise, verdicts.p_value, verdicts.pool, alerts)

    def _lists(self, clicks: Columns, steps: Steps) -> tuple[Lists, Ranked | None]:
        """Make the list of each click, and return the rankings too; None with a catalogue or exploration, which rank
        to other depths."""
        state, left_out = steps.after, steps.recent[:, : self._exclude_recent]
        if self._holds:
            left_out = np.concatenate([left_out, steps.held], axis=1)
        as_new = np.zeros(len(clicks), np.bool_)
        if self._popular_if_unknown:
            as_new = self._knows_none(steps.recent)
            state = _as_new(state, as_new)
        if self._ruled is not None:
            return self._ruled(state, left_out, clicks.item, clicks.category, clicks.ids), None
        items, log_probs = self._ranking(state, max(self._k + left_out.shape[1], EXPECTED_ITEMS))
        return top_items(items, log_probs, left_out, self._k), Ranked(~as_new, items, log_probs)

    def _ranking(self, state: list[StateArray], depth: int) -> tuple[I64, F32]:
        return self._model.score(state, min(depth, len(self._model.items)))[:2]

    def _knows_none(self, recent: npt.NDArray[np.int32]) -> Bools:
        """True (n,) where the model knows none of the recent items (n, R)."""
        unknown: Bools = ((recent == NO_ITEM) | (recent == len(self._model.items))).all(1)
        return unknown

    def _alerts(self, steps: Steps, verdicts: Verdicts, ranked: Ranked | None) -> Alerts:
        """Make an alert for each anomalous click. Its expected items are those for the state before the click.

        If `ranked` has the user's previous click, that state has been ranked already.
        """
        which = np.flatnonzero(verdicts.anomalous)
        width = min(EXPECTED_ITEMS, len(self._model.items))
        items, log_probs = np.empty((len(which), width), np.int64), np.empty((len(which), width), np.float32)
        if not len(which):  # as in nearly all small cycles
            return Alerts(which, [], items, log_probs)
        again = np.zeros(len(which), np.bool_)
        if ranked is not None:
            previous = steps.previous[which]
            again = (previous >= 0) & ranked.known[previous]
            items[again] = ranked.items[previous[again], :width]
            log_probs[again] = ranked.log_probs[previous[again], :width]
        state = [value[which[~again]] for value in steps.before]
        items[~again], log_probs[~again] = self._ranking(state, width)
        return Alerts(which, self._detector.alert_rules(verdicts.pool[which]), items, log_probs)


def _as_new(state: list[StateArray], which: Bools) -> list[StateArray]:
    """Return the states, each (n, ...), with the state of a new user where `which` (n,) is true."""
    return [np.where(which.reshape(-1, *[1] * (v.ndim - 1)), np.zeros_like(v[:1]), v) for v in state]
