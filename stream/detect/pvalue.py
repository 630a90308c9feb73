"""Converts the surprise of a click's item to a p-value, by comparison with held-out clicks of the same kind.

There is a pool for each event type and history length. If a pool has too few clicks, a pool of more general ones is
used instead. How a pool gives a p-value is in tail.py.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from stream.detect.tail import F32, F64, I64, Tail, Tails

HISTORIES = ("first", "short", "long")
SHORT_BELOW = 5
"""A user without earlier clicks has the history `first`, with 1 to 4 earlier clicks `short`, else `long`."""

HISTORY_EDGES = np.array([1, SHORT_BELOW])

ALL = "all"
"""Name of the pool with all held-out clicks. Every model has this pool."""

FEWEST = 1_000
"""A pool with fewer held-out clicks is replaced by a more general one."""


def pool_name(event_type: str, history: str | None = None) -> str:
    """Return the name of the pool for an event type, or for an event type and one of HISTORIES.

    Different arguments give different names. Event types come from logs, so one can be `all` or contain "/". These are
    percent-encoded: `all` -> `%61ll`, `cart/add` -> `cart%2Fadd`.
    """
    name = event_type.replace("%", "%25").replace("/", "%2F")
    if name == ALL:
        name = "%61ll"
    return name if history is None else f"{name}/{history}"


def history_of(clicks_before: npt.NDArray[np.integer]) -> I64:
    """Convert numbers of earlier clicks (n,) to indices (n,) int64 into HISTORIES."""
    return HISTORY_EDGES.searchsorted(clicks_before, "right")


@dataclass(frozen=True)
class Pools:
    """The pools of a model.

    tails  the surprises of the held-out clicks of each pool
    table  (T + 1, len(HISTORIES)) int64, index of the pool of each event type and history. The last row is for unknown
           event types
    """

    tails: list[Tail]
    table: I64

    @classmethod
    def of(cls, names: tuple[str, ...], tails: list[Tail], event_types: tuple[str, ...]) -> "Pools":
        """names  of each pool: ALL, or a result of `pool_name`. Raises ValueError if ALL is missing"""
        usable = {name: i for i, name in enumerate(names) if name == ALL or tails[i].size >= FEWEST}
        if ALL not in usable:
            raise ValueError(f"it has no pool `{ALL}`")
        table = np.full((len(event_types) + 1, len(HISTORIES)), usable[ALL], np.int64)
        for i, event_type in enumerate(event_types):
            coarser = usable.get(pool_name(event_type), usable[ALL])
            for j, history in enumerate(HISTORIES):
                table[i, j] = usable.get(pool_name(event_type, history), coarser)
        return cls(tails, table)

    def nats(self, surprise: F32, event_type: I64, clicks_before: I64) -> F64:
        """-log of the p-value (n,) of each surprise (n,), nats.

        event_type, clicks_before  (n,) as in `Evidence`
        """
        return self._lookup.nats_of(self.table[event_type, history_of(clicks_before)], surprise)

    @cached_property
    def _lookup(self) -> Tails:
        return Tails(self.tails)
