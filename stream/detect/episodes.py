"""Makes episodes of a user's unusual clicks, so that one bot raises a few alerts and not one for each click.

An unusual click opens an episode, and raises an alert. Further unusual clicks belong to the episode while each comes
within half an hour after the one before it. They raise an alert only if the score, -log of the p-value, is GREW times
that of the last alert. So an operator sees the begin of an episode, and that it becomes worse, in a few alerts however
long a bot goes on. The end of a session raises an alert by the same rule.
"""

from typing import NamedTuple

import numpy as np

from stream.detect.detector import Evidence, Fields
from stream.detect.tail import F64, I64
from stream.manifest import Tensor
from stream.model.gaps import SESSION_GAP_MS
from stream.state.row import Rows

GREW = 1.5

OPENED, UNUSUAL_MS, ALERTED = "episode_offset", "unusual_ms", "alerted_nats"
EPISODE = (Tensor(OPENED, (), "int64"), Tensor(UNUSUAL_MS, (), "int64"), Tensor(ALERTED, (), "float32"))
"""The fields of a row: offset of the click that opened the last episode, time of its last unusual click (0 = there was
no episode), and -log of the p-value of its last alert."""

NO_ALERT, OPENS = 0, -1
"""Of the end of a session, beside 1 + an offset."""


class Followed(NamedTuple):
    """What raises an alert among n clicks.

    clicks    positions of the clicks that do, ascending
    episodes  offset of the click that opened the episode of each of them
    ends      (n,) int64, what the end of the user's session would raise after each click: NO_ALERT, an alert that opens
              an episode (OPENS), or 1 + the offset of the click that opened the episode. None if ends are not scored
    """

    clicks: list[int]
    episodes: list[int]
    ends: I64 | None


def follow(
    seen: Evidence, nats: F64, threshold: float, before: Fields, rows: Rows, ends: F64 | None = None
) -> Followed:
    """Follow the episodes of the m users through n clicks, and write their fields of the rows.

    nats       (n,) -log of the p-value of each click
    threshold  a click is unusual if its nats are at least this
    before, rows  as in `Detector.judge`
    ends       (n,) the same of the end of the user's session, as if it came after the click and at its time; None if
               ends are not scored. An end changes no episode
    """
    unusual = nats >= threshold
    ending = np.zeros(len(nats), np.bool_) if ends is None else ends >= threshold
    raised = None if ends is None else np.zeros(len(nats), np.int64)
    looked_at = unusual | ending
    if not np.count_nonzero(looked_at):  # most batches of a live shop
        return Followed([], [], raised)
    theirs = np.zeros(len(rows), np.bool_)
    theirs[seen.owner[looked_at]] = True
    begins = (seen.clicks_before == 0) & theirs[seen.owner]
    state: dict[int, tuple[int, int, float]] = {}
    alerted, episodes = [], []
    for click in np.flatnonzero(looked_at | begins).tolist():
        user, time_ms = int(seen.owner[click]), int(seen.time_ms[click])
        if begins[click]:
            state[user] = 0, 0, 0.0
        if not looked_at[click]:
            continue
        opened, last_ms, said = state.get(user) or _episode(before, user)
        is_open = last_ms != 0 and time_ms - last_ms < SESSION_GAP_MS
        if unusual[click]:
            if not is_open:
                opened, said, is_open = int(seen.offset[click]), 0.0, True
            if nats[click] >= said * GREW:
                said = float(np.float32(nats[click]))  # as the row stores it
                alerted.append(click)
                episodes.append(opened)
            state[user] = opened, max(time_ms, last_ms), said
        if ends is not None and raised is not None and ending[click] and (not is_open or ends[click] >= said * GREW):
            raised[click] = opened + 1 if is_open else OPENS
    for user, (opened, last_ms, said) in state.items():
        if rows["clicks"][user]:  # else the user has begun again, with a click that failed
            rows[OPENED][user], rows[UNUSUAL_MS][user], rows[ALERTED][user] = opened, last_ms, said
    return Followed(alerted, episodes, raised)


def _episode(rows: Fields, user: int) -> tuple[int, int, float]:
    return int(rows[OPENED][user]), int(rows[UNUSUAL_MS][user]), float(rows[ALERTED][user])
