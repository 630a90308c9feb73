"""What a user's row keeps for triggers: the last known consent, and when the last trigger of each rule was.

A row has room for MOST_RULES rules, by the hashes of their names. So rules can be added, changed and removed without a
new group. The time of a rule that the file no longer has stays until its room is needed.
"""

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from stream.detect.windows import Bools
from stream.manifest import Tensor
from stream.sessions.track import Track
from stream.state.row import Rows
from stream.triggers.parse import MOST_RULES

U8 = npt.NDArray[np.uint8]

HASHES, TIMES, CONSENT = "trigger_hashes", "trigger_times_s", "consent"
MEMORY = (
    Tensor(HASHES, (MOST_RULES,), "uint32"),
    Tensor(TIMES, (MOST_RULES,), "uint32"),
    Tensor(CONSENT, (), "uint8"),
)
"""The fields of a row: hashes of rules, 0 = none, and the time of the partition at the last trigger of each, s since
the epoch; and the consent, one of the values below."""

UNKNOWN, REFUSED, GIVEN = 0, 1, 2
CONSENTS = {None: UNKNOWN, False: REFUSED, True: GIVEN}
"""The field `consent` of a click -> what a row has."""

Times = dict[int, int]
"""Hash of a rule -> time of its last trigger, s since the epoch."""


def consents(track: Track, given: U8, fresh: Bools, before: U8) -> U8:
    """The last known consent of the user after each of n clicks (n,), in the order of the track.

    given   (n,) the consent that each click has, in the order of the clicks
    fresh   (n,) the user has begun again with the click, so what was known before is forgotten
    before  (m,) of the users' rows before the batch
    """
    given, fresh = given[track.by_user], fresh[track.by_user]
    says = given != UNKNOWN
    known = np.where(says, given, np.where(fresh, np.uint8(UNKNOWN), before[track.owner]))
    latest = np.where(says | fresh | track.first, np.arange(len(known)), 0)
    found: U8 = known[np.maximum.accumulate(latest)]
    return found


def write_consent(rows: Rows, track: Track, after: U8) -> None:
    """Write the consent after the last click of each user to the m rows. after: as `consents` returns it"""
    last = np.flatnonzero(np.append(track.first[1:], True)[: len(track.owner)])
    user = track.owner[last]
    rows[CONSENT][user] = np.where(rows["clicks"][user] > 0, after[last], UNKNOWN)


def times_of(row: np.void) -> Times:
    """The times in a row."""
    return {rule: time_s for rule, time_s in zip(row[HASHES].tolist(), row[TIMES].tolist(), strict=True) if rule}


def remember(times: Times, rule: int, time_s: int, rules: Collection[int]) -> None:
    """Note a trigger. If there is no room, the oldest time of a rule makes place that is none of `rules`."""
    times[rule] = time_s
    if len(times) > MOST_RULES:
        del times[min((one for one in times if one not in rules), key=lambda one: (times[one], one))]


def write_times(rows: Rows, at: int, times: Times) -> None:
    """Write the times to the row at a position. The same times always give the same bytes."""
    pairs = sorted(times.items()) + [(0, 0)] * (MOST_RULES - len(times))
    rows[HASHES][at], rows[TIMES][at] = zip(*pairs, strict=True)
