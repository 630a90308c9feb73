"""The mixture: p(item) = (1 - w) p_network(item) + co-occurrence and repeat components of the user's last items.

Each remembered item gives probability to itself (a repeat) and to the items that were clicked near it in other sessions
(its neighbours). The weights come from one gate per component and age of the item; repeats also have gates that share
their weight among the session's items in proportion to the clicks on each. The inputs of the gates are the position in
the session and the popularity of the newest item. The gates are fitted on held-out clicks (fit/gates.py); the
neighbours are counted, not learned. So a rare item can be recommended after about three clicks on it; the network
alone needs hundreds. The rule: the mixture is a normalised distribution, the same in score.onnx (list) and
surprise.onnx.

Sources: co-occurrence and session neighbours as in Ludewig & Jannach 2018; repeats as in Ren et al. 2019 (RepeatNet);
mixtures with counted distributions as in Jelinek & Mercer 1980.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from export.dataset.cooccurrence import NEIGHBOURS, NEW_SESSION, Counted, Neighbours
from stream.manifest import Tensor as StateTensor

AGES = 8
"""A, the newest items of the memory that have sources of their own. Measured on three sparse logs: 5 to 24 hardly
differ."""

REMEMBERED = (AGES, 12, 16, 24)
"""What R, the number of different items in the memory, can be. A training takes what its log needs (fit/mixture.py)."""

MAX_WEIGHT = 0.95
"""Maximum weight of all components together; the rest is the weight of the network."""

STATE = ("last_items", "visit_clicks")
"""The memory: two tensors (R,) int32 of the user's state.

last_items    `recent` below: item + 1 of the last different items, newest first; 0 = none
visit_clicks  `session` below: how often each of them was clicked in the current session; 0 = in an earlier one
"""

MOST_CLICKS = 65_535
"""Largest count in `visit_clicks`: sums of R counts are then exact in float32."""

FEATURES = 7
CLOSED = -20.0
"""Logit of a closed gate: a weight of 2e-9."""

TINY = 1e-30
LANES = 16


def remember(item: Tensor, gap: Tensor, recent: Tensor, session: Tensor) -> tuple[Tensor, Tensor]:
    """The memory after a click: item (B,), gap (B,) integers; recent and session (B, R) int32, before and after it.

    The item moves to the front, and the items that were newer than it move back by one. So a user who clicks a few
    items many times keeps the other items in the memory. Items of this session are always in front of older ones.
    """
    newest = (item + 1).to(torch.int32).unsqueeze(1)
    same = (recent == newest).to(torch.int32)
    newer = torch.cumsum(same, dim=1) - same == 0
    before = session_before(gap, session)
    count = torch.clamp((before * same).sum(dim=1, keepdim=True, dtype=torch.int32) + 1, max=MOST_CLICKS)

    def moved(front: Tensor, places: Tensor) -> Tensor:
        return torch.where(newer, torch.cat([front, places[:, :-1]], dim=1), places)

    return moved(newest, recent), moved(count, before)


def session_before(gap: Tensor, session: Tensor) -> Tensor:
    """`session` (B, R) int32 just before a click with this gap (B,): zeros if the click begins a session."""
    begins = ((gap == 0) | (gap >= NEW_SESSION)).unsqueeze(1)
    return torch.where(begins, torch.zeros_like(session), session)


class Mixture(nn.Module):
    """Mixes the network's distribution with S sources. A source gives each item a share, with a sum of at most 1.

    The tables of neighbours are counted. The gates, and the network's temperature and bias weight, are fitted.

    The sources in order: 1 for the followers of the newest item; A for the neighbours of this session's items, by age;
    A for the neighbours of older items; A for this session's items themselves; A for older items themselves; 2 for all
    remembered items of this session in proportion to their clicks, with and without the newest item (a log without
    repeated rows never has it twice in succession). Only the A newest items have sources by age, so the number of
    sources does not depend on R.
    """

    following_items: Tensor  # (V + 2, K) int32
    following_share: Tensor  # (V + 2, K)
    following_mass: Tensor  # (V + 2,) sums of the shares
    following_total: Tensor  # (V + 2,) as `clicks`, only for a training that starts from the model; in no graph
    near_items: Tensor
    near_share: Tensor
    near_mass: Tensor
    near_total: Tensor
    clicks: Tensor  # (V,) training clicks of each item
    popularity: Tensor  # (V + 2,) log of the training clicks, shifted and scaled to about -1 .. 2
    known: Tensor  # (V + 2,) 1.0 for items, 0.0 for none and unknown
    gates: Tensor  # (F, S)
    temperature: Tensor  # (1,)
    bias_weight: Tensor  # (1,)
    ones: Tensor  # (S, LANES)
    counted_in: Tensor  # (R, 2) 1.0 where a remembered item is in one of the two sources by count; not stored

    def __init__(self, counted: Counted, remembered: int = AGES) -> None:
        """All gates start closed.

        remembered  R, one of REMEMBERED
        """
        super().__init__()
        self.remembered = remembered
        counts = counted.clicks
        for name, table in (("following", counted.following), ("near", counted.near)):
            self.register_buffer(f"{name}_items", torch.tensor(table.items))
            self.register_buffer(f"{name}_share", torch.tensor(table.share))
            self.register_buffer(f"{name}_mass", torch.from_numpy(table.share.sum(axis=1)))
            self.register_buffer(f"{name}_total", torch.tensor(table.total))
        self.register_buffer("clicks", torch.from_numpy(counts).float())
        popularity = (np.log(np.maximum(1.0, np.pad(counts, 1, constant_values=1.0))) - 3) / 3
        self.register_buffer("popularity", torch.from_numpy(popularity).float())
        self.register_buffer("known", torch.from_numpy(np.pad(np.ones(len(counts)), 1)).float())
        gates = torch.zeros(FEATURES, 3 + 4 * AGES)
        gates[0] = CLOSED
        self.register_buffer("gates", gates)
        self.register_buffer("temperature", torch.ones(1))
        self.register_buffer("bias_weight", torch.ones(1))
        self.register_buffer("ones", torch.ones(gates.shape[1], LANES))
        counted_in = torch.ones(remembered, 2)
        counted_in[0, 1] = 0.0
        self.register_buffer("counted_in", counted_in, persistent=False)

    @property
    def counted(self) -> Counted:
        """The co-occurrence counts from which the mixture was made."""
        following = Neighbours(
            *(part.numpy() for part in (self.following_items, self.following_share, self.following_total))
        )
        near = Neighbours(*(part.numpy() for part in (self.near_items, self.near_share, self.near_total)))
        return Counted(following, near, self.clicks.numpy().astype(np.float64))

    @property
    def state(self) -> tuple[StateTensor, ...]:
        """The memory as tensors of the user's state."""
        return tuple(StateTensor(name, (self.remembered,), "int32") for name in STATE)

    def features(self, recent: Tensor, session: Tensor) -> Tensor:
        """Inputs of the gates, (B, F) float32: 1, position in the session (one-hot), popularity of the newest item."""
        popular = torch.index_select(self.popularity, 0, recent[:, 0].to(torch.int64)).unsqueeze(1)
        one = torch.ones_like(popular)
        # The session's items are in front: 1 - 0 where they end, at 0, 1, 2, 3 or 4 items, and 0 elsewhere.
        now = (session[:, :5] > 0).to(popular.dtype)
        ends = torch.cat([one, now[:, :3]], dim=1) - torch.cat([now[:, :3], now[:, 4:]], dim=1)
        return torch.cat([one, ends, popular, popular * popular], dim=1)

    def of_known(self, index: Tensor) -> Tensor:
        """index (B, R) of memory entries -> (B, R): 1.0 for a known item, 0.0 for none and for the unknown item."""
        return torch.index_select(self.known, 0, index.flatten()).view(index.shape)

    def by_count(self, session: Tensor) -> tuple[Tensor, Tensor]:
        """session (B, R) -> the clicks of each item as float32 (B, R), and their sums (B, 2) in the sources by count.

        The sums are exact, so no order of addition changes them. A sum of 0 is 1 here, because it divides.
        """
        clicks = session.to(self.counted_in.dtype)
        return clicks, torch.clamp(torch.matmul(clicks, self.counted_in), min=1)

    def sources(self, recent: Tensor, session: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) 1.0 for each source that exists, else 0.0; and (B, S) the sum of its shares over all items."""
        index = recent.to(torch.int64)
        known = self.of_known(index)
        newest = index[:, :AGES]
        now, older = session[:, :AGES] > 0, (newest > 0) & (session[:, :AGES] == 0)
        near = torch.index_select(self.near_mass, 0, newest.flatten()).view(newest.shape)
        following = torch.index_select(self.following_mass, 0, index[:, 0]).unsqueeze(1)
        itself = known[:, :AGES]
        clicks, sums = self.by_count(session)
        counted = torch.matmul(clicks * known, self.counted_in) / sums
        present = torch.cat([now[:, :1], now, older, now, older, now[:, :2]], dim=1).to(near.dtype)
        return present, present * torch.cat([following, near, near, itself, itself, counted], dim=1)

    def weights(self, features: Tensor, present: Tensor, share_sums: Tensor) -> tuple[Tensor, Tensor]:
        """The weight of each source (B, S), and the weight of the network (B, 1)."""
        return self.limited(*self.gated(features, present, share_sums))

    def gated(self, features: Tensor, present: Tensor, share_sums: Tensor) -> tuple[Tensor, Tensor]:
        """The weight of each source (B, S) by its gate alone, and their total probability (B, 1), without a limit."""
        gates = torch.matmul(features, self.gates).unsqueeze(2)
        # A sigmoid as a softmax of two values: ONNX Runtime's sigmoid has an error of 1e-7, too large for a small gate.
        weights = torch.softmax(torch.cat([gates, torch.zeros_like(gates)], dim=2), dim=2).select(2, 0) * present
        return weights, self.total(weights * share_sums)

    def limited(self, weights: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """The weights (B, S), scaled to a total probability of at most MAX_WEIGHT; and the network's weight (B, 1)."""
        scale = MAX_WEIGHT / torch.clamp(total, min=MAX_WEIGHT)
        return weights * scale, 1 - total * scale

    def total(self, values: Tensor) -> Tensor:
        """The sum over the sources, (B, S) -> (B, 1).

        It uses a matrix product instead of a sum: the result of ONNX Runtime's sum depends on where a row is in memory.
        """
        return torch.matmul(values, self.ones)[:, :1]

    def shares_of(self, item: Tensor, recent: Tensor, session: Tensor) -> Tensor:
        """The share that each source gives to item (B,) int64: (B, S). The shares of the unknown item are 0."""
        index = recent.to(torch.int64)
        newest, wanted = index[:, :AGES], item.view(-1, 1, 1)
        is_near = torch.index_select(self.near_items, 0, newest.flatten()).view(*newest.shape, -1) == wanted
        share = torch.index_select(self.near_share, 0, newest.flatten()).view(*newest.shape, -1)
        near = (share * is_near.to(share.dtype)).sum(dim=2)
        follows = torch.index_select(self.following_items, 0, index[:, 0]) == item.unsqueeze(1)
        share = torch.index_select(self.following_share, 0, index[:, 0])
        following = (share * follows.to(share.dtype)).sum(dim=1, keepdim=True)
        itself = (index == item.unsqueeze(1) + 1).to(share.dtype) * self.of_known(index)
        clicks, sums = self.by_count(session)
        counted = torch.matmul(clicks * itself, self.counted_in) / sums
        return torch.cat([following, near, near, itself[:, :AGES], itself[:, :AGES], counted], dim=1)

    def surprise(self, network: Tensor, item: Tensor, recent: Tensor, session: Tensor) -> Tensor:
        """The network's probability (B,) of the clicked item (B,) -> the mixture's surprise (B,), nats.

        recent, session  the memory before the click; `session` as `session_before` returns it
        """
        weights, left = self.weights(self.features(recent, session), *self.sources(recent, session))
        added = self.total(weights * self.shares_of(item, recent, session))
        return -log((left * network.unsqueeze(1) + added).squeeze(1))

    def log_probs(self, logits: Tensor, recent: Tensor, session: Tensor) -> Tensor:
        """The network's calibrated logits (B, V) -> log-probabilities (B, V) of the next item, nats."""
        return torch.log(self.mixed(logits, recent, session) + TINY)

    def mixed(self, logits: Tensor, recent: Tensor, session: Tensor) -> Tensor:
        """The network's calibrated logits (B, V) -> probabilities (B, V) of the next item."""
        items, added, left = self.additions(recent, session)
        return (torch.softmax(logits, dim=1) * left).scatter_add(1, items, added)

    def additions(self, recent: Tensor, session: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the sources add: items (B, N) int64, an item may occur twice, their probabilities (B, N), and the weight
        of the network (B, 1)."""
        weights, left = self.weights(self.features(recent, session), *self.sources(recent, session))
        index, a = recent.to(torch.int64), AGES
        following, now, older, again, before, counted = weights.split([1, a, a, a, a, 2], dim=1)  # type: ignore[no-untyped-call]
        newest = index[:, :a].flatten()
        items = [
            torch.index_select(self.following_items, 0, index[:, 0]),
            torch.index_select(self.near_items, 0, newest).view(index.shape[0], a * NEIGHBOURS),
            torch.clamp(recent - 1, min=0, max=len(self.clicks) - 1),
        ]
        near = torch.index_select(self.near_share, 0, newest).view(index.shape[0], a, NEIGHBOURS)
        clicks, sums = self.by_count(session)
        by_count = clicks * torch.matmul(counted / sums, self.counted_in.t())
        repeats = pad(again + before, (0, self.remembered - a)) + by_count
        added = [
            torch.index_select(self.following_share, 0, index[:, 0]) * following,
            (near * (now + older).unsqueeze(2)).view(index.shape[0], a * NEIGHBOURS),
            self.of_known(index) * repeats,
        ]
        return torch.cat(items, dim=1).to(torch.int64), torch.cat(added, dim=1), left


def log(probability: Tensor) -> Tensor:
    """Natural logarithm, whose bits do not depend on the position of a value in the batch.

    ONNX Runtime computes 16 logarithms at a time, and the rest with another formula. So each value is repeated 16
    times.
    """
    lanes = (probability + TINY).unsqueeze(-1).expand(*probability.shape, LANES)
    return torch.log(lanes.contiguous()).select(-1, 0)
