"""Makes episodes of a user's unusual clicks, so that one bot raises a few alerts and not one for each click.

An unusual click opens an episode, and raises an alert. Further unusual clicks belong to the episode while each comes
within half an hour after the one before it. They raise an alert only if the p-value is GREW times smaller than at the
last alert. So an operator sees the begin of an episode, and that it becomes worse.
"""

import math

import numpy as np

from stream.detect.detector import Evidence, Fields
from stream.detect.tail import F64
from stream.manifest import Tensor
from stream.model.gaps import SESSION_GAP_MS
from stream.state.row import Rows

GREW = 10.0

OPENED, UNUSUAL_MS, ALERTED = "episode_offset", "unusual_ms", "alerted_nats"
EPISODE = (Tensor(OPENED, (), "int64"), Tensor(UNUSUAL_MS, (), "int64"), Tensor(ALERTED, (), "float32"))
"""The fields of a row: offset of the click that opened the last episode, time of its last unusual click (0 = there was
no episode), and -log of the p-value of its last alert."""


def follow(seen: Evidence, nats: F64, threshold: float, before: Fields, rows: Rows) -> tuple[list[int], list[int]]:
    """Follow the episodes of the m users through n clicks, and write their fields of the rows.

    nats       (n,) -log of the p-value of each click
    threshold  a click is unusual if its nats are at least this
    before, rows  as in `Detector.judge`
    returns    positions of the clicks that raise an alert, ascending, and the offset that opened the episode of each
    """
    unusual = nats >= threshold
    if not np.count_nonzero(unusual):  # most batches of a live shop
        return [], []
    theirs = np.zeros(len(rows), np.bool_)
    theirs[seen.owner[unusual]] = True
    begins = (seen.clicks_before == 0) & theirs[seen.owner]
    state: dict[int, tuple[int, int, float]] = {}
    alerted, episodes = [], []
    grew = math.log(GREW)
    for click in np.flatnonzero(unusual | begins).tolist():
        user, time_ms = int(seen.owner[click]), int(seen.time_ms[click])
        if begins[click]:
            state[user] = 0, 0, 0.0
        if not unusual[click]:
            continue
        opened, last_ms, said = state.get(user) or _episode(before, user)
        if last_ms == 0 or time_ms - last_ms >= SESSION_GAP_MS:
            opened, said = int(seen.offset[click]), -math.inf
        if nats[click] >= said + grew:
            said = float(np.float32(nats[click]))  # as the row stores it
            alerted.append(click)
            episodes.append(opened)
        state[user] = opened, max(time_ms, last_ms), said
    for user, (opened, last_ms, said) in state.items():
        if rows["clicks"][user]:  # else the user has begun again, with a click that failed
            rows[OPENED][user], rows[UNUSUAL_MS][user], rows[ALERTED][user] = opened, last_ms, said
    return alerted, episodes


def _episode(rows: Fields, user: int) -> tuple[int, int, float]:
    return int(rows[OPENED][user]), int(rows[UNUSUAL_MS][user]), float(rows[ALERTED][user])
