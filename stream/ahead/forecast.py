"""Predicts what users do next after their clicks, and turns predictions into the fields of a recommendation.

ahead.onnx reads what the users' rows count (counters.py), and no state of the network.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from msgspec import UNSET, UnsetType

from stream.ahead.counters import F32, I64, Counted, Earlier, count, counter_fields, matrix, repeated
from stream.detect.detector import Evidence, Fields
from stream.detect.windows import GAP_MS
from stream.manifest import Ahead, Manifest, Tensor
from stream.model.ahead import AheadGraph, Forecast
from stream.past.clicks import PAST, U16, read, type_indices
from stream.sessions.track import Track
from stream.state.row import Rows
from stream.wire.output import DIGITS, Foreseen


def row_fields(manifest: Manifest) -> tuple[Tensor, ...]:
    """The fields of a row, beside those of its session: none if the model does not predict what a user does next."""
    return () if manifest.ahead is UNSET else counter_fields(len(manifest.event_types))


def foresee(graph: AheadGraph, known: U16, seen: Evidence, track: Track, before: Fields, rows: Rows) -> Forecast:
    """What the users do next after each of n clicks of m users, in the order of the clicks.

    known   (T,) hashes of the event types that the model knows
    track   the sessions; it gets what is predicted of them
    before  the fields of the users' rows before the clicks
    rows    (m,) the rows after them: what is counted of the users is written to them
    """
    order, owner, event_type = track.by_user, track.owner, seen.event_type[track.by_user]
    new = seen.clicks_before[order] == 0
    counted = count(owner, track.first, new, track.starts, event_type, before)
    sessions = track.after(np.arange(len(order)))
    repeats = repeated(seen.recent[order], sessions.types.sum(1))
    lasted_ms = sessions.last_ms - sessions.start_ms
    gap_ms = seen.gap_ms[order]
    earlier = _earlier(known, track, gap_ms, event_type, before)
    counters = matrix(counted, sessions.types, lasted_ms, gap_ms, seen.time_ms[order], repeats, earlier)
    found = graph(counters, event_type)
    track.foresee(found.intent, found.returns_7d)
    _write(counted, track, rows)
    position = np.empty(len(order), np.intp)
    position[order] = np.arange(len(order))
    return Forecast._make(column[position] for column in found)


def _earlier(known: U16, track: Track, gap_ms: I64, event_type: I64, before: Fields) -> Earlier:
    """The clicks before n clicks, given in the order of the users: among the n, or the newest one in the user's row."""
    gaps, types = (np.append(np.int64(0), column[:-1])[: len(column)] for column in (gap_ms, event_type))
    user = track.owner[track.first]
    gaps[track.first] = before[GAP_MS][user, 0]
    types[track.first] = type_indices(read(before[PAST.name][user, 0]).names.event_type, known)
    return Earlier(gaps, types)


def _write(counted: Counted, track: Track, rows: Rows) -> None:
    """Write what is counted after the last click of each user to the m rows."""
    last = np.flatnonzero(np.append(track.first[1:], True)[: len(track.owner)])
    user = track.owner[last]
    counted.write(rows, last, user, rows["clicks"][user] > 0)  # else the user has begun again, with a failed click


def foreseen(forecast: Forecast, event_types: tuple[str, ...], served: Ahead) -> Iterable[Foreseen]:
    """The fields of a recommendation for each of n clicks. served: what the model predicts"""
    following, intent, leaves, returns = (column.astype(np.float64).round(DIGITS).tolist() for column in forecast)
    named = [dict(zip(event_types, probabilities, strict=True)) for probabilities in following]
    missing = [None] * len(named)
    of_intent = missing if served.intent is None else intent
    return zip(named, leaves, returns if served.returns else missing, of_intent, strict=True)


def served_columns(forecast: F32 | None, served: Ahead | UnsetType) -> Sequence[F32 | None]:
    """The columns of `Sessions.forecast` (n, 4) that the model predicts; None in place of each other one."""
    if forecast is None or served is UNSET:
        return None, None, None, None
    intent = (None, None, None) if served.intent is None else (forecast[:, 0], forecast[:, 1], forecast[:, 2])
    return *intent, forecast[:, 3] if served.returns else None
