"""A straightforward GRU4Rec loop in PyTorch: the rival of bench/training_speed.py.

Session-parallel minibatches (Hidasi et al. 2016: a lane whose session ends continues with the next session, with a
reset state), nn.GRU, cross-entropy over all items, dense Adam.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from export.arrays import I64, Flags
from export.dataset.windows import Clicks
from export.measure.metrics import K

LANES, RATE, DROPOUT = 128, 3e-3, 0.2
"""The best of six settings, compared on 40,000 clicks as in bench/training_speed.py (64 to 256 lanes, rates 1e-3 to
3e-3)."""


class PlainGru4Rec(nn.Module):
    """Item embedding, dropout, GRU, dropout, one logit for each item."""

    def __init__(self, items: int, hidden: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(items + 1, hidden)  # the last row is the unknown item; only held-out clicks contain it
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.drop = nn.Dropout(DROPOUT)
        self.logits = nn.Linear(hidden, items)

    def forward(self, item: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """item (B, T) int64, state (1, B, H) -> inputs of the last layer (B, T, H), new state (1, B, H)."""
        out, state = self.gru(self.drop(self.rows(item)), state)
        return self.drop(out), state


class LaneStep(NamedTuple):
    """One minibatch of B lanes: item (B,), next item (B,), and (B,) bool, True where a session begins."""

    item: I64
    target: I64
    begins: Flags


def session_parallel(item: I64, starts: I64, lanes: int) -> Iterator[LaneStep]:
    """The minibatches of one epoch, from sessions of at least two clicks in parallel lanes.

    The epoch ends when a lane needs a further session and none is left.

    item    (n,) int64, items of all sessions, concatenated
    starts  (s + 1,) int64, start of each session in item, and the end of the last one
    """
    sessions = np.flatnonzero(np.diff(starts) > 1)
    lanes = min(lanes, len(sessions))
    at, end = starts[sessions[:lanes]].copy(), starts[sessions[:lanes] + 1]
    begins = np.ones(lanes, np.bool_)
    following = lanes
    while True:
        yield LaneStep(item[at], item[at + 1], begins)
        at = at + 1
        begins = at + 1 >= end
        wanted = int(begins.sum())
        if following + wanted > len(sessions):
            return
        taken = sessions[following : following + wanted]
        at[begins], end[begins] = starts[taken], starts[taken + 1]
        following += wanted


def plain_epochs(
    train: Clicks, later: Clicks, items: int, hidden: int, seed: int
) -> tuple[Callable[[], object], Callable[[], tuple[float, float]]]:
    """Functions of the rival: train one epoch; evaluate (recall@20, MRR@20)."""
    torch.manual_seed(seed)
    network = PlainGru4Rec(items, hidden)
    adam = torch.optim.Adam(network.parameters(), RATE)
    item, starts = in_session_order(train)

    def epoch() -> None:
        network.train()
        state = torch.zeros(1, LANES, hidden)
        for step in session_parallel(item, starts, LANES):
            state = state[:, : len(step.item)] * torch.from_numpy(~step.begins).view(1, -1, 1)
            out, state = network(torch.from_numpy(step.item).unsqueeze(1), state.detach())
            loss = nn.functional.cross_entropy(network.logits(out.squeeze(1)), torch.from_numpy(step.target))
            adam.zero_grad()
            loss.backward()
            adam.step()

    return epoch, lambda: plain_quality(network, later)


def in_session_order(clicks: Clicks) -> tuple[I64, I64]:
    """Items (n,) with the sessions ordered by start time, and the start of each session in them (s + 1,)."""
    first = np.flatnonzero(np.append(True, clicks.user[1:] != clicks.user[:-1]))
    lengths = np.diff(np.append(first, len(clicks)))
    order = np.argsort(clicks.time_ms[first], kind="stable")
    rows = np.concatenate([np.arange(first[s], first[s] + lengths[s]) for s in order])
    return clicks.item[rows].astype(np.int64), np.append(0, np.cumsum(lengths[order]))


@torch.no_grad()
def plain_quality(network: PlainGru4Rec, clicks: Clicks) -> tuple[float, float]:
    """recall@20 and MRR@20 over all next clicks, defined as in export.measure.ranking.ranking_quality."""
    network.eval()
    item, starts = in_session_order(clicks)
    items = network.logits.out_features
    hits = reciprocal = 0.0
    judged = 0
    for first, last in pairwise(starts):
        if last - first < 2:
            continue
        session = torch.from_numpy(item[first:last])
        out, _ = network(session[:-1].unsqueeze(0), torch.zeros(1, 1, network.gru.hidden_size))
        target = session[1:]
        known = target < items
        scores, target = network.logits(out[0][known]), target[known].unsqueeze(1)
        own = scores.gather(1, target)
        lower = torch.arange(items).unsqueeze(0) < target
        rank = 1 + ((scores > own) | ((scores == own) & lower)).sum(1)
        hit = rank <= K
        hits, reciprocal = hits + float(hit.sum()), reciprocal + float((hit / rank).sum())
        judged += int(last - first - 1)
    return hits / judged, reciprocal / judged
