"""What the network cannot learn from few clicks, beside it: p = (1 - m) p_network + what the user's last items bring.

Each remembered item adds a little mass m to itself (people come back to what they looked at) and to the items that
stood near it in other visits, by its age. How much is one gate per age, read from the place in the visit and the
item's popularity, and fitted on held-out clicks; the neighbours are counted, not learned. A rare item that a network
would need hundreds of clicks to place is so recommended from its third on. The rule: the mixture stays a normalised
distribution, the same one in score.onnx (the list) and step.onnx (the surprise).

Sources: co-occurrence and session neighbours as in Ludewig & Jannach 2018; repeats as in Ren et al. 2019 (RepeatNet);
mixtures with counted distributions as in Jelinek & Mercer 1980.
"""

import numpy as np
import torch
from torch import Tensor, nn

from export.dataset.cooccurrence import NEIGHBOURS, NEW_VISIT, Counted, Neighbours
from stream.manifest import Tensor as StateTensor

REMEMBERED = 8
"""Different items the state remembers for the mixture. Measured on three sparse logs: 5 to 24 hardly differ."""

MOST = 0.95
"""The largest mass the remembered items may take from the network."""

STATE = (StateTensor("last_items", (REMEMBERED,), "int32"), StateTensor("visit_items", (1,), "int32"))
"""last_items: item + 1, each once, the one clicked last first, 0 = none (`recent` below); visit_items: how many of them
are of the current visit, the first ones (`visit` below)."""

FEATURES = 7
CLOSED = -20.0
TINY = 1e-30
LANES = 16


def remember(item: Tensor, gap: Tensor, recent: Tensor, visit: Tensor) -> tuple[Tensor, Tensor]:
    """The memory after a click: item (B,), gap (B,) integers; recent (B, R), visit (B, 1) int32.

    The item comes first, those that were clicked since it was last move back by one. So a user who looks again and
    again at a few items does not push out the others.
    """
    newest = (item + 1).to(torch.int32).unsqueeze(1)
    same = recent == newest
    since = torch.cumsum(same.to(torch.int32), dim=1) - same.to(torch.int32) == 0
    so_far = visit_so_far(gap, visit)
    again = (same & (torch.arange(REMEMBERED, dtype=torch.int32) < so_far)).any(dim=1, keepdim=True)
    moved = torch.where(since, torch.cat([newest, recent[:, :-1]], dim=1), recent)
    return moved, torch.clamp(so_far + (~again).to(torch.int32), max=REMEMBERED)


def visit_so_far(gap: Tensor, visit: Tensor) -> Tensor:
    """How many remembered items are of the visit of a click with this gap, before the click, (B, 1) int32."""
    begins = ((gap == 0) | (gap >= NEW_VISIT)).unsqueeze(1)
    return torch.where(begins, torch.zeros_like(visit), visit)


class Mixture(nn.Module):
    """What S sources add for each user: the newest item's followers, and by age each item's neighbours and itself.

    The tables are counted. `gates` (F, S), and `temperature` and `bias_weight` (1,) of the network, are fitted on
    held-out clicks (fit/gates.py). Sources in order: followers; neighbours of this visit's items by age (R), of older
    ones (R); the items themselves of this visit (R), older ones (R).
    """

    following_items: Tensor  # (V + 2, K) int32
    following_share: Tensor  # (V + 2, K)
    following_mass: Tensor  # (V + 2,) sums of the shares
    following_total: Tensor  # (V + 2,) this and `clicks` serve no graph, but a training that starts from the model
    near_items: Tensor
    near_share: Tensor
    near_mass: Tensor
    near_total: Tensor
    clicks: Tensor  # (V,) training clicks of each item
    popularity: Tensor  # (V + 2,) log of the training clicks, shifted and scaled to about -1 .. 2
    known: Tensor  # (V + 2,) 1.0 for items, 0.0 for none and unknown
    ages: Tensor  # (R,) int32
    gates: Tensor  # (F, S)
    temperature: Tensor  # (1,)
    bias_weight: Tensor  # (1,)
    ones: Tensor  # (S, LANES)

    def __init__(self, counted: Counted) -> None:
        """All gates start closed."""
        super().__init__()
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
        self.register_buffer("ages", torch.arange(REMEMBERED, dtype=torch.int32))
        gates = torch.zeros(FEATURES, 1 + 4 * REMEMBERED)
        gates[0] = CLOSED
        self.register_buffer("gates", gates)
        self.register_buffer("temperature", torch.ones(1))
        self.register_buffer("bias_weight", torch.ones(1))
        self.register_buffer("ones", torch.ones(gates.shape[1], LANES))

    @property
    def counted(self) -> Counted:
        """What it was made from."""
        following = Neighbours(
            *(part.numpy() for part in (self.following_items, self.following_share, self.following_total))
        )
        near = Neighbours(*(part.numpy() for part in (self.near_items, self.near_share, self.near_total)))
        return Counted(following, near, self.clicks.numpy().astype(np.float64))

    def features(self, recent: Tensor, visit: Tensor) -> Tensor:
        """What the gates read, (B, F): place in the visit, and popularity of the newest item."""
        places = [visit == 0, visit == 1, visit == 2, (visit == 3) | (visit == 4)]
        popular = torch.index_select(self.popularity, 0, recent[:, 0].to(torch.int64)).unsqueeze(1)
        one = torch.ones_like(popular)
        return torch.cat([one, *(place.to(one.dtype) for place in places), popular, popular * popular], dim=1)

    def of_known(self, index: Tensor) -> Tensor:
        """1.0 for each known item, 0.0 for none and the unknown one: index (B, R) -> (B, R)."""
        return torch.index_select(self.known, 0, index.flatten()).view(index.shape)

    def masses(self, recent: Tensor, visit: Tensor) -> tuple[Tensor, Tensor]:
        """Which sources there are (B, S), 1.0 or 0.0, and the mass of each that is there (B, S)."""
        index = recent.to(torch.int64)
        there = index > 0
        now, older = there & (self.ages < visit), there & (self.ages >= visit)
        itself = self.of_known(index)
        near = torch.index_select(self.near_mass, 0, index.flatten()).view(index.shape)
        following = torch.index_select(self.following_mass, 0, index[:, 0]).unsqueeze(1)
        present = torch.cat([now[:, :1], now, older, now, older], dim=1).to(near.dtype)
        return present, present * torch.cat([following, near, near, itself, itself], dim=1)

    def weigh(self, features: Tensor, present: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
        """What each source counts (B, S), and the mass (B, 1) that is left to the network."""
        return self.limited(*self.let_in(features, present, masses))

    def let_in(self, features: Tensor, present: Tensor, masses: Tensor) -> tuple[Tensor, Tensor]:
        """What each source counts by its gate alone (B, S), and the mass (B, 1) that all together take."""
        gates = torch.matmul(features, self.gates).unsqueeze(2)
        # A sigmoid as the softmax of two: ONNX Runtime's own is exact to 1e-7, which is much of a small gate.
        weights = torch.softmax(torch.cat([gates, torch.zeros_like(gates)], dim=2), dim=2).select(2, 0) * present
        return weights, self.total(weights * masses)

    def limited(self, weights: Tensor, taken: Tensor) -> tuple[Tensor, Tensor]:
        """The same with at most MOST taken in all, and the mass (B, 1) that is left to the network."""
        scale = MOST / torch.clamp(taken, min=MOST)
        return weights * scale, 1 - taken * scale

    def total(self, values: Tensor) -> Tensor:
        """The sum over the sources, (B, S) -> (B, 1), as a product: ONNX Runtime's sums depend on a row's alignment."""
        return torch.matmul(values, self.ones)[:, :1]

    def at(self, item: Tensor, recent: Tensor) -> Tensor:
        """Each source's share of one item (B,) int64, (B, S); an unknown item has none."""
        index = recent.to(torch.int64)
        wanted = item.view(-1, 1, 1)
        is_near = torch.index_select(self.near_items, 0, index.flatten()).view(*index.shape, -1) == wanted
        share = torch.index_select(self.near_share, 0, index.flatten()).view(*index.shape, -1)
        near = (share * is_near.to(share.dtype)).sum(dim=2)
        follows = torch.index_select(self.following_items, 0, index[:, 0]) == item.unsqueeze(1)
        share = torch.index_select(self.following_share, 0, index[:, 0])
        following = (share * follows.to(share.dtype)).sum(dim=1, keepdim=True)
        itself = (index == item.unsqueeze(1) + 1).to(share.dtype) * self.of_known(index)
        return torch.cat([following, near, near, itself, itself], dim=1)

    def surprise(self, network: Tensor, item: Tensor, recent: Tensor, visit: Tensor) -> Tensor:
        """The network's probability (B,) of each item (B,) -> the mixture's surprise, nats; visit: of its own visit."""
        weights, left = self.weigh(self.features(recent, visit), *self.masses(recent, visit))
        added = self.total(weights * self.at(item, recent))
        return -log((left * network.unsqueeze(1) + added).squeeze(1))

    def log_probs(self, logits: Tensor, recent: Tensor, visit: Tensor) -> Tensor:
        """The network's logits (B, V) for the next click, cooled -> log-probabilities (B, V)."""
        return torch.log(self.mixed(logits, recent, visit) + TINY)

    def mixed(self, logits: Tensor, recent: Tensor, visit: Tensor) -> Tensor:
        """The network's logits (B, V) for the next click, cooled -> probabilities (B, V)."""
        weights, left = self.weigh(self.features(recent, visit), *self.masses(recent, visit))
        index, r = recent.to(torch.int64), REMEMBERED
        following, now, older, again, before = weights.split([1, r, r, r, r], dim=1)  # type: ignore[no-untyped-call]
        items = [
            torch.index_select(self.following_items, 0, index[:, 0]),
            torch.index_select(self.near_items, 0, index.flatten()).view(index.shape[0], r * NEIGHBOURS),
            torch.clamp(recent - 1, min=0, max=logits.shape[1] - 1),
        ]
        near = torch.index_select(self.near_share, 0, index.flatten()).view(index.shape[0], r, NEIGHBOURS)
        added = [
            torch.index_select(self.following_share, 0, index[:, 0]) * following,
            (near * (now + older).unsqueeze(2)).view(index.shape[0], r * NEIGHBOURS),
            self.of_known(index) * (again + before),
        ]
        network = torch.softmax(logits, dim=1) * left
        return network.scatter_add(1, torch.cat(items, dim=1).to(torch.int64), torch.cat(added, dim=1))


def log(probability: Tensor) -> Tensor:
    """Natural logarithm, the same bits wherever in a batch a value stands.

    ONNX Runtime takes logarithms 16 at a time, and what is left over by another formula: so each value comes 16 times.
    """
    lanes = (probability + TINY).unsqueeze(-1).expand(*probability.shape, LANES)
    return torch.log(lanes.contiguous()).select(-1, 0)
