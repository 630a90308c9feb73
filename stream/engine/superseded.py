"""Selects the clicks of a batch that get a list of recommendations.

Where a user clicks several times in a batch, all decisions are written in one transaction. A consumer that needs only
the newest list of a user has no use for the lists between, and they cost most of a click's time.
"""

from collections.abc import Callable, Mapping

import numpy as np

from stream.engine.columns import Columns
from stream.engine.waves import NO_CLICK, Index


def by_none(clicks: Columns) -> Index:
    """Every click has a list: -1 (n,)."""
    return NO_CLICK.repeat(len(clicks))


def by_last(clicks: Columns) -> Index:
    """The position (n,) of the user's last click in the batch, which alone has a list; -1 for this click itself."""
    position = np.arange(len(clicks))
    last = np.empty(len(clicks.owners), np.intp)
    last[clicks.owner] = position  # the last one stays
    later = last[clicks.owner]
    return np.where(later == position, -1, later)


SUPERSEDED: Mapping[str, Callable[[Columns], Index]] = {"every": by_none, "last": by_last}
"""Value of the setting `lists` -> the later click that supersedes each click."""
