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
from stream.detect.statistics import begins_run, fill_class, statistics
from stream.detect.tail import Tail
from stream.detect.windows import LAST, NO_GAP, WINDOWS, Sequence, slide
from stream.lists.rules import NO_CATEGORY
from stream.manifest import Tensor
from stream.state.row import NO_ITEM, row_dtype

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
    """

    pools: dict[str, Tail]
    behaviour: Behaviour
    category: I64


def calibrated(
    surprise: F32, event_surprise: F32, clicks: Clicks, held_out: Flags, vocabulary: Vocabulary, category: I64
) -> Calibrated:
    """Calibrate on held-out clicks.

    surprise, event_surprise  (n,) float32, nats
    held_out                  (n,) bool
    category                  (V,) int64, category of each item, NO_CATEGORY = none
    """
    pools = {name: Tail.fit(pool) for name, pool in surprise_pools(surprise, clicks, held_out, vocabulary).items()}
    names = tuple(pools)
    earlier = clicks_before(clicks)
    by_kind = Pools.of(names, list(pools.values()), vocabulary.event_types)
    item_nats = by_kind.nats(surprise, clicks.event_type.astype(np.int64), earlier)
    of_item = np.append(category, NO_CATEGORY).astype(np.int32)
    parts = [
        _observed(part, item_nats[part], event_surprise[part], clicks, earlier[part], of_item)
        for part in _of_whole_users(clicks.user)
    ]
    values, fill = (np.concatenate(column) for column in zip(*parts, strict=True))
    session = session_numbers(clicks, held_out)
    return Calibrated(
        pools,
        Behaviour.fit(values[held_out], fill[held_out], session, clicks.user[held_out].astype(np.int64) % 2),
        category,
    )


def _observed(
    rows: slice, item_nats: F64, event_nats: F32, clicks: Clicks, earlier: I64, category: I32
) -> tuple[F32, I64]:
    """The statistics of the clicks `rows` of whole users, (r, S), and their classes (r,)."""
    user, time_ms, item = clicks.user[rows], clicks.time_ms[rows], clicks.item[rows]
    _, owner = np.unique(user, return_inverse=True)
    gap_ms = np.where(earlier > 0, np.diff(time_ms, prepend=0), NO_GAP)
    count = int(owner.max()) + 1
    before = {field.name: np.zeros((count, *field.shape), field.dtype) for field in WINDOWS}
    after = np.zeros(count, row_dtype((), 0, WINDOWS))
    after["clicks"] = np.bincount(owner)
    recent, _ = Sequence(owner, count).windows(np.full((count, LAST), NO_ITEM, np.int32), item)
    windows = slide(before, after, owner, earlier, item_nats, event_nats, gap_ms, begins_run(recent, category))
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
    enough = math.ceil(clicks / (sessions * alpha))
    return (
        f"with {sessions:,} held-out sessions the threshold of the alerts is extrapolated to one false alert in "
        f"{1 / alpha:,.0f} sessions: train on more clicks (about {enough:,}), or start the worker with "
        f"--alpha {1 / sessions:.1g}"
    )
