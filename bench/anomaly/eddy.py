"""Eddy's score of the clicks of a log: the p-value of the serving engine.

The p-value by the calibration depends only on clicks of the same user. What the live stream corrects in it depends on
all clicks of the partition, but needs no model. So of a world only the users with an episode pass through the engine
again.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.anomaly.clicks import I32, I64, Clicks, Flags
from bench.anomaly.contenders import F64, Contender, rules
from bench.anomaly.logs import Log
from export.evaluate.columns import LOG
from export.evaluate.evaluate import CYCLE
from stream.detect.detector import Detector, Evidence, Fields, Judged
from stream.detect.windows import LATE, NO_GAP
from stream.engine.columns import Columns
from stream.engine.engine import Cycle, Engine
from stream.lists.rules import NO_CATEGORY
from stream.model.runtime import load_model
from stream.past.clicks import Names
from stream.population.rates import PASSED, Rates, correct
from stream.sessions.unusual import mixed
from stream.state.row import Rows, row_dtype
from stream.worker.served import open_engine

ALPHA = 0.5
"""The threshold of the alerts, which are not used here."""


class Recorder:
    """A Detector that is another one, and keeps the p-values by the calibration.

    nats  (n,) -log of those of the last n clicks
    """

    def __init__(self, detector: Detector) -> None:
        self._detector, self.row_fields, self.held_out = detector, detector.row_fields, detector.held_out
        self.nats: F64 = np.empty(0)

    def judge(self, seen: Evidence, before: Fields, rows: Rows) -> Judged:
        judged = self._detector.judge(seen, before, rows)
        self.nats = judged.nats
        return judged


class EddyPValue(Contender):
    """-log of the p-value of each click by the calibration; the final score is -log10 of the corrected one."""

    def __init__(self, model: Path, log: Log) -> None:
        self._directory, self._model = model, load_model(model, "cpu")
        engine = open_engine(self._model, model, 1, 0, ALPHA)
        self._items, self._event_types = engine.encoder.items(log.items), engine.encoder.event_types(log.event_types)
        new_form = engine.encoder.new_forms(log.items, self._items)
        self._new_form = np.zeros(len(log.items), np.bool_) if new_form is None else new_form
        self._held_out = engine.judge.detector.held_out

    def score(self, clicks: Clicks) -> F64:
        engine, nats = self._engine(ALPHA), np.empty(len(clicks))
        engine.judge.detector = recorder = Recorder(engine.judge.detector)
        for part, cycle in self._through(engine, clicks):
            nats[part[cycle.decided]] = recorder.nats
        return nats

    def final(self, clicks: Clicks, score: F64) -> F64:
        owner, before, gap_ms = histories(clicks)
        n, users = len(clicks), int(owner.max(initial=-1)) + 1
        rows = np.ones(users, row_dtype((), 0, (PASSED,)))
        none, zeros = np.zeros(n, np.float32), np.zeros(n, np.int64)
        recent = np.empty((n, 0), np.int32)
        seen = Evidence(
            owner, none, none, zeros, before, gap_ms, clicks.time_ms, np.arange(n), recent, zeros > 0,
            zeros.astype(np.uint64), zeros > 0,
        )  # fmt: skip
        passed = {PASSED.name: np.zeros(users, np.int32)}
        nats, _ = correct(seen, score, zeros, [Rates()], self._held_out, passed, rows)
        found: F64 = nats / np.log(10)
        return found

    def cycles(self, clicks: Clicks, alpha: float) -> Iterator[tuple[npt.NDArray[np.intp], Cycle]]:
        """Pass clicks to a new engine. Yields the positions of the clicks of each cycle, and the cycle."""
        return self._through(self._engine(alpha), clicks)

    def _engine(self, alpha: float) -> Engine:
        return open_engine(self._model, self._directory, 1, 0, alpha, lists="last")

    def _through(self, engine: Engine, clicks: Clicks) -> Iterator[tuple[npt.NDArray[np.intp], Cycle]]:
        columns = self._columns(clicks)
        for start in range(0, len(clicks), CYCLE):
            part = np.arange(start, min(start + CYCLE, len(clicks)))
            cycle = engine.process(columns.take(part), now_ms=int(clicks.time_ms[part[-1]]))
            engine.commit(cycle)
            yield part, cycle

    def _columns(self, clicks: Clicks) -> Columns:
        """The engine's columns of the clicks. Names that the log does not have are unknown to the model."""
        users, owner = np.unique(clicks.user, return_inverse=True)
        n = len(clicks)
        return Columns(
            owners=[(LOG, str(user).encode()) for user in users.tolist()],
            owner=owner.astype(np.intp),
            offset=np.arange(n),
            time_ms=clicks.time_ms,
            item=_with_unknown(self._items, len(self._model.items), clicks.item),
            event_type=_with_unknown(self._event_types, len(self._model.manifest.event_types), clicks.event_type),
            hold=np.zeros(n, np.int8),
            category=np.full(n, NO_CATEGORY, np.int32),
            names=Names(mixed(clicks.item), clicks.event_type.astype(np.uint16)),
            new_form=_new_form(self._new_form, clicks.item),
        )


def histories(clicks: Clicks) -> tuple[I64, I64, I64]:
    """The user of each of n clicks, the number of the user's earlier clicks, and the gap, as in Evidence, each (n,)."""
    users, owner = np.unique(clicks.user, return_inverse=True)
    order = np.argsort(owner, kind="stable")
    its = owner[order]
    time_ms = clicks.time_ms[order] - clicks.time_ms.min(initial=0)
    newest = np.maximum.accumulate(its * (int(time_ms.max(initial=0)) + 1) + time_ms)  # of the same user
    newest -= its * (int(time_ms.max(initial=0)) + 1)
    before, gap_ms = np.empty_like(order), np.empty_like(order)
    before[order] = np.arange(len(its)) - np.searchsorted(its, np.arange(len(users)))[its]
    gap_ms[order] = time_ms - np.append(0, newest[:-1])
    gap_ms[gap_ms < 0] = LATE
    gap_ms[before == 0] = NO_GAP
    return owner, before, gap_ms


def _with_unknown(table: I64, unknown: int, index: I32) -> I64:
    """table[index], and `unknown` where the index is after the end of the table."""
    return np.append(table, unknown)[np.minimum(index, len(table))]


def _new_form(table: Flags, index: I32) -> Flags:
    """table[index]. After the end of the table: False, and True from twice its length on."""
    return np.append(table, False)[np.minimum(index, len(table))] | (index >= 2 * len(table))


def contenders(log: Log, model: Path) -> dict[str, Contender]:
    """All contenders by name."""
    return {"eddy p-value": EddyPValue(model, log), **rules(log)}
