"""Runs the model on waves of clicks: reads the users' staged rows, runs step.onnx, and writes the new states back."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stream.engine.columns import Columns
from stream.engine.waves import Index
from stream.model.runtime import F32, I64, Model, StateArray
from stream.state.event_ids import NO_ID, Hashes, insert
from stream.state.evict import Forgetting
from stream.state.row import NO_ITEM, Rows, new_rows

SESSION_GAP_MS = 30 * 60 * 1000
"""A pause of this length starts a new session. Web analytics usually uses the same half hour."""


@dataclass(frozen=True)
class Steps:
    """The results of n model steps. The changed rows are not part of it; they are in the caller's array.

    failed         (n,) bool: the model's result is not finite. Then only offset and time of the row change, and the
                   fields below are undefined for the click
    repeated       (n,) bool: the click's event id is one of the user's last ones; else as `failed`
    surprise       (n,) float32, nats: -log probability of each click, given the user's state before the click
    clicks_before  (n,) int64, number of earlier clicks of the user
    recent         (n, R) int32, the user's last items, newest first, including the item of this click; -1 = none
    held           (n, R) int32, the items that a rule excludes from the user's lists; -1 = none
    before, after  the inputs of score.onnx before and after the click, each (n, *shape)
    previous       (n,) the user's last click before this one among the n, where its `after` is this click's `before`;
                   else -1
    """

    failed: npt.NDArray[np.bool_]
    repeated: npt.NDArray[np.bool_]
    surprise: F32
    clicks_before: I64
    recent: npt.NDArray[np.int32]
    held: npt.NDArray[np.int32]
    before: list[StateArray]
    after: list[StateArray]
    previous: Index

    def take(self, which: Index) -> "Steps":
        """Select the steps at the positions `which`."""
        moved = np.full(len(self.failed) + 1, -1, np.intp)  # the last entry is for a previous of -1
        moved[which] = np.arange(len(which))
        return Steps(
            self.failed[which],
            self.repeated[which],
            self.surprise[which],
            self.clicks_before[which],
            self.recent[which],
            self.held[which],
            [value[which] for value in self.before],
            [value[which] for value in self.after],
            moved[self.previous[which]],
        )


def starts_session(gap_ms: I64) -> npt.NDArray[np.bool_]:
    """True (n,) where a gap (n,), ms since the user's last click, starts a session: gap >= SESSION_GAP_MS."""
    return gap_ms >= SESSION_GAP_MS


def gap_bucket(gap_ms: I64, first: npt.NDArray[np.bool_], edges_ms: tuple[int, ...]) -> I64:
    """Convert gaps (n,) in ms since the user's last click to buckets (n,) int64.

    The bucket is 0 if `first` (n,) is true, else 1 + the number of edges <= gap.
    """
    bucket = 1 + np.searchsorted(np.asarray(edges_ms, np.int64), gap_ms, "right")
    return np.where(first, 0, bucket)


def run_waves(
    model: Model,
    rows: Rows,
    order: list[Index],
    clicks: Columns,
    forgetting: Forgetting,
    now_ms: I64,
    event_ids: Hashes | None = None,
) -> Steps:
    """Run the model on all n clicks, wave by wave, and update the staged `rows` and `event_ids` in place.

    rows       (m,) the rows of the clicks' m owners
    order      the waves: arrays of click positions. A wave has each user at most once
    now_ms     (n,) int64, time of each click's partition, ms. A user who is forgotten by this time starts with a new
               row and without event ids
    event_ids  (m, LAST_IDS) the hashes of the owners' last event ids; None if no owner and no click has any
    """
    steps = _empty(model, rows, len(clicks))
    latest = np.full(len(rows), -1, np.intp)  # each owner's last click so far
    long = len(order) > 1 and forgetting.possible_within(int(now_ms.max() - clicks.time_ms.min()))
    for turn, wave in enumerate(order):
        if turn == 0 or long:  # later waves only if the batch is long enough: their users have clicked in it
            _forget(rows, event_ids, clicks.owner[wave], forgetting, now_ms[wave])
        if event_ids is not None and clicks.event_id is not None:
            wave = _without_repeats(rows, event_ids, wave, clicks, steps)
        if len(wave):
            _run_wave(model, rows, clicks.owner[wave], wave, clicks, steps, latest)
        if event_ids is not None and clicks.event_id is not None:
            done = wave[~steps.failed[wave] & (clicks.event_id[wave] != NO_ID)]  # a failed click may be sent again
            insert(event_ids, clicks.owner[done], clicks.event_id[done])
    return steps


def _without_repeats(rows: Rows, event_ids: Hashes, wave: Index, clicks: Columns, steps: Steps) -> Index:
    """Set the clicks of a wave aside whose event id is one of the user's last ones. Returns the others."""
    assert clicks.event_id is not None
    hashes = clicks.event_id[wave]
    known: npt.NDArray[np.bool_] = (event_ids[clicks.owner[wave]] == hashes[:, None]).any(1) & (hashes != NO_ID)
    repeats = wave[known]
    user = clicks.owner[repeats]
    rows["last_ms"][user] = np.maximum(clicks.time_ms[repeats], rows["last_ms"][user])
    rows["source_offset"][user] = clicks.offset[repeats]
    steps.repeated[repeats] = True
    return wave[~known]


def _forget(rows: Rows, event_ids: Hashes | None, user: Index, forgetting: Forgetting, now_ms: I64) -> None:
    """Give new rows to the users who are forgotten by now."""
    reset_rows(rows, event_ids, user[forgetting.forgotten(rows["clicks"][user], rows["last_ms"][user], now_ms)])


def reset_rows(rows: Rows, event_ids: Hashes | None, gone: Index) -> None:
    """Give new rows without event ids to the users at the positions `gone`."""
    if len(gone):
        rows[gone] = new_rows(len(gone), rows.dtype, int(rows["model"][gone[0]]))
        if event_ids is not None:
            event_ids[gone] = NO_ID


def _empty(model: Model, rows: Rows, count: int) -> Steps:
    read = [rows.dtype[name].subdtype or (rows.dtype[name], ()) for name in model.score_inputs]
    return Steps(
        failed=np.zeros(count, np.bool_),
        repeated=np.zeros(count, np.bool_),
        surprise=np.empty(count, np.float32),
        clicks_before=np.empty(count, np.int64),
        recent=np.empty((count, *rows.dtype["recent"].shape), np.int32),
        held=np.empty((count, *rows.dtype["held"].shape), np.int32),
        before=[np.empty((count, *shape), kind) for kind, shape in read],
        after=[np.empty((count, *shape), kind) for kind, shape in read],
        previous=np.full(count, -1, np.intp),
    )


def _run_wave(model: Model, rows: Rows, user: Index, wave: Index, clicks: Columns, steps: Steps, latest: Index) -> None:
    item, seen, last = clicks.item[wave], rows["clicks"][user].astype(np.int64), rows["last_ms"][user]
    gap_ms = np.maximum(clicks.time_ms[wave] - last, 0)
    names = [tensor.name for tensor in model.manifest.state]
    before = [rows[name][user] for name in names]
    gap = gap_bucket(gap_ms, seen == 0, model.manifest.gap_edges_ms)
    surprise, after = model.step(item, clicks.event_type[wave], gap, before)

    rows["last_ms"][user] = np.maximum(clicks.time_ms[wave], last)
    rows["source_offset"][user] = clicks.offset[wave]
    finite = _finite(surprise, after)
    if not finite.all():
        steps.failed[wave] = ~finite
        wave, user, item, seen = wave[finite], user[finite], item[finite], seen[finite]
        surprise, before, after = surprise[finite], [v[finite] for v in before], [v[finite] for v in after]

    for name, value in zip(names, after, strict=True):
        rows[name][user] = value
    rows["clicks"][user] = seen + 1
    recent = rows["recent"][user]
    recent[:, 1:] = recent[:, :-1].copy()
    recent[:, 0] = item
    rows["recent"][user] = recent
    _hold(rows, user, item, np.where(item == len(model.items), 0, clicks.hold[wave]))

    steps.surprise[wave] = surprise
    steps.clicks_before[wave] = seen
    steps.previous[wave] = np.where(seen == 0, -1, latest[user])  # a forgotten user has begun again
    latest[user] = wave
    steps.recent[wave] = recent
    steps.held[wave] = rows["held"][user]
    for i, name in enumerate(model.score_inputs):
        steps.before[i][wave] = before[names.index(name)]
        steps.after[i][wave] = after[names.index(name)]


def _finite(surprise: F32, after: list[StateArray]) -> npt.NDArray[np.bool_]:
    """True (n,) where the surprise and all numbers of the state are finite."""
    finite = np.isfinite(surprise)
    for value in after:
        if value.dtype.kind == "f" and not (of_value := np.isfinite(value)).all():
            finite &= of_value.reshape(len(value), -1).all(1)
    return finite


def _hold(rows: Rows, user: Index, item: I64, hold: npt.NDArray[np.int8]) -> None:
    """Insert each item at the start of `held` in its user's row (hold = 1) or remove it (-1). No item occurs twice."""
    which = np.flatnonzero(hold)
    if not len(which):
        return
    user, item, new = user[which], item[which], hold[which] > 0
    held = rows["held"][user]
    held[held == item[:, None]] = NO_ITEM
    held = np.take_along_axis(held, np.argsort(held == NO_ITEM, axis=1, kind="stable"), 1)
    held[new, 1:] = held[new, :-1]
    held[new, 0] = item[new]
    rows["held"][user] = held
