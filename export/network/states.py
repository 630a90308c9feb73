"""Clicks in windows -> the network's states: carried from window to window, read by the heads, and remembered items."""

import numpy as np
import torch
from torch import Tensor

from export.arrays import I32, I64
from export.dataset.windows import Batch, Clicks, Windows
from export.network.mixture import REMEMBERED, remember
from export.network.network import Network


class CarriedStates:
    """The state each window left for the one that continues it: zeros where there is none yet."""

    def __init__(self, network: Network, windows: Windows) -> None:
        zeros = network.cell.zero_state(windows.carried + 1)
        self._parts = tuple(part.to(network.device) for part in zeros)

    def take(self, batch: Batch) -> tuple[Tensor, ...]:
        index = torch.from_numpy(batch.carry)
        return tuple(part[index] for part in self._parts)

    def leave(self, batch: Batch, last: tuple[Tensor, ...]) -> None:
        """`last` is the state after the batch's last column, which is where a window that is continued ends."""
        to = torch.from_numpy(batch.leave)
        for kept, value in zip(self._parts, last, strict=True):
            kept[to] = value.detach()
            kept[0] = 0.0


@torch.no_grad()
def outputs(network: Network, windows: Windows, rows: I64, tokens: int = 8192) -> Tensor:
    """(m, H) float32: what the heads read after the clicks at rows (m,), users from a zero state.

    rows     ascending, without repeats: a state is large, so ask for those that are needed
    returns  on the network's device
    """
    clicks, out = windows.clicks, torch.empty(len(rows), network.sizes.hidden, device=network.device)
    carried = CarriedStates(network, windows)
    for batch in windows.in_order(tokens, rows):
        ids = (part.to(network.device) for part in clicks.inputs(batch.rows))
        values, last = network.cell.sequence(network.embed(*ids), carried.take(batch))
        carried.leave(batch, last)
        place = np.searchsorted(rows, batch.rows).clip(max=len(rows) - 1)
        wanted = batch.real & (rows[place] == batch.rows)
        out[torch.from_numpy(place[wanted])] = network.output(values[torch.from_numpy(wanted)])
    return out


def memories(clicks: Clicks, rows: I64) -> tuple[I32, I32]:
    """What the state remembers after the clicks at rows (m,), users from nothing: recent (m, R), visit (m, 1).

    The users who have such a click are walked through side by side, one click of each at a time.
    """
    begins = np.flatnonzero(np.append(True, clicks.user[1:] != clicks.user[:-1]))
    users, lane = np.unique(np.searchsorted(begins, rows, "right") - 1, return_inverse=True)
    place = rows - begins[users][lane]
    clicks_of = np.zeros(len(users), np.int64)
    np.maximum.at(clicks_of, lane, place + 1)
    longest_first = np.argsort(-clicks_of, kind="stable")
    begin, clicks_of = begins[users[longest_first]], clicks_of[longest_first]
    lane = np.argsort(longest_first)[lane]
    found = np.zeros((len(rows), REMEMBERED), np.int32), np.zeros((len(rows), 1), np.int32)
    recent, visit = (torch.zeros(len(users), part.shape[1], dtype=torch.int32) for part in found)
    by_place = np.argsort(place, kind="stable")
    bound = np.searchsorted(place[by_place], np.arange(clicks_of.max(initial=0) + 1))
    for number in range(clicks_of.max(initial=0)):
        there = int(np.searchsorted(-clicks_of, -number))  # the first ones have more than `number` clicks
        item, gap = (torch.from_numpy(column[begin[:there] + number]) for column in (clicks.item, clicks.gap))
        recent, visit = remember(item, gap, recent[:there], visit[:there])
        asked = by_place[bound[number] : bound[number + 1]]
        found[0][asked], found[1][asked] = recent[lane[asked]].numpy(), visit[lane[asked]].numpy()
    return found
