"""What was predicted after a user's last click, again: a row keeps what the prediction was made of, and a part of it.

After a late click the hour of the day is that of the user's newest click, because a row does not keep the time of a
late one. In all other cases the bits are those of the decision.
"""

import numpy as np

from stream.ahead.counters import NAMES, Counted, matrix, repeated
from stream.detect.windows import GAP_MS
from stream.model.ahead import AheadGraph, Forecast
from stream.past.clicks import past_of, type_hashes
from stream.sessions.track import NAMES as OF_SESSION
from stream.state.row import Rows


def foresee_again(graph: AheadGraph, rows: Rows, event_types: tuple[str, ...]) -> Forecast:
    """What one user does next. rows: (1,) the user's row, with a decided click; event_types: those of the model"""
    last_type = past_of(rows[0]).names.event_type[-1]
    of_type = np.flatnonzero(type_hashes(event_types) == last_type)
    event_type = np.append(of_type, len(event_types))[:1]
    _, start_ms, last_ms, _, types = (rows[name] for name in OF_SESSION)
    counted = Counted(*(rows[name] for name in NAMES))
    repeats = repeated(rows["recent"], types.sum(1))
    return graph(matrix(counted, types, last_ms - start_ms, rows[GAP_MS][:, 0], last_ms, repeats), event_type)
