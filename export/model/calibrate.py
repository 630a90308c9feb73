"""Calibration: held-out clicks -> what the worker's detector compares clicks with, computed by the worker's graphs.

The held-out slice is the newest part of the log and was not trained on, so the calibration includes the drift between
two trainings. Pools of surprises are defined in stream/detect/pvalue.py, the statistics in stream/detect/behaviour.py.
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from export.arrays import F32, F64, I32, I64, Flags
from export.dataset.cooccurrence import session_starts
from export.dataset.windows import Clicks
from export.log.log import Vocabulary
from export.model.graph import BATCH_MULTIPLE, CLICK, ClickGraphs
from stream.detect.behaviour import Behaviour
from stream.detect.pvalue import ALL, HISTORIES, Pools, history_of, pool_name
from stream.detect.statistics import NONE, begins_run, fill_class, statistics
from stream.detect.tail import Tail
from stream.detect.windows import LAST, NO_GAP, WINDOWS, Sequence, slide, starts_of
from stream.lists.rules import NO_CATEGORY
from stream.log_lines import counted
from stream.manifest import Tensor
from stream.model.gaps import SESSION_GAP_MS
from stream.sessions.unusual import U64, EndCalibration, end_nats, mixed
from stream.settings import ALPHAS
from stream.state.row import NO_ITEM, row_dtype

MOST_ALONE = 0.1
"""If more of the log's sessions than this share are unlike all others, that a session is so says nothing, as in a shop:
then ends are not scored."""

PART = 200_000
"""Clicks whose windows are in memory at a time."""

USERS = 1024
"""Users per batch: surprise.onnx gathers tens of kilobytes for each user."""


def surprises(directory: Path, state: tuple[Tensor, ...], clicks: Clicks) -> tuple[F32, F32]:
    """Surprise of the item and of the event type of each click, each (n,) float32, nats, given its user's state before
    the click; users start from zeros.

    directory  has the graphs
    state      tensors of the state, as in the manifest
    """
    graphs = ClickGraphs(directory)
    starts = np.flatnonzero(np.append(True, clicks.user[1:] != clicks.user[:-1]))
    counts = np.diff(np.append(starts, len(clicks)))
    longest_first = np.argsort(-counts, kind="stable")
    out = np.empty((2, len(clicks)), np.float32)
    for first in range(0, len(starts), USERS):
        users = longest_first[first : first + USERS]
        _step_together(graphs, state, clicks, starts[users], counts[users], out)
    return out[0], out[1]


def _step_together(
    graphs: ClickGraphs, state: tuple[Tensor, ...], clicks: Clicks, starts: I64, counts: I64, out: F32
) -> None:
    """Write the surprises of u users to out (2, n).

    starts  (u,) first row of each user
    counts  (u,) clicks of each user, descending
    """
    pad = -len(starts) % BATCH_MULTIPLE
    states = [np.zeros((len(starts) + pad, *part.shape), part.dtype) for part in state]
    for ordinal in range(int(counts[0])):
        users = int(np.searchsorted(-counts, -ordinal, "left"))  # those with more clicks than `ordinal`
        rows = starts[:users] + ordinal
        size = users + -users % BATCH_MULTIPLE
        columns = {name: np.pad(getattr(clicks, name)[rows].astype(np.int64), (0, size - users)) for name in CLICK}
        *found, after = graphs(columns, {part.name: value[:size] for part, value in zip(state, states, strict=True)})
        out[:, rows] = [surprise[:users] for surprise in found]
        for value, new in zip(states, after, strict=True):
            value[:users] = new[:users]


class Calibrated(NamedTuple):
    """What the worker's detector compares clicks with.

    pools      name -> the surprises of the held-out clicks of a kind
    behaviour  the statistics of the held-out clicks
    category   (V,) int64, category of each item, NO_CATEGORY = none
    ends       the ends of sessions; None if too many sessions of the log are unlike all others
    """

    pools: dict[str, Tail]
    behaviour: Behaviour
    category: I64
    ends: EndCalibration | None


def calibrated(
    surprise: F32,
    event_surprise: F32,
    clicks: Clicks,
    held_out: Flags,
    vocabulary: Vocabulary,
    category: I64,
    log: Clicks,
) -> Calibrated:
    """Calibrate on held-out clicks.

    surprise, event_surprise  (n,) float32, nats
    held_out                  (n,) bool
    category                  (V,) int64, category of each item, NO_CATEGORY = none
    log                       all clicks of the log, with the items that the model will know; `clicks` are those of
                              some of its users, in the same order
    """
    pools = {name: Tail.fit(pool) for name, pool in surprise_pools(surprise, clicks, held_out, vocabulary).items()}
    names = tuple(pools)
    earlier = clicks_before(clicks)
    by_kind = Pools.of(names, list(pools.values()), vocabulary.event_types)
    item_nats = by_kind.nats(surprise, clicks.event_type.astype(np.int64), earlier)
    item = log.item[np.isin(log.user, clicks.user)]  # in `clicks`, all items that are new to the model are one
    same_item = np.append(False, item[1:] == item[:-1])
    of_item = np.append(category, NO_CATEGORY).astype(np.int32)
    parts = [
        _observed(part, item_nats[part], event_surprise[part], clicks, earlier[part], of_item, same_item[part])
        for part in _of_whole_users(clicks.user)
    ]
    values, fill = (np.concatenate(column) for column in zip(*parts, strict=True))
    session, fold = session_numbers(clicks, held_out), clicks.user[held_out].astype(np.int64) % 2
    whole = whole_sessions(log, len(vocabulary.items))
    scores = None if whole is None else whole.scores(surprise, clicks, held_out)
    behaviour = Behaviour.fit(values[held_out], fill[held_out], session, fold, scores)
    ends = None
    if whole is not None and scores is not None:
        ends = EndCalibration(whole.known, whole.clicks, whole.ends, Tail.fit(scores), behaviour.combined)
    return Calibrated(pools, behaviour, category, ends)


class WholeSessions(NamedTuple):
    """The s sessions of a log, in the order of its clicks.

    vector  (s,) uint64, sum of `mixed` over the items of its clicks
    last    (s,) int32, item of its last click
    user    (s,) int32
    known   (u,) uint64, ascending: the vectors of those that have ended before the log ends
    alone   (s,) bool, it has, and no other one that has is of its vector
    clicks  (V,) int64, clicks on each item, and
    ends    (V,) int64, how many of them ended a session before the log ends
    """

    vector: U64
    last: I32
    user: I32
    known: U64
    alone: Flags
    clicks: I64
    ends: I64

    def scores(self, surprise: F32, clicks: Clicks, held_out: Flags) -> F32:
        """The score of the end of each session with held-out clicks, (h,) float32; NONE without an end or a score.

        A session is left out of what it is compared with. clicks: of some users of the log, all clicks of each
        """
        starts = np.flatnonzero(session_starts(clicks))
        mine = np.isin(self.user, clicks.user[starts])
        last, prior = self.last[mine], self.ends.sum() / self.clicks.sum()
        others = np.maximum(self.ends[last] - 1, 0)
        alone = end_nats(self.clicks[last] - 1, others, prior)
        found = np.maximum(alone, np.maximum.reduceat(surprise, starts)).astype(np.float32)
        found[~self.alone[mine]] = NONE
        return found[np.logical_or.reduceat(held_out, starts)]


def whole_sessions(log: Clicks, items: int) -> WholeSessions | None:
    """The sessions of a log of V = `items` items; None if more than MOST_ALONE of them are unlike all others."""
    columns = zip(*(_ends_of(log, part) for part in _of_whole_users(log.user)), strict=True)
    vector, end_ms, last, user = (np.concatenate(column) for column in columns)
    over = end_ms + SESSION_GAP_MS <= log.time_ms.max()
    known, number, count = np.unique(vector[over], return_inverse=True, return_counts=True)
    if not len(known) or (count == 1).sum() > MOST_ALONE * over.sum():
        return None
    alone = np.zeros(len(over), np.bool_)
    alone[over] = count[number] == 1
    clicks, ends = (np.bincount(one, minlength=items + 1)[:items] for one in (log.item, last[over]))
    return WholeSessions(vector, last, user, known, alone, clicks, ends)


def _ends_of(log: Clicks, rows: slice) -> tuple[U64, I64, I32, I32]:
    """Vector, time of the last click, its item, and user of each session of the clicks `rows` of whole users."""
    part = Clicks(*(getattr(log, name)[rows] for name in log.__dataclass_fields__))
    starts = np.flatnonzero(session_starts(part))
    last = np.append(starts[1:], len(part)) - 1
    return np.add.reduceat(mixed(part.item), starts), part.time_ms[last], part.item[last], part.user[last]


def _observed(
    rows: slice, item_nats: F64, event_nats: F32, clicks: Clicks, earlier: I64, category: I32, same_item: Flags
) -> tuple[F32, I64]:
    """The statistics of the clicks `rows` of whole users, (r, S), and their classes (r,)."""
    user, time_ms, item = clicks.user[rows], clicks.time_ms[rows], clicks.item[rows]
    _, owner = np.unique(user, return_inverse=True)
    gap_ms = np.where(earlier > 0, np.diff(time_ms, prepend=0), NO_GAP)
    count = int(owner.max()) + 1
    before = {field.name: np.zeros((count, *field.shape), field.dtype) for field in WINDOWS}
    after = np.zeros(count, row_dtype((), 0, WINDOWS))
    after["clicks"] = np.bincount(owner)
    sequence, starts = Sequence(owner, count), starts_of(earlier, gap_ms)
    recent, _ = sequence.windows(np.full((count, LAST), NO_ITEM, np.int32), item)
    begins = begins_run(recent, category)
    windows = slide(before, after, sequence, starts, item_nats, event_nats, gap_ms, begins, same_item)
    return statistics(windows, recent, len(category) - 1), fill_class(windows.filled)


def _of_whole_users(user: I32) -> list[slice]:
    """Split the rows of clicks that are sorted by user into parts of about PART rows, without splitting a user."""
    starts = np.flatnonzero(np.append(True, user[1:] != user[:-1]))
    cuts = np.unique(starts[starts.searchsorted(np.arange(0, len(user), PART), "right") - 1])
    return [slice(a, b) for a, b in pairwise([*cuts.tolist(), len(user)])]


def session_numbers(clicks: Clicks, held_out: Flags) -> I64:
    """The number of the session of each held-out click (h,), 0 to the number of sessions - 1.

    A session that began before the slice counts with its part in it.
    """
    return np.cumsum(session_starts(clicks.where(held_out))) - 1


def clicks_before(clicks: Clicks) -> I64:
    """The number of earlier clicks of each click's user (n,)."""
    new = np.append(True, clicks.user[1:] != clicks.user[:-1])
    return np.arange(len(clicks)) - np.maximum.accumulate(np.where(new, np.arange(len(clicks)), 0))


def surprise_pools(surprise: F32, clicks: Clicks, held_out: Flags, vocabulary: Vocabulary) -> dict[str, F32]:
    """Pools by name, each ascending: all clicks, by event type, by event type and history length.

    surprise  (n,) float32, nats
    held_out  (n,) bool, clicks that the pools are made of
    returns   non-empty pools only
    """
    history = history_of(clicks_before(clicks))
    found = {ALL: np.sort(surprise[held_out])}
    for index, event_type in enumerate(vocabulary.event_types):
        mine = held_out & (clicks.event_type == index)
        found[pool_name(event_type)] = np.sort(surprise[mine])
        for length, history_name in enumerate(HISTORIES):
            found[pool_name(event_type, history_name)] = np.sort(surprise[mine & (history == length)])
    return {name: pool for name, pool in found.items() if len(pool)}


def calibration_warning(sessions: int, clicks: int, alpha: float) -> str | None:
    """A warning with advice if the held-out sessions are too few for a rate of false alarms; otherwise None.

    sessions  count of held-out sessions
    clicks    count of all clicks of the log
    """
    if sessions * alpha >= 1:
        return None
    enough, usable = _rounded_up(clicks / (sessions * alpha), 2), _rounded_up(1 / sessions, 1)
    other = f", or start the worker with --alpha {usable:g}" if usable <= ALPHAS[1] else ""
    return (
        f"with {counted(sessions, 'held-out session')} the threshold of the alerts is extrapolated to one false alert "
        f"in {1 / alpha:,.0f} sessions: train on more clicks (about {enough:,.0f}){other}"
    )


def _rounded_up(value: float, digits: int) -> float:
    """A positive value with so many digits, not below the value: a smaller rate would be extrapolated, too."""
    step = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    return float(f"{math.ceil(value / step - 1e-9) * step:.{digits}g}")
