"""Runs the model on runs of waves: reads the users' staged rows, runs step.onnx, and writes the new states back."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stream.detect.windows import LATE, NO_GAP
from stream.engine.columns import Columns
from stream.engine.waves import NO_CLICK, Bools, Index, Run, runs
from stream.model.gaps import gap_bucket
from stream.model.runtime import F32, I64, Model, StateArray
from stream.state.event_ids import NO_ID, Hashes, insert, may_repeat
from stream.state.evict import Forgetting, reset_rows
from stream.state.row import Rows, hold_items


class Steps(NamedTuple):
    """The results of n model steps. The changed rows are not part of it; they are in the caller's array.

    surprise       (n,) float32, nats: -log probability of each click, given the user's state before the click
    event_surprise (n,) float32, nats: -log probability of its event type
    clicks_before  (n,) int64, number of earlier clicks of the user
    gap_ms         (n,) int64, time since the user's click before, at least 0; NO_GAP for a user's first click, LATE
                   for a late one
    recent         (n, R) int32, the user's last items, newest first, including the item of this click; -1 = none
    held           (n, R) int32, the items that a rule excludes from the user's lists; -1 = none
    before, after  the inputs of score.onnx before and after the click, each (n, *shape)
    previous       (n,) the user's last click before this one among the n, where its `after` is this click's `before`;
                   else -1
    """

    surprise: F32
    event_surprise: F32
    clicks_before: I64
    gap_ms: I64
    recent: npt.NDArray[np.int32]
    held: npt.NDArray[np.int32]
    before: list[StateArray]
    after: list[StateArray]
    previous: Index

    def take(self, which: Index) -> "Steps":
        """Select the steps at the positions `which`."""
        moved = np.full(len(self.surprise) + 1, -1, np.intp)  # the last entry is for a previous of -1
        moved[which] = np.arange(len(which))
        return Steps(
            self.surprise[which],
            self.event_surprise[which],
            self.clicks_before[which],
            self.gap_ms[which],
            self.recent[which],
            self.held[which],
            [value[which] for value in self.before],
            [value[which] for value in self.after],
            moved[self.previous[which]],
        )


def run_waves(
    model: Model,
    rows: Rows,
    order: list[Index],
    clicks: Columns,
    forgetting: Forgetting,
    now_ms: I64,
    event_ids: Hashes | None = None,
) -> tuple[Steps, Bools, Bools]:
    """Run the model on all n clicks, run by run, and update the staged `rows` and `event_ids` in place.

    rows       (m,) the rows of the clicks' m owners
    order      the waves: arrays of click positions. A wave has each user at most once
    now_ms     (n,) int64, time of each click's partition, ms. A user who is forgotten by this time starts with a new
               row and without event ids
    event_ids  (m, LAST_IDS) the hashes of the owners' last event ids; None if no owner and no click has any
    returns    the steps, undefined for the clicks of the other two; `failed` (n,), the model's result is not finite;
               and `repeated` (n,), the event id is one of the user's last ones. Of the rows of a failed or repeated
               click only offset and time change
    """
    repeats = None
    if event_ids is not None and clicks.event_id is not None:
        repeats = may_repeat(event_ids, clicks.owner, clicks.event_id)
    batch = _Batch(model, rows, clicks, forgetting, now_ms, event_ids, repeats)
    for waves in runs(order, _alone(order, clicks, forgetting, now_ms, repeats)):
        batch.run(waves)
    return batch.steps(in_order=len(order) == 1), batch.failed, batch.repeated


def _alone(
    order: list[Index], clicks: Columns, forgetting: Forgetting, now_ms: I64, repeats: Bools | None
) -> Bools | None:
    """As in `runs`: the clicks that may be a repeat, or before which their user may be forgotten within the batch.

    In a run of several waves every click is applied to the user's state after the click before it.
    """
    if len(order) < 2 or not forgetting.possible_within(int(now_ms.max() - clicks.time_ms.min())):
        return repeats
    alone = np.zeros(len(clicks), np.bool_) if repeats is None else repeats.copy()
    last_ms = np.zeros(len(clicks.owners), np.int64)
    for wave in order:
        user = clicks.owner[wave]
        alone[wave] |= forgetting.forgotten(np.ones(len(wave), np.uint32), last_ms[user], now_ms[wave])
        last_ms[user] = np.maximum(last_ms[user], clicks.time_ms[wave])
    return alone


class _Batch:
    """The clicks of a batch and the rows of their users, while the runs change them.

    repeats           (n,) bool, as `may_repeat` returns it; None if no click has an event id
    failed, repeated  (n,) bool, as `run_waves` returns them
    """

    def __init__(
        self,
        model: Model,
        rows: Rows,
        clicks: Columns,
        forgetting: Forgetting,
        now_ms: I64,
        event_ids: Hashes | None,
        repeats: Bools | None,
    ) -> None:
        self._parts: list[tuple[Index, Steps]] = []  # positions of clicks, and their steps
        self.failed, self.repeated = np.zeros(len(clicks), np.bool_), np.zeros(len(clicks), np.bool_)
        self._model, self._rows, self._clicks = model, rows, clicks
        self._forgetting, self._now_ms = forgetting, now_ms
        self._event_ids, self._repeats = event_ids, repeats
        self._latest = NO_CLICK.repeat(len(rows))  # each owner's last click so far
        self._read = {*model.surprise_inputs, *model.score_inputs}

    def steps(self, in_order: bool) -> Steps:
        """The steps of all clicks, in the order of the batch. in_order: the parts are in this order."""
        if in_order and len(self._parts) == 1 and len(self._parts[0][0]) == len(self._clicks):
            return self._parts[0][1]
        steps = _empty(self._model, self._rows, len(self._clicks))
        for which, part in self._parts:
            steps.surprise[which], steps.event_surprise[which] = part.surprise, part.event_surprise
            steps.clicks_before[which], steps.gap_ms[which] = part.clicks_before, part.gap_ms
            steps.recent[which], steps.held[which], steps.previous[which] = part.recent, part.held, part.previous
            for whole, value in zip((*steps.before, *steps.after), (*part.before, *part.after), strict=True):
                whole[which] = value
        return steps

    def run(self, waves: list[Index]) -> None:
        """Run the model on the waves of a run, in one call of step.onnx, and write the results.

        If a result is not finite, the waves are run one by one: the user's later clicks then continue with the state
        before it.
        """
        self._forget(waves[0])
        if self._repeats is not None and self._repeats[waves[0]].any():
            waves = [self._without_repeats(waves[0])]
        if not len(waves[0]):
            return
        run = Run(waves, self._clicks.owner)
        found = self._stepped(run)
        finite = _finite(found.surprise, [found.event_surprise, *found.after.values()])
        if len(waves) == 1 or np.count_nonzero(finite) == len(finite):
            self._write(run, found, finite)
            return
        for wave in waves:
            self.run([wave])

    def _forget(self, wave: Index) -> None:
        """Give new rows to the users who are forgotten by now."""
        if not self._forgetting.after_ms:
            return
        rows, user = self._rows, self._clicks.owner[wave]
        gone = self._forgetting.forgotten(rows["clicks"][user], rows["last_ms"][user], self._now_ms[wave])
        if np.count_nonzero(gone):
            reset_rows(rows, self._event_ids, user[gone])

    def _without_repeats(self, wave: Index) -> Index:
        """Set the clicks of a wave aside whose event id is one of the user's last ones. Returns the others."""
        clicks, rows = self._clicks, self._rows
        assert clicks.event_id is not None
        assert self._event_ids is not None
        hashes = clicks.event_id[wave]
        known: Bools = (self._event_ids[clicks.owner[wave]] == hashes[:, None]).any(1) & (hashes != NO_ID)
        repeats = wave[known]
        user = clicks.owner[repeats]
        rows["last_ms"][user] = np.maximum(clicks.time_ms[repeats], rows["last_ms"][user])
        rows["source_offset"][user] = clicks.offset[repeats]
        self.repeated[repeats] = True
        return wave[~known]

    def _stepped(self, run: Run) -> "_Stepped":
        """Run the model on the clicks of a run. Changes nothing."""
        clicks, rows, model = self._clicks, self._rows, self._model
        item, time_ms = run.cells(clicks.item), run.cells(clicks.time_ms)
        seen = rows["clicks"][run.users][:, None] + np.arange(len(run.waves))
        last_ms = np.maximum.accumulate(np.concatenate([rows["last_ms"][run.users][:, None], time_ms], axis=1), axis=1)
        gap_ms = time_ms - last_ms[:, :-1]
        late, gap_ms = gap_ms < 0, np.maximum(gap_ms, 0)
        event_type, gap = run.cells(clicks.event_type), gap_bucket(gap_ms, seen == 0, model.gap_edges_ms)
        gap_ms[late] = LATE
        gap_ms[seen == 0] = NO_GAP
        first = {name: rows[name][run.users] for name in model.state_names}
        states = model.step(item, event_type, gap, list(first.values()))
        after = {name: run.clicks(value) for name, value in zip(model.state_names, states, strict=True)}
        before = {name: run.before(first[name], after[name]) for name in self._read}
        read = [before[name] for name in model.surprise_inputs]
        surprises = model.surprise(run.clicks(item), run.clicks(event_type), run.clicks(gap), read)
        return _Stepped(before, after, *surprises, run.clicks(seen), run.clicks(gap_ms), run.clicks(last_ms[:, 1:]))

    def _write(self, run: Run, found: "_Stepped", finite: Bools) -> None:
        """Write the results of a run to the rows and the steps. Where they are not `finite`, only offset and time."""
        clicks, rows, which, user = self._clicks, self._rows, run.which, run.owner
        # Where an array of indices has a user several times, numpy writes the last value.
        rows["last_ms"][user] = found.newest_ms
        rows["source_offset"][user] = clicks.offset[which]
        previous = run.before(self._latest[run.users], which)
        recent = run.latest(rows["recent"][run.users], clicks.item)
        every = np.count_nonzero(finite) == len(finite)
        if not every:
            self.failed[which] = ~finite
            which, user, previous, recent = which[finite], user[finite], previous[finite], recent[finite]
            found = found.take(finite)

        for name, value in found.after.items():
            rows[name][user] = value
        rows["clicks"][user] = found.clicks_before + 1
        rows["recent"][user] = recent
        self._latest[user] = which
        held = self._held(run)
        previous[found.clicks_before == 0] = -1  # a forgotten user has begun again
        before, after = ([state[name] for name in self._model.score_inputs] for state in (found.before, found.after))
        held = held if every else held[finite]
        columns = found.surprise, found.event_surprise, found.clicks_before, found.gap_ms
        self._parts.append((which, Steps(*columns, recent, held, before, after, previous)))
        if self._event_ids is not None and clicks.event_id is not None:
            ids = np.where(self.failed, NO_ID, clicks.event_id)  # a failed click may be sent again
            insert(self._event_ids, run.users, run.cells(ids)[:, ::-1])

    def _held(self, run: Run) -> npt.NDArray[np.int32]:
        """Apply a run to the items that a rule excludes from its users' lists. Returns them after each click (r, R)."""
        held, hold = self._rows["held"], self._clicks.hold
        if not np.count_nonzero(hold[run.which]):
            return held[run.owner]
        found = []
        for wave in run.waves:
            user, item = self._clicks.owner[wave], self._clicks.item[wave]
            none = (item == len(self._model.items)) | self.failed[wave]
            hold_items(self._rows, user, item, np.where(none, 0, hold[wave]))
            found.append(held[user])
        return np.concatenate(found)


class _Stepped(NamedTuple):
    """The results of the model on n clicks.

    before, after  the state tensors before and after each click, by name, each (n, *shape); of those before it only
                   the ones that a graph reads
    surprise, event_surprise, clicks_before, gap_ms  as in Steps
    newest_ms      (n,) int64, the newest time of the user's clicks up to this one
    """

    before: dict[str, StateArray]
    after: dict[str, StateArray]
    surprise: F32
    event_surprise: F32
    clicks_before: I64
    gap_ms: I64
    newest_ms: I64

    def take(self, which: Bools) -> "_Stepped":
        """Select the clicks where `which` (n,) is true."""
        before, after = ({name: v[which] for name, v in state.items()} for state in (self.before, self.after))
        nats = self.surprise[which], self.event_surprise[which]
        return _Stepped(before, after, *nats, self.clicks_before[which], self.gap_ms[which], self.newest_ms[which])


def _empty(model: Model, rows: Rows, count: int) -> Steps:
    """Steps without results."""
    read = [rows.dtype[name].subdtype or (rows.dtype[name], ()) for name in model.score_inputs]
    return Steps(
        surprise=np.empty(count, np.float32),
        event_surprise=np.empty(count, np.float32),
        clicks_before=np.empty(count, np.int64),
        gap_ms=np.empty(count, np.int64),
        recent=np.empty((count, *rows.dtype["recent"].shape), np.int32),
        held=np.empty((count, *rows.dtype["held"].shape), np.int32),
        before=[np.empty((count, *shape), kind) for kind, shape in read],
        after=[np.empty((count, *shape), kind) for kind, shape in read],
        previous=np.full(count, -1, np.intp),
    )


def _finite(surprise: F32, after: Iterable[StateArray]) -> npt.NDArray[np.bool_]:
    """True (n,) where the surprise and all numbers of the state are finite."""
    finite = np.isfinite(surprise)
    for value in after:
        if value.dtype.kind == "f" and np.count_nonzero(of_value := np.isfinite(value)) < value.size:
            finite &= of_value.reshape(len(value), -1).all(1)
    return finite
