"""Which of the session's last clicks a user's intent comes from: each is left out of the counters once.

The counters without a click are those of a user who has not made it, with all other clicks at their times. In a
session with more clicks than the row remembers, the older ones are never left out. The session stays one session, also
where the pause without the click is longer than a session's may be.
"""

import numpy as np

from stream.ahead.counters import F32, NAMES, Counted, Earlier, matrix, repeated
from stream.detect.windows import GAP_MS, NO_GAP
from stream.model.ahead import AheadGraph
from stream.past.because import Remembered
from stream.sessions.track import NAMES as OF_SESSION
from stream.settings import RECENT_ITEMS
from stream.state.row import NO_ITEM


def intent_without(graph: AheadGraph, row: np.void, clicks: Remembered) -> tuple[float, F32]:
    """The intent after a user's last click, and the intent without each one of the session's last clicks, (N,) float32,
    oldest first. In a session of one click N is 0: without it there is no session.

    clicks  all that the row remembers
    """
    _, start_ms, _, _, types = (row[name] for name in OF_SESSION)
    sessions, ever = (row[name] for name in NAMES)
    size = int(types.sum())
    its = Remembered(*(column[max(0, len(column) - size) :] for column in clicks))
    count = len(its.item)
    gap_ms = its.gap_ms.copy()  # rounded
    exact = row[GAP_MS][:count]
    gap_ms[count - len(exact) :] = exact[::-1]
    waited = np.maximum(gap_ms, 0)
    time_ms = int(row["last_ms"]) - np.append(waited[:0:-1].cumsum()[::-1], 0)
    begins, before_ms = gap_ms[0] == NO_GAP, time_ms[0] - waited[0]  # before_ms: the last click before the session
    stays = [np.arange(count), *(np.delete(np.arange(count), at) for at in range(count) if count > 1)]
    newest = np.array([stay[-1] for stay in stays])
    begin_ms = np.array([time_ms[stay[0]] if count == size else start_ms for stay in stays])
    alone_ms = time_ms[newest] if begins else np.full(len(stays), before_ms)
    previous_ms = np.array([time_ms[stay[-2]] if len(stay) > 1 else alone_ms[at] for at, stay in enumerate(stays)])
    in_session, of_user = (np.repeat(counts[None], len(stays), axis=0) for counts in (types, ever))
    for counts in (in_session, of_user):
        counts[np.arange(1, len(stays)), its.event_type[: len(stays) - 1]] -= 1
    recent = np.full((len(stays), RECENT_ITEMS), NO_ITEM, np.int32)
    for which, stay in enumerate(stays):
        recent[which, : len(stay)] = its.item[stay][::-1]
    counters = matrix(
        Counted(np.full(len(stays), sessions), of_user),
        in_session,
        time_ms[newest] - begin_ms,
        time_ms[newest] - previous_ms,
        time_ms[newest],
        repeated(recent, in_session.sum(1)),
        Earlier(
            np.array([time_ms[stay[-2]] - time_ms[stay[-3]] if len(stay) > 2 else 0 for stay in stays]),
            np.array([its.event_type[stay[-2]] if len(stay) > 1 else 0 for stay in stays]),
        ),
    )
    found = graph(counters, its.event_type[newest]).intent
    return float(found[0]), found[1:]
