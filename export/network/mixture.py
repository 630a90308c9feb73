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

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from export.dataset.cooccurrence import NEIGHBOURS, NEW_SESSION, Counted, Neighbours
from export.log.log import GAP_EDGES_MS
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

SAME_SESSION = torch.zeros(len(GAP_EDGES_MS) + 2, dtype=torch.int32)
"""1 for the gap buckets of a click that continues the session, 0 for the others."""
SAME_SESSION[1:NEW_SESSION] = 1

POSITIONS = 5
"""The newest items whose clicks in the session give the position in it."""

FEATURES = 7
CLOSED = -20.0
"""Logit of a closed gate: a weight of 2e-9."""

TINY = 1e-30
LANES = 16
COPIES = 4
"""Of each value of a batch, whose size is a multiple of 4: together they are a multiple of LANES."""


def remember(item: Tensor, gap: Tensor, recent: Tensor, session: Tensor) -> tuple[Tensor, Tensor]:
    """The memory after a click: item (B,), gap (B,) integers; recent and session (B, R) int32, before and after it.

    The item moves to the front, and the items that were newer than it move back by one. So a user who clicks a few
    items many times keeps the other items in the memory. Items of this session are always in front of older ones.
    """
    newest = (item + 1).to(torch.int32).unsqueeze(1)
    same = (recent == newest).to(torch.int32)
    newer = torch.cumsum(same, dim=1) == same
    before = session_before(gap, session)
    count = torch.clamp((before * same).sum(dim=1, keepdim=True, dtype=torch.int32) + 1, max=MOST_CLICKS)

    def moved(front: Tensor, places: Tensor) -> Tensor:
        return torch.where(newer, torch.cat([front, places[:, :-1]], dim=1), places)

    return moved(newest, recent), moved(count, before)


def session_before(gap: Tensor, session: Tensor) -> Tensor:
    """`session` (B, R) int32 just before a click with this gap (B,): zeros if the click begins a session."""
    return session * SAME_SESSION[gap.to(torch.int64).unsqueeze(1)]  # uint8 would be a mask


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
    # The other buffers are constants, which are not stored.
    counted_in: Tensor  # (R, 2) 1.0 where a remembered item is in one of the two sources by count
    feature_of: Tensor  # (POSITIONS + 2, F)
    feature_bias: Tensor  # (F,)
    age_of: Tensor  # (S,) int64, the age on which a source depends, in this session; A + age, in an older one
    merged: Tensor  # (S, 1 + A + R + 2)
    limit: Tensor  # (1,) MAX_WEIGHT

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
        ages = list(range(AGES))
        older = [AGES + age for age in ages]
        feature_of = torch.zeros(POSITIONS + 2, FEATURES)
        # The session's items are in front: 1 - 0 where they end, at 0, 1, 2, 3 or 4 items, and 0 elsewhere.
        feature_of[[0, 1, 2, 0, 1, 2, 4], [2, 3, 4, 1, 2, 3, 4]] = torch.tensor([1.0, 1, 1, -1, -1, -1, -1])
        feature_of[[POSITIONS, POSITIONS + 1], [FEATURES - 2, FEATURES - 1]] = 1.0
        for name, constant in (
            ("counted_in", counted_in),
            ("feature_of", feature_of),
            ("feature_bias", torch.tensor([1.0, 1.0] + [0.0] * (FEATURES - 2))),
            ("age_of", torch.tensor([0, *ages, *older, *ages, *older, 0, 1])),
            ("merged", _merged(remembered)),
            ("limit", torch.tensor([MAX_WEIGHT])),
        ):
            self.register_buffer(name, constant, persistent=False)

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
        popular = self.popularity[recent[:, :1]]
        now = torch.clamp(session.to(popular.dtype), max=1)
        return torch.addmm(
            self.feature_bias, torch.cat([now[:, :POSITIONS], popular, popular * popular], dim=1), self.feature_of
        )

    def by_count(self, session: Tensor) -> tuple[Tensor, Tensor]:
        """session (B, R) -> the clicks of each item as float32 (B, R), and their sums (B, 2) in the sources by count.

        The sums are exact, so no order of addition changes them. A sum of 0 is 1 here, because it divides.
        """
        clicks = session.to(self.counted_in.dtype)
        return clicks, torch.clamp(torch.matmul(clicks, self.counted_in), min=1)

    def sources(self, recent: Tensor, session: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S) 1.0 for each source that exists, else 0.0; and (B, S) the sum of its shares over all items.

        Sources of the ages beyond the last item exist, but have no shares.
        """
        clicks, sums = self.by_count(session)
        newest, known = recent[:, :AGES], self.known[recent]
        now = torch.clamp(clicks, max=1)[:, :AGES]
        near, following, itself = self.near_mass[newest], self.following_mass[newest[:, :1]], known[:, :AGES]
        counted = torch.matmul(clicks * known, self.counted_in) / sums
        present = torch.index_select(torch.cat([now, 1 - now], dim=1), 1, self.age_of)
        return present, present * torch.cat([following, near, near, itself, itself, counted], dim=1)

    def weights(self, features: Tensor, present: Tensor, share_sums: Tensor) -> tuple[Tensor, Tensor]:
        """The weight of each source (B, S), and the weight of the network (B, 1)."""
        return self.limited(*self.gated(features, present, share_sums))

    def gated(self, features: Tensor, present: Tensor, share_sums: Tensor) -> tuple[Tensor, Tensor]:
        """The weight of each source (B, S) by its gate alone, and their total probability (B, 1), without a limit."""
        # Not ONNX Runtime's sigmoid: it has an error of 1e-7, too large for a small gate.
        weights = present / (1 + torch.exp(torch.matmul(features, -self.gates)))
        return weights, self.total(weights * share_sums)

    def limited(self, weights: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """The weights (B, S), scaled to a total probability of at most MAX_WEIGHT; and the network's weight (B, 1)."""
        scale = self.limit / torch.clamp(total, min=MAX_WEIGHT)
        return weights * scale, 1 - total * scale

    def total(self, values: Tensor) -> Tensor:
        """The sum over the sources, (B, S) -> (B, 1).

        It uses a matrix product instead of a sum: the result of ONNX Runtime's sum depends on where a row is in memory.
        """
        return torch.matmul(values, self.ones)[:, :1]

    def shares_of(self, item: Tensor, recent: Tensor, session: Tensor) -> Tensor:
        """The share that each source gives to item (B,) int64: (B, S). The shares of the unknown item are 0."""
        wanted, newest = item.to(recent.dtype).unsqueeze(1), recent[:, :AGES]
        is_near = self.near_items[newest] == wanted.unsqueeze(2)
        near = torch.where(is_near, self.near_share[newest], 0.0).sum(dim=2)
        follows = self.following_items[recent[:, 0]] == wanted
        following = torch.where(follows, self.following_share[recent[:, 0]], 0.0).sum(dim=1, keepdim=True)
        itself = torch.where(recent == wanted + 1, self.known[recent], 0.0)
        clicks, sums = self.by_count(session)
        counted = torch.matmul(clicks * itself, self.counted_in) / sums
        return torch.cat([following, near, near, itself[:, :AGES], itself[:, :AGES], counted], dim=1)

    def surprise(self, network: Tensor, item: Tensor, recent: Tensor, session: Tensor) -> Tensor:
        """The network's probability (B, 1) of the clicked item (B,) -> the mixture's surprise (B,), nats.

        recent, session  the memory before the click; `session` as `session_before` returns it
        """
        weights, left = self.weights(self.features(recent, session), *self.sources(recent, session))
        added = torch.matmul(weights * self.shares_of(item, recent, session), self.ones)  # as `total`, in all lanes
        return -torch.log(torch.clamp(left * network + added, min=TINY))[:, 0]  # as `log`

    def log_probs(self, logits: Tensor, recent: Tensor, session: Tensor) -> Tensor:
        """The network's calibrated logits (B, V) -> log-probabilities (B, V) of the next item, nats."""
        return torch.log(self.mixed(logits, recent, session) + TINY)

    def mixed(self, logits: Tensor, recent: Tensor, session: Tensor) -> Tensor:
        """The network's calibrated logits (B, V) -> probabilities (B, V) of the next item."""
        items, added, left = self.additions(recent, session)
        return torch.softmax(logits, dim=1).scatter_add(1, items, added) * left

    def additions(self, recent: Tensor, session: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the sources add: items (B, N) int64, an item may occur twice, their probabilities (B, N), divided by the
        weight of the network; and this weight (B, 1)."""
        weights, left = self.weights(self.features(recent, session), *self.sources(recent, session))
        merged = torch.matmul(weights / left, self.merged)  # exact: a sum of two weights, of which one is 0
        following, of_near, of_itself, counted = merged.split([1, AGES, self.remembered, 2], dim=1)  # type: ignore[no-untyped-call]
        newest, last = recent[:, :AGES], recent[:, 0]
        items = [
            self.following_items[last],
            self.near_items[newest].view(-1, AGES * NEIGHBOURS),
            torch.clamp(recent - 1, min=0, max=len(self.clicks) - 1),
        ]
        near = self.near_share[newest] * of_near.unsqueeze(2)
        clicks, sums = self.by_count(session)
        by_count = clicks * torch.matmul(counted / sums, self.counted_in.t())
        added = [
            self.following_share[last] * following,
            near.view(-1, AGES * NEIGHBOURS),
            self.known[recent] * (of_itself + by_count),
        ]
        return torch.cat(items, dim=1).to(torch.int64), torch.cat(added, dim=1), left


def _merged(remembered: int) -> Tensor:
    """(S, 1 + A + R + 2), 1.0 where a source gives to the followers, to the neighbours by age, to the items themselves,
    and to those by count."""
    one, counted = torch.eye(AGES), torch.eye(2)
    itself = pad(one, (0, remembered - AGES))
    parts = torch.ones(1, 1), torch.cat([one, one]), torch.cat([itself, itself]), counted
    return cast(Tensor, torch.block_diag(*parts))  # type: ignore[no-untyped-call]


def log(probability: Tensor) -> Tensor:
    """Natural logarithm, whose bits do not depend on the position of a value in the batch.

    ONNX Runtime computes some logarithms at a time, and the rest with another formula: 4 in its packages for x86-64
    (version 1.32), up to LANES where it is built for wider vectors. So each value is repeated until there is no rest.
    """
    copies = torch.ones(COPIES, dtype=probability.dtype, device=probability.device)
    return torch.log(torch.clamp(probability, min=TINY).unsqueeze(-1) * copies).select(-1, 0)
