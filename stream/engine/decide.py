"""Computes the decisions from the results of the model steps and the verdicts of the detector.

Each click gets a p-value, and an alert if it is anomalous. Each click, or only the last one of each user in the batch,
gets a list of recommendations for the user's new state.
"""

from collections.abc import Mapping
from copy import copy
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.detect.alert import Alerts, Verdicts
from stream.detect.tail import F64, I64
from stream.engine.columns import Columns
from stream.engine.step import Steps
from stream.engine.superseded import SUPERSEDED
from stream.engine.waves import Index
from stream.lists.rules import RuledLists
from stream.lists.top import Lists, top_items
from stream.model.runtime import F32, Model, StateArray
from stream.settings import Rules, words
from stream.state.row import NO_ITEM
from stream.triggers.hourly.shares import Shelves

EXPECTED_ITEMS = 3

Bools = npt.NDArray[np.bool_]


class Decisions(NamedTuple):
    """The decisions on n clicks, in their order.

    lists          the recommendations after each click; empty where the click is superseded
    superseded_by  (n,) intp, position among the n of the user's later click that has the list; -1 = this click has one
    surprise       (n,) float32, nats: -log probability of each click, given the user's state before the click
    p_value        (n,) float64 in (0, 1]; small = unusual
    gap_ms         (n,) int64, time since the user's click before; NO_GAP for a user's first click, LATE for a late one
    alerts         the anomalous clicks
    """

    lists: Lists
    superseded_by: Index
    surprise: F32
    p_value: F64
    gap_ms: I64
    alerts: Alerts


class Decider:
    """Computes decisions with one model and the rules for the lists.

    k               recommendations per click
    exclude_recent  the items of the user's last N clicks, including the current one, are not recommended
    rules           the shop's rules for a list
    lists           which clicks get a list: "every", or "last" = the last one of each user in a batch
    Raises ConfigError if the catalogue is not usable.
    """

    def __init__(self, model: Model, k: int, exclude_recent: int, rules: Rules, lists: str) -> None:
        self._model = model
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

    @property
    def shelves(self) -> Shelves:
        """The same for rules about categories."""
        return Shelves(self.category, self.categories())

    def refresh(self) -> None:
        """Read the catalogue again if its file has changed. If the new file is bad, log it and use the old content."""
        if self._ruled is not None:
            self._ruled.refresh()

    def __call__(self, clicks: Columns, steps: Steps, verdicts: Verdicts) -> Decisions:
        """Compute the decisions on n clicks from their n steps and verdicts."""
        superseded_by = self._superseded_by(clicks)
        alerted, (listed,) = verdicts.alerted, (superseded_by < 0).nonzero()
        make = self._ranked_lists if self._ruled is None else self._ruled_lists
        lists, items, log_probs = make(clicks, steps, listed, alerted)
        alerts = Alerts(alerted, verdicts.rules, items, log_probs)
        return Decisions(lists, superseded_by, steps.surprise, verdicts.p_value, steps.gap_ms, alerts)

    def asked(self, k: int, in_category: bool) -> "Decider":
        """A decider for `again`, with another length and the catalogue of this moment. May be called in any thread.

        in_category  only items of the clicks' category. Needs a catalogue with categories
        """
        other = copy(self)
        other._k = k
        if self._ruled is not None:
            other._ruled = self._ruled.asked(k, in_category)
        return other

    def again(self, clicks: Columns, steps: Steps, left_out: npt.NDArray[np.int32]) -> Lists:
        """Make the lists after n clicks again. With the same limits they are the lists that `__call__` made.

        left_out  (n, N) int32, indices of items to leave out besides; -1 and the unknown item exclude nothing
        """
        other = copy(self)
        other._holds = True
        held = np.concatenate([steps.held if self._holds else steps.held[:, :0], left_out], axis=1)
        every, no_alerts = np.arange(len(clicks)), np.empty(0, np.intp)
        make = other._ranked_lists if other._ruled is None else other._ruled_lists
        lists, _, _ = make(clicks, steps._replace(held=held), every, no_alerts)
        return lists

    def _ranked_lists(self, clicks: Columns, steps: Steps, listed: Index, alerted: Index) -> tuple[Lists, I64, F32]:
        """Make the lists after the clicks `listed`, and rank the expected items before the clicks `alerted`.

        One ranking serves both. If it has the state after the user's previous click, this state is not ranked again.
        """
        its = steps if len(listed) == len(clicks) else steps.take(listed)
        state, left_out, as_new = self._asked(its)
        row = alerted  # of the ranking, of each alert
        if len(alerted):
            row_after = np.full(len(clicks) + 1, -1)  # each click; the last entry is for a previous click of -1
            row_after[listed] = np.where(as_new, -1, np.arange(len(listed)))
            row = row_after[steps.previous[alerted]]
        missing = row < 0
        if np.count_nonzero(missing):
            row[missing] = np.arange(len(listed), len(listed) + np.count_nonzero(missing))
            before = [value[alerted[missing]] for value in steps.before]
            state = [np.concatenate(pair) for pair in zip(state, before, strict=True)]
        items, log_probs = self._ranking(state, max(self._k + left_out.shape[1], EXPECTED_ITEMS))
        lists = top_items(items[: len(listed)], log_probs[: len(listed)], left_out, self._k)
        expected = items[row, :EXPECTED_ITEMS], log_probs[row, :EXPECTED_ITEMS]
        return lists if its is steps else lists.spread(listed, len(clicks)), *expected

    def _ruled_lists(self, clicks: Columns, steps: Steps, listed: Index, alerted: Index) -> tuple[Lists, I64, F32]:
        """As `_ranked_lists`, with a catalogue or exploration, which rank to other depths."""
        assert self._ruled is not None
        every = len(listed) == len(clicks)
        its, of = (steps, clicks) if every else (steps.take(listed), clicks.take(listed))
        state, left_out, _ = self._asked(its)
        lists = self._ruled(state, left_out, of.item, of.category, of.ids)
        expected = self._ranking([value[alerted] for value in steps.before], EXPECTED_ITEMS)
        return lists if every else lists.spread(listed, len(clicks)), *expected

    def _asked(self, steps: Steps) -> tuple[list[StateArray], npt.NDArray[np.int32], Bools]:
        """The states for the lists after the steps, the items that the lists leave out (n, N), and where the state is
        a new user's (n,)."""
        left_out = steps.recent[:, : self._exclude_recent]
        if self._holds:
            left_out = np.concatenate([left_out, steps.held], axis=1)
        if not self._popular_if_unknown:
            return steps.after, left_out, np.zeros(len(left_out), np.bool_)
        as_new = self._knows_none(steps.recent)
        return _as_new(steps.after, as_new), left_out, as_new

    def _ranking(self, state: list[StateArray], depth: int) -> tuple[I64, F32]:
        """The most likely items for n states: items and log probabilities, each (n, depth), or the whole catalogue."""
        depth = min(depth, len(self._model.items))
        if not len(state[0]):
            return np.empty((0, depth), np.int64), np.empty((0, depth), np.float32)
        return self._model.score(state, depth)

    def _knows_none(self, recent: npt.NDArray[np.int32]) -> Bools:
        """True (n,) where the model knows none of the recent items (n, R)."""
        unknown: Bools = ((recent == NO_ITEM) | (recent == len(self._model.items))).all(1)
        return unknown


def _as_new(state: list[StateArray], which: Bools) -> list[StateArray]:
    """Return the states, each (n, ...), with the state of a new user where `which` (n,) is true."""
    return [np.where(which.reshape(-1, *[1] * (v.ndim - 1)), np.zeros_like(v[:1]), v) for v in state]
