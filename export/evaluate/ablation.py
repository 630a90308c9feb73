"""A trained network -> what each of its parts is worth on held-out clicks: lists without the part beside those served.

Nothing is trained again: a source of the mixture is left out by closing its gates, so that the network has its mass; an
input by zeroing its rows while the states run; the shift of popularity by taking it off the bias. The network had
learned with the part, so a training without it might do better than these lists (bench/inputs.py trains without).
The rule: afterwards network and mixture are what they were, bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.arrays import F64, I64
from export.dataset.cooccurrence import new_visits
from export.dataset.windows import Clicks, Windows, drawn
from export.measure.metrics import changes
from export.measure.ranking import list_ranks, recall_and_mrr
from export.network.mixture import CLOSED, REMEMBERED
from export.network.network import Network
from export.network.states import memories, outputs

NOTHING = "nothing"
"""The row of the lists as served."""

SOURCES = {
    "the last items (network alone)": slice(None),
    "followers": slice(0, 1),
    "neighbours": slice(1, 1 + 2 * REMEMBERED),
    "repeats": slice(1 + 2 * REMEMBERED, None),
}
"""Columns of the mixture's gates, in their order there."""

SCORED = 1 << 28
"""Scores of a part's lists in all, at most: about 4 s on one core. So fewer clicks are judged where items are many."""


def ablations(network: Network, seen: Clicks, judged: I64, shift: F64) -> dict[str, dict[str, Any]]:
    """What is left out -> recall@20 and MRR@20 of the lists without it, in full ranking.

    seen     the users of the held-out slice with all their clicks, as they will come in service
    judged   (m,) the rows whose next click judges, which no gate was fitted on; none give {}
    shift    (V + 1,) nats that the bias of the items that were trained was moved by
    returns  {name: {judged, recall20, mrr20}}, NOTHING first, the others with change {measure: {mean, 95}}: a paired
             bootstrap over visits. An input that is the same at all clicks has no row, nor has a shift of zeros
    """
    judged = drawn(judged, max(1, SCORED // network.sizes.items))
    if not len(judged):
        return {}

    remembered, target = memories(seen, judged), seen.target[judged]

    def states() -> Tensor:
        return outputs(network, Windows(seen), judged)

    served = states()
    ranks = {NOTHING: list_ranks(network, served, remembered, target)}
    for name, (part, without) in _of_the_list(network, shift).items():
        with holding(part, without):
            ranks[name] = list_ranks(network, served, remembered, target)
    for name, rows in _inputs(network, seen).items():
        with holding(rows, torch.zeros_like(rows)):
            ranks[name] = list_ranks(network, states(), remembered, target)

    visit = np.cumsum(new_visits(seen), dtype=np.int32)[judged]
    found: dict[str, dict[str, Any]] = {}
    for name, rank in ranks.items():
        recall, mrr = recall_and_mrr(rank)
        found[name] = {"judged": len(judged), "recall20": recall, "mrr20": mrr}
    for name, change in changes(ranks, visit).items():
        found[name]["change"] = change
    return found


def _of_the_list(network: Network, shift: F64) -> dict[str, tuple[Tensor, Tensor]]:
    """What a list is made of beside the state: name -> (the tensor that holds it, what it is without it)."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    gates = network.mixture.gates
    for name, columns in SOURCES.items():
        closed = gates.clone()
        closed[:, columns] = 0.0
        closed[0, columns] = CLOSED
        found[name] = gates, closed
    if shift.any():
        bias = network.item_bias.detach().clone()
        trained = len(shift) - 1  # items without clicks stand behind these, and no popularity of theirs has passed
        bias[:trained] -= torch.from_numpy(shift[:trained]).float()
        found["the shift of popularity"] = network.item_bias, bias
    return found


def _inputs(network: Network, seen: Clicks) -> dict[str, Tensor]:
    """The rows of what the states read beside the items, where that is not always the same."""
    found: dict[str, Tensor] = {}
    if len(np.unique(seen.event_type)) > 1:
        found["event types"] = network.event_rows
    if len(np.unique(seen.gap[~new_visits(seen)])) > 1:  # a log without times has one gap within visits
        found["time gaps"] = network.gap_rows
    return found


@contextmanager
def holding(tensor: Tensor, values: Tensor) -> Iterator[None]:
    """The tensor has these values for a while, then its own again."""
    own = tensor.detach().clone()
    tensor.data.copy_(values)
    try:
        yield
    finally:
        tensor.data.copy_(own)
