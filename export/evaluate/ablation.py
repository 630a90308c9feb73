"""Ablation: compares the lists of a trained network with the lists without one of its parts, on held-out clicks.

Nothing is trained again:

- A component of the mixture is removed by closing its gates, so that its weight goes to the network.
- An input is removed by setting its rows to zero while the states are computed.
- The recency correction of popularity is removed by subtracting it from the bias.

The network was trained with the part, so a network that is trained without it may be better than these figures
(bench/inputs.py trains without the inputs). Afterwards the network and the mixture have the same bits as before.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from export.arrays import F64, I64
from export.dataset.cooccurrence import session_starts
from export.dataset.windows import Clicks, Windows, drawn
from export.measure.metrics import changes
from export.measure.ranking import list_ranks, recall_and_mrr
from export.network.mixture import AGES, CLOSED
from export.network.network import Network
from export.network.states import memories, outputs

NOTHING = "nothing"
"""Name of the row for the served lists, from which nothing is removed."""

SOURCES = {
    "the last items (network alone)": slice(None),
    "followers": slice(0, 1),
    "neighbours": slice(1, 1 + 2 * AGES),
    "repeats": slice(1 + 2 * AGES, None),
}
"""Component of the mixture -> its columns in the gates."""

SCORED = 1 << 28
"""Largest number of scores for one part: about 4 s on one core. So fewer clicks are judged if there are many items."""


def ablations(network: Network, seen: Clicks, judged: I64, shift: F64) -> dict[str, dict[str, Any]]:
    """recall@20 and MRR@20 of the lists without each part, in full ranking.

    seen     the users of the held-out slice with all their clicks, as in production
    judged   (m,) rows of clicks that no gate was fitted on; their next click is the target. m = 0 returns {}
    shift    (V + 1,) nats, the recency correction that was added to the bias of the trained items
    returns  {name of the removed part: {judged, recall20, mrr20}}, first NOTHING. All but NOTHING also have change
             {measure: {mean, 95}}, from a paired bootstrap over sessions. An input with the same value at all clicks
             has no row, and neither has a shift of zeros
    """
    judged = drawn(judged, max(1, SCORED // network.sizes.items))
    if not len(judged):
        return {}

    remembered, target = memories(seen, judged, network.mixture.remembered), seen.target[judged]

    def states() -> Tensor:
        return outputs(network, Windows(seen), judged)

    served = states()
    ranks = {NOTHING: list_ranks(network, served, remembered, target)}
    for name, (part, without) in _list_parts(network, shift).items():
        with temporarily(part, without):
            ranks[name] = list_ranks(network, served, remembered, target)
    for name, rows in _inputs(network, seen).items():
        with temporarily(rows, torch.zeros_like(rows)):
            ranks[name] = list_ranks(network, states(), remembered, target)

    session = np.cumsum(session_starts(seen), dtype=np.int32)[judged]
    found: dict[str, dict[str, Any]] = {}
    for name, rank in ranks.items():
        recall, mrr = recall_and_mrr(rank)
        found[name] = {"judged": len(judged), "recall20": recall, "mrr20": mrr}
    for name, change in changes(ranks, session).items():
        found[name]["change"] = change
    return found


def _list_parts(network: Network, shift: F64) -> dict[str, tuple[Tensor, Tensor]]:
    """The parts that do not change the states: name -> (the tensor with the part, its values without the part)."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    gates = network.mixture.gates
    for name, columns in SOURCES.items():
        closed = gates.clone()
        closed[:, columns] = 0.0
        closed[0, columns] = CLOSED
        found[name] = gates, closed
    if shift.any():
        bias = network.item_bias.detach().clone()
        trained = len(shift) - 1  # cold items follow in the bias, without a correction
        bias[:trained] -= torch.from_numpy(shift[:trained]).float()
        found["the shift of popularity"] = network.item_bias, bias
    return found


def _inputs(network: Network, seen: Clicks) -> dict[str, Tensor]:
    """The inputs of the states other than the items: name -> its rows. An input with one value is left out."""
    found: dict[str, Tensor] = {}
    if len(np.unique(seen.event_type)) > 1:
        found["event types"] = network.event_rows
    if len(np.unique(seen.gap[~session_starts(seen)])) > 1:  # without times all gaps within sessions are equal
        found["time gaps"] = network.gap_rows
    return found


@contextmanager
def temporarily(tensor: Tensor, values: Tensor) -> Iterator[None]:
    """Give the tensor these values inside the `with` block, and its own values afterwards."""
    own = tensor.detach().clone()
    tensor.data.copy_(values)
    try:
        yield
    finally:
        tensor.data.copy_(own)
