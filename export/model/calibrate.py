"""Calibration: held-out clicks -> pools of surprises, computed by the graphs that the worker runs.

The held-out slice is the newest part of the log and was not trained on, so the pools include the drift between two
trainings. Pool names and history lengths are defined in stream/detect/pvalue.py.
"""

from pathlib import Path

import numpy as np

from export.arrays import F32, I64, Flags
from export.dataset.windows import Clicks
from export.log.log import Vocabulary
from export.model.directory import Pools
from export.model.graph import BATCH_MULTIPLE, CLICK, ClickGraphs
from stream.detect.pvalue import ALL, HISTORIES, history_of, pool_name
from stream.manifest import Tensor

USERS = 1024
"""Users per batch: surprise.onnx gathers tens of kilobytes for each user."""


def surprises(directory: Path, state: tuple[Tensor, ...], clicks: Clicks) -> F32:
    """(n,) float32, nats: surprise of each click given its user's state before the click; users start from zeros.

    directory  has the graphs
    state      tensors of the state, as in the manifest
    """
    graphs = ClickGraphs(directory)
    starts = np.flatnonzero(np.append(True, clicks.user[1:] != clicks.user[:-1]))
    counts = np.diff(np.append(starts, len(clicks)))
    longest_first = np.argsort(-counts, kind="stable")
    out = np.empty(len(clicks), np.float32)
    for first in range(0, len(starts), USERS):
        users = longest_first[first : first + USERS]
        _step_together(graphs, state, clicks, starts[users], counts[users], out)
    return out


def _step_together(
    graphs: ClickGraphs, state: tuple[Tensor, ...], clicks: Clicks, starts: I64, counts: I64, out: F32
) -> None:
    """Write the surprises of u users to out (n,).

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
        surprise, after = graphs(columns, {part.name: value[:size] for part, value in zip(state, states, strict=True)})
        out[rows] = surprise[:users]
        for value, new in zip(states, after, strict=True):
            value[:users] = new[:users]


def pools(surprise: F32, clicks: Clicks, held_out: Flags, vocabulary: Vocabulary) -> Pools:
    """Calibration pools by name, each ascending: all clicks, by event type, by event type and history length.

    surprise  (n,) float32, nats
    held_out  (n,) bool, clicks that the pools are made of
    returns   non-empty pools only
    """
    first_row = np.maximum.accumulate(
        np.where(np.append(True, clicks.user[1:] != clicks.user[:-1]), np.arange(len(clicks)), 0)
    )
    history = history_of(np.arange(len(clicks)) - first_row)
    found = {ALL: np.sort(surprise[held_out])}
    for index, event_type in enumerate(vocabulary.event_types):
        mine = held_out & (clicks.event_type == index)
        found[pool_name(event_type)] = np.sort(surprise[mine])
        for length, history_name in enumerate(HISTORIES):
            found[pool_name(event_type, history_name)] = np.sort(surprise[mine & (history == length)])
    return {name: pool for name, pool in found.items() if len(pool)}
