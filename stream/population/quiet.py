"""Keeps alerts on a user back where a person asked for it with `eddy feedback --quiet`.

    request  -> in the user's row: until which time, and for which statistics
    click    -> before this time, and its strongest statistic is one of these: it raises no alert, opens no episode
    end      -> of a session whose last click is before this time: it raises no alert if ends are among these

p-values, surprise and the counts of the partition stay as they are. A user who is forgotten, or who begins again, is
quiet no longer.

The rule that must not break: the result depends only on the clicks and the requests and their order, never on the
batch. The time is that of the clicks, so clicks that are read again give the same result.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stream.detect.detector import Evidence, Fields
from stream.detect.statistics import END, STATISTICS
from stream.detect.windows import Bools
from stream.manifest import Tensor
from stream.state.row import Index, Rows

UNTIL_S, WHICH = "quiet_until_s", "quiet_statistics"
NAMES = (*STATISTICS, END)
"""What can be quiet by itself."""

QUIET = (Tensor(UNTIL_S, (), "uint32"), Tensor(WHICH, (), "int32"))
"""The fields of a row: until which time of clicks the user is quiet, s since the epoch (0 = is not), and for which
of NAMES, a bit each; 0 = all."""

NOT_ASKED = -1


class Quiet(NamedTuple):
    """A request to keep alerts back. A later request of the same user replaces it.

    until_s     time of clicks, s since the epoch; 0 = the user is not quiet
    statistics  bit i is set for NAMES[i]; 0 = all of them
    """

    until_s: int
    statistics: int

    @classmethod
    def of(cls, until_ms: int, names: Sequence[str]) -> "Quiet":
        """until_ms  ms since the epoch, rounded down to s. names: some of NAMES, none = all"""
        return cls(until_ms // 1000, sum(1 << NAMES.index(name) for name in set(names)))


class Asked(NamedTuple):
    """The requests among n clicks of m users.

    requests  in their order
    before    (n,) intp, number of the last request of the click's user before the click, NOT_ASKED = none
    last      (m,) intp, number of the user's last request, NOT_ASKED = none
    """

    requests: Sequence[Quiet]
    before: Index
    last: Index

    def take(self, clicks: Index, users: Index) -> "Asked":
        """Select the clicks and the users at these positions."""
        return Asked(self.requests, self.before[clicks], self.last[users])


def quieted(
    seen: Evidence, strongest: Index, asked: Asked | None, before: Fields, rows: Rows
) -> tuple[Bools, Bools] | None:
    """Which of n clicks are quiet (n,), and after which clicks the end of the session would be (n,); None if no user is
    quiet. Writes the fields QUIET of the rows.

    strongest  (n,) intp, the strongest statistic of each click, index into STATISTICS
    asked      the requests among these clicks; None if there is none
    before, rows  as in `Detector.judge`
    """
    concerned = before[UNTIL_S] > 0
    if asked is not None:
        concerned |= asked.last != NOT_ASKED
    if not np.count_nonzero(concerned):  # most batches of a live shop
        return None
    state = {
        user: (Quiet(int(before[UNTIL_S][user]), int(before[WHICH][user])), NOT_ASKED)
        for user in np.flatnonzero(concerned).tolist()
    }
    quiet, at_end = np.zeros((2, len(seen.owner)), np.bool_)
    for click in np.flatnonzero(concerned[seen.owner]).tolist():
        user = int(seen.owner[click])
        now, number = state[user]
        if asked is not None and asked.before[click] != number:
            number = int(asked.before[click])
            now = asked.requests[number]
        if seen.clicks_before[click] == 0:
            now = Quiet(0, 0)
        if seen.time_ms[click] < now.until_s * 1000:
            quiet[click], at_end[click] = _concerns(now, int(strongest[click])), _concerns(now, NAMES.index(END))
        state[user] = now, number
    for user, (now, number) in state.items():
        if asked is not None and asked.last[user] != number:
            now = asked.requests[asked.last[user]]
        stays = rows["clicks"][user] > 0  # else the user has no click, or has begun again with one that failed
        rows[UNTIL_S][user], rows[WHICH][user] = now if stays else (0, 0)
    return quiet, at_end


def _concerns(quiet: Quiet, statistic: int) -> bool:
    return not quiet.statistics or bool(quiet.statistics >> statistic & 1)
