"""What was predicted after a user's last click, again: a row keeps what the prediction was made of, and a part of it.

After a late click the hour of the day is that of the user's newest click, because a row does not keep the time of a
late one. In all other cases the bits are those of the decision.
"""

from stream.ahead.counters import NAMES, Counted, Earlier, matrix, repeated
from stream.detect.windows import GAP_MS
from stream.model.ahead import AheadGraph, Forecast
from stream.past.clicks import past_of, type_hashes, type_indices
from stream.sessions.track import NAMES as OF_SESSION
from stream.state.row import Rows


def foresee_again(graph: AheadGraph, rows: Rows, event_types: tuple[str, ...]) -> Forecast:
    """What one user does next. rows: (1,) the user's row, with a decided click; event_types: those of the model"""
    types = type_indices(past_of(rows[0]).names.event_type, type_hashes(event_types))
    _, start_ms, last_ms, _, in_session = (rows[name] for name in OF_SESSION)
    counted = Counted(*(rows[name] for name in NAMES))
    repeats = repeated(rows["recent"], in_session.sum(1))
    gap_ms, earlier = rows[GAP_MS][:, 0], Earlier(rows[GAP_MS][:, 1], types[-2:-1] if len(types) > 1 else types)
    counters = matrix(counted, in_session, last_ms - start_ms, gap_ms, last_ms, repeats, earlier)
    return graph(counters, types[-1:])
