"""Which of the user's last clicks a recommendation comes from: each click is left out once, and the rest is stepped
again by the same graphs, from a new user's state.

The state itself cannot be taken apart, so all states here are those of a user who has made no clicks but the ones that
the row remembers. For a user with more clicks this leaves the older ones out of account.
"""

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stream.detect.windows import NO_GAP
from stream.model.gaps import gap_bucket
from stream.model.runtime import F32, I64, Model, StateArray
from stream.past.clicks import Past, item_hashes, type_hashes

RANKED = 5_000
"""Items that are ranked for each left-out click. One that is not among them has at most the last one's probability."""


class Remembered(NamedTuple):
    """N clicks that a row remembers, as the graphs read them, oldest first, each (N,) int64.

    item, event_type  index in the model; V and T for what it does not know
    gap_ms            as in Past
    """

    item: I64
    event_type: I64
    gap_ms: I64


class Because:
    """Answers with one model. `of` may be called in any thread."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def of(self, past: Past, items: I64, most: int) -> list[list[dict[str, Any]]]:
        """The clicks that carry each of k items, for the strongest `most` of them.

        past     what the user's row remembers
        items    (k,) indices of the recommended items
        returns  for each item the clicks whose absence makes it less likely, the strongest first: `item_id` and
                 `event_type` (None = the model does not know it), `clicks_ago` (0 = the last click), and `nats`, by how
                 much the log-probability of the item falls
        """
        clicks = self.known(past)
        count = len(clicks.item)
        if not count:
            return [[] for _ in items]
        log_probs = self._log_probs(self._states(clicks), items)
        fall = log_probs[-1] - log_probs[:-1]  # (N, k)
        found = []
        for column in fall.T:
            strongest = [int(at) for at in np.argsort(-column, kind="stable")[:most] if column[at] > 0]
            found.append([self.named(clicks, at) | {"nats": round(float(column[at]), 4)} for at in strongest])
        return found

    @cached_property
    def _hashes(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.intp]]:
        """The hashes of the model's items, ascending, and the index of each. Made with the first request."""
        hashes = item_hashes(self._model.items)
        order = np.argsort(hashes)
        return hashes[order], order

    def known(self, past: Past) -> Remembered:
        """The clicks with the indices of this model."""
        hashes, index = self._hashes
        at = np.minimum(hashes.searchsorted(past.names.item), len(hashes) - 1)
        item = np.where(hashes[at] == past.names.item, index[at], len(self._model.items))
        types = type_hashes(self._model.manifest.event_types)
        is_type = past.names.event_type[:, None] == types
        event_type = np.where(is_type.any(1), is_type.argmax(1) if len(types) else 0, len(types))
        return Remembered(item.astype(np.int64), event_type.astype(np.int64), past.gap_ms)

    def _states(self, clicks: Remembered) -> list[StateArray]:
        """The inputs of score.onnx after the clicks without each one of them, and then after all, each (N + 1, ...)."""
        count = len(clicks.item)
        stay = np.arange(count - 1) + (np.arange(count - 1) >= np.arange(count)[:, None])  # (N, N - 1)
        gap_ms = np.maximum(clicks.gap_ms, 0)
        without = gap_ms[stay]
        then = np.arange(count - 1)  # the click after the one that is left out has waited for both
        without[then, then] += gap_ms[:-1]
        first = clicks.gap_ms[stay] == NO_GAP
        first[0, :1] |= clicks.gap_ms[0] == NO_GAP
        some = self._stepped(clicks.item[stay], clicks.event_type[stay], self._buckets(without, first))
        every = self._buckets(gap_ms, clicks.gap_ms == NO_GAP)
        whole = self._stepped(clicks.item[None], clicks.event_type[None], every[None])
        return [np.concatenate(pair) for pair in zip(some, whole, strict=True)]

    def _buckets(self, gap_ms: I64, first: npt.NDArray[np.bool_]) -> I64:
        return gap_bucket(gap_ms, first, self._model.gap_edges_ms)

    def _stepped(self, item: I64, event_type: I64, gap: I64) -> list[StateArray]:
        """The inputs of score.onnx after N clicks of B new users (B, N)."""
        model = self._model
        new: list[StateArray] = [np.zeros((len(item), *part.shape), part.dtype) for part in model.manifest.state]
        after = [value[:, -1] for value in model.step(item, event_type, gap, new)] if item.shape[1] else new
        state = dict(zip(model.state_names, after, strict=True))
        return [state[name] for name in model.score_inputs]

    def _log_probs(self, state: list[StateArray], items: I64) -> F32:
        """The log-probability of each of k items in each of B states (B, k)."""
        ranked, log_probs = self._model.score(state, min(RANKED, len(self._model.items)))
        found = np.repeat(log_probs[:, -1:], len(items), axis=1)
        for column, item in enumerate(items.tolist()):
            which, at = np.nonzero(ranked == item)
            found[which, column] = log_probs[which, at]
        return found

    def named(self, clicks: Remembered, at: int) -> dict[str, Any]:
        """The click at a position: `item_id`, `event_type` and `clicks_ago` as in `of`."""
        model, item, event_type = self._model, int(clicks.item[at]), int(clicks.event_type[at])
        types = model.manifest.event_types
        return {
            "item_id": model.items[item] if item < len(model.items) else None,
            "event_type": types[event_type] if event_type < len(types) else None,
            "clicks_ago": len(clicks.item) - 1 - at,
        }
