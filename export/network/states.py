"""Windows of clicks -> states of the network and mixture memories at chosen clicks, users from a zero state."""

import numpy as np
import torch
from torch import Tensor

from export.arrays import I32, I64
from export.dataset.windows import Batch, Clicks, Windows
from export.network.mixture import remember
from export.network.network import Network


class CarriedStates:
    """Cell states between the windows of one user: the last state of a window is the first state of the next.

    Row 0 stays zeros; windows that continue no other window start from it.
    """

    def __init__(self, network: Network, windows: Windows) -> None:
        zeros = network.cell.zero_state(windows.carried + 1)
        self._parts = tuple(part.to(network.device) for part in zeros)

    def take(self, batch: Batch) -> tuple[Tensor, ...]:
        """First state of each window of the batch, (B, H) for each tensor of the cell."""
        index = torch.from_numpy(batch.carry)
        return tuple(part[index] for part in self._parts)

    def leave(self, batch: Batch, last: tuple[Tensor, ...]) -> None:
        """Store `last`, (B, H) each: the state after the batch's last column.

        A window that another one continues has the full length, so its last click is in that column.
        """
        to = torch.from_numpy(batch.leave)
        for kept, value in zip(self._parts, last, strict=True):
            kept[to] = value.detach()
            kept[0] = 0.0


@torch.no_grad()
def outputs(network: Network, windows: Windows, rows: I64, tokens: int = 8192) -> Tensor:
    """Input of the heads after the clicks at `rows`; users start from a zero state.

    rows     (m,) int64, ascending, without duplicates; request only the rows you need, because states are large
    tokens   maximum clicks per batch
    returns  (m, H) float32 on the network's device
    """
    clicks, out = windows.clicks, torch.empty(len(rows), network.sizes.hidden, device=network.device)
    carried = CarriedStates(network, windows)
    for batch in windows.in_order(tokens, rows):
        ids = (part.to(network.device) for part in clicks.inputs(batch.rows))
        values, last = network.cell.sequence(network.embed(*ids), carried.take(batch))
        carried.leave(batch, last)
        index = np.searchsorted(rows, batch.rows).clip(max=len(rows) - 1)
        wanted = batch.real & (rows[index] == batch.rows)
        out[torch.from_numpy(index[wanted])] = network.output(values[torch.from_numpy(wanted)])
    return out


def memories(clicks: Clicks, rows: I64, remembered: int) -> tuple[I32, I32]:
    """Mixture memory of R = `remembered` items after the clicks at rows (m,) int64: recent and session (m, R) int32.

    Users start with an empty memory. The users of these clicks are processed in parallel, one click of each per step.
    """
    begins = np.flatnonzero(np.append(True, clicks.user[1:] != clicks.user[:-1]))
    users, lane = np.unique(np.searchsorted(begins, rows, "right") - 1, return_inverse=True)
    ordinal = rows - begins[users][lane]
    clicks_of = np.zeros(len(users), np.int64)
    np.maximum.at(clicks_of, lane, ordinal + 1)
    longest_first = np.argsort(-clicks_of, kind="stable")
    begin, clicks_of = begins[users[longest_first]], clicks_of[longest_first]
    lane = np.argsort(longest_first)[lane]
    found = np.zeros((len(rows), remembered), np.int32), np.zeros((len(rows), remembered), np.int32)
    recent, session = (torch.zeros(len(users), remembered, dtype=torch.int32) for _ in found)
    by_ordinal = np.argsort(ordinal, kind="stable")
    bound = np.searchsorted(ordinal[by_ordinal], np.arange(clicks_of.max(initial=0) + 1))
    for number in range(clicks_of.max(initial=0)):
        active = int(np.searchsorted(-clicks_of, -number))  # the first users have more than `number` clicks
        item, gap = (torch.from_numpy(column[begin[:active] + number]) for column in (clicks.item, clicks.gap))
        recent, session = remember(item, gap, recent[:active], session[:active])
        asked = by_ordinal[bound[number] : bound[number + 1]]
        found[0][asked], found[1][asked] = recent[lane[asked]].numpy(), session[lane[asked]].numpy()
    return found
