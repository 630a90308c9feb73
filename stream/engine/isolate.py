"""Finds the clicks on which the engine fails, so that one such click does not stop the stream.

Users do not depend on each other, so the users of a batch are halved until the failing ones are alone. A user's clicks
do depend on the earlier ones, so they are searched by their beginnings. All other clicks are then processed together,
as if the failing ones had not come. A model that fails on everything is an error and not a matter of clicks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stream.engine.columns import Columns
from stream.engine.engine import Cycle, Engine
from stream.engine.waves import Index
from stream.errors import ArtifactError, EddyError
from stream.model.probe import batch_invariant

MOST_OF_A_USER = 8
"""So many failing clicks of a user are searched in a batch. With more of them, all later clicks of the user in this
batch count as failing: the search for each takes a few runs over the user's clicks."""

FEWEST, MOST_SHARE = 20, 0.5
"""If more than this share of the clicks of a batch fails, and at least so many, the model is broken and not a click."""


class Isolated(NamedTuple):
    """The result of a batch.

    cycle   the engine's result for all clicks but the broken ones. Its positions are those in the whole batch
    broken  position in the batch -> the error of the engine, for each click on which it fails
    """

    cycle: Cycle
    broken: dict[int, Exception]


def process(engine: Engine, clicks: Columns, now_ms: int) -> Isolated:
    """Decide on a batch as Engine.process does, and set aside the clicks on which it raises an exception.

    Work: at most about log2(users) + 8 * log2(clicks of a user) runs over the batch, and only if a run fails.
    Raises ArtifactError if the model also fails on other clicks, MemoryError, and the engine's exception if the other
    clicks fail only together.
    """
    try:
        return Isolated(engine.process(clicks, now_ms), {})
    except (MemoryError, EddyError):
        raise
    except Exception as exc:
        _probe(engine, exc)
        broken = _of_users(engine, clicks, np.arange(len(clicks.owners)), now_ms)
        if not broken:
            raise
        if len(broken) >= FEWEST and len(broken) > MOST_SHARE * len(clicks):
            raise _broken_model(engine, exc) from exc
    others = np.setdiff1d(np.arange(len(clicks)), list(broken))
    return Isolated(engine.process(clicks.take(others), now_ms).moved(others), broken)


def _of_users(engine: Engine, clicks: Columns, users: Index, now_ms: int) -> dict[int, Exception]:
    """The failing clicks of these users, as Isolated.broken."""
    which = np.flatnonzero(np.isin(clicks.owner, users))
    if len(users) == 1:
        return _of_user(engine, clicks, which.tolist(), now_ms)
    if _error(engine, clicks, which, now_ms) is None:
        return {}
    half = len(users) // 2
    return _of_users(engine, clicks, users[:half], now_ms) | _of_users(engine, clicks, users[half:], now_ms)


def _of_user(engine: Engine, clicks: Columns, left: list[int], now_ms: int) -> dict[int, Exception]:
    """The failing clicks among the clicks `left` of one user: each is the end of the shortest beginning that fails."""
    broken: dict[int, Exception] = {}
    error = _error(engine, clicks, left, now_ms)
    while error is not None and len(broken) < MOST_OF_A_USER:
        good, bad = 0, len(left)  # so many first clicks pass, so many fail
        while bad - good > 1:
            middle = (good + bad) // 2
            found = _error(engine, clicks, left[:middle], now_ms)
            good, bad, error = (middle, bad, error) if found is None else (good, middle, found)
        broken[left.pop(good)] = error
        error = _error(engine, clicks, left, now_ms)
    return broken if error is None else broken | dict.fromkeys(left[good:], error)


def _error(engine: Engine, clicks: Columns, which: Index | Sequence[int], now_ms: int) -> Exception | None:
    """The exception of the engine for these clicks alone; None if it has a result."""
    try:
        engine.process(clicks.take(np.asarray(which, np.intp)), now_ms)
    except MemoryError:
        raise
    except Exception as exc:
        return exc.with_traceback(None)  # it references the frames, and so all arrays of the run
    return None


def _probe(engine: Engine, error: Exception) -> None:
    """Raise ArtifactError if the model also fails on random clicks of its own items, as at the start."""
    try:
        batch_invariant(engine.model, 1)
    except Exception:
        raise _broken_model(engine, error) from error


def _broken_model(engine: Engine, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"model {engine.model.manifest.label} fails on most clicks, also on good ones ({type(error).__name__}: "
        f"{' '.join(str(error).split())[:200]}); start the worker again; if it fails again, train the model again"
    )
