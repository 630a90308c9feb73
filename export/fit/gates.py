"""Fits the mixture on held-out clicks: its gates, and the network's temperature and bias weight.

All are fitted together, by maximum likelihood of clicks that the network was not trained on. The rule: with few clicks
the gates stay near their initial value, so a short log does not switch a component off.

The network's log-probability of one click costs O(V) at each temperature and bias weight. It is therefore approximated
to second order in (1 / temperature, bias weight), at EXPANSIONS points. Each expansion is one pass over the catalogue.

Source: Guo et al. 2017 (temperature scaling).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from export.network.mixture import AGES, CLOSED, MAX_WEIGHT, TINY, Mixture

SOURCE_KIND = torch.tensor([0] + [kind for kind in (1, 2, 3, 4) for _ in range(AGES)] + [5, 6])
"""(S,) kind of each source: 0 followers; 1 neighbours of items of this session, 2 of older items; 3 items of this
session, 4 older items; 5 items of this session by count, 6 the same without the newest."""

EXPANSIONS, STEPS = 10, 40
"""Expansions of the network's log-probability, and Adam steps after each."""

GATE_STEPS = 300
"""Adam steps of a fit of the gates alone."""

RATE = 0.03

LOWEST, HIGHEST = torch.tensor([0.1, 0.0]), torch.tensor([1.0, 1.0])
"""Bounds of (1 / temperature, bias weight). The network is never sharpened, and it always ranks its items."""

MAX_MOVE = 1.5, 0.25
"""Maximum move between two expansions: a factor for 1 / temperature, an amount for the bias weight. If 1 / temperature
moves from 1 to 0.1 at once, the second order is wrong by nats. Gates that open because of this error do not close
again."""

EXCESS_PENALTY = 0.3
"""Penalty in nats per unit of mixture weight above MAX_WEIGHT. Above it the likelihood has no slope, so without a
penalty the gates would open further. Without it, one network of three ended .018 nats worse on synthetic sessions in
which only the last click matters."""

INITIAL_LOGIT = -4.0
"""Initial logit of a gate: a weight of .018. With few clicks a gate stays near it: if no user of a short log clicked
the fourth last item again, that is no reason never to recommend it."""

GATE_L2, FEATURE_L2 = 0.3, 1.0
"""Weights of the L2 penalties, in nats over all clicks.

GATE_L2     squared distance of a gate from the mean of its kind, and of this mean from INITIAL_LOGIT
FEATURE_L2  squared weights of the features

Nats of held-out clicks on which nothing was fitted, without a penalty -> with a penalty on each gate alone and one
temperature for all: bolcom 4.706 -> 4.648 (fitted on 300 clicks), 4.641 -> 4.629 (1,000), 4.621 -> 4.617 (3,990);
trivago .855 -> .831 (798); taobao 10.330 -> 10.268 (567).
"""


class Examples(NamedTuple):
    """The mixture's inputs for n held-out clicks.

    features       (n, F) inputs of the gates
    present        (n, S) 1.0 for each source that exists at the click, else 0.0
    share_sums     (n, S) sum of each source's shares over all items
    target_shares  (n, S) share that each source gives to the clicked item
    """

    features: Tensor
    present: Tensor
    share_sums: Tensor
    target_shares: Tensor


class Expansion(NamedTuple):
    """Second-order expansion of the network's log-probability of n clicks in (1 / temperature, bias weight).

    around     (2,) point of the expansion
    value      (n,) nats
    gradient   (n, 2)
    curvature  (n, 2, 2) negative second derivative: covariance of (row product, bias) under the network's distribution
    """

    around: Tensor
    value: Tensor
    gradient: Tensor
    curvature: Tensor

    def log_probs(self, point: Tensor) -> Tensor:
        """(n,) nats at a point (2,) near `around`; differentiable."""
        moved = point - self.around
        found: Tensor = self.value + self.gradient @ moved - (self.curvature @ moved) @ moved / 2
        return found


def fit_jointly(mixture: Mixture, examples: Examples, expand: Callable[[Tensor], Expansion]) -> None:
    """Set gates, temperature and bias weight, in place, to the maximum of the penalised likelihood of n clicks.

    The fit starts from the mixture's own values. Gates of sources without any share stay closed.

    expand  (1 / temperature, bias weight) (2,) -> expansion of the n clicks' log-probability at this point
    """
    gates = _initial_gates(mixture, examples)
    point = torch.cat([1 / mixture.temperature, mixture.bias_weight]).requires_grad_()
    optimizer = torch.optim.Adam([gates, point], lr=RATE)
    for number in range(EXPANSIONS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - number / EXPANSIONS)
        network = expand(point.detach().clone())
        factor, amount = MAX_MOVE
        low = torch.maximum(LOWEST, torch.stack([network.around[0] / factor, network.around[1] - amount]))
        high = torch.minimum(HIGHEST, torch.stack([network.around[0] * factor, network.around[1] + amount]))
        for _ in range(STEPS):
            _step(optimizer, _loss(mixture, gates, examples, network.log_probs(point)))
            point.data.clamp_(low, high)
    mixture.gates = gates.detach()
    mixture.temperature, mixture.bias_weight = 1 / point.detach()[:1], point.detach()[1:].clone()


def fit_gates(mixture: Mixture, examples: Examples, log_probs: Tensor) -> None:
    """Set the gates, in place, to the maximum of the penalised likelihood of n clicks.

    log_probs  (n,) nats, the network's log-probability of each click at the mixture's temperature and bias weight
    """
    gates = _initial_gates(mixture, examples)
    optimizer = torch.optim.Adam([gates], lr=RATE)
    for _ in range(GATE_STEPS):
        _step(optimizer, _loss(mixture, gates, examples, log_probs))
    mixture.gates = gates.detach()


def _initial_gates(mixture: Mixture, examples: Examples) -> Tensor:
    """Initial gates (F, S). A closed gate starts at INITIAL_LOGIT if its source has a share at any of the clicks."""
    gates = mixture.gates.clone()
    initial = torch.where(examples.share_sums.sum(dim=0) > 0, INITIAL_LOGIT, CLOSED)
    gates[0] = torch.where(gates[0] > CLOSED, gates[0], initial)
    return gates.requires_grad_()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _loss(mixture: Mixture, gates: Tensor, examples: Examples, log_probs: Tensor) -> Tensor:
    """Mean negative log-likelihood of the clicks under a mixture with these gates (F, S), plus the penalties; nats."""
    mixture.gates = gates
    weights, total = mixture.gated(examples.features, examples.present, examples.share_sums)
    excess = torch.relu(total - MAX_WEIGHT).mean()
    weights, left = mixture.limited(weights, total)
    mixed = left * log_probs.exp().unsqueeze(1) + mixture.total(weights * examples.target_shares) + TINY
    loss: Tensor = EXCESS_PENALTY * excess - mixed.log().mean() + _l2_penalty(gates) / len(log_probs)
    return loss


def _l2_penalty(gates: Tensor) -> Tensor:
    """L2 penalty of gates (F, S), nats over all clicks. Closed gates have no penalty.

    The gates of one kind differ only in the age of the item, so clicks that contradict one of them contradict the
    others too. The mean of a kind is therefore penalised once, and each gate by its distance from this mean.
    """
    is_open = gates[0].detach() > CLOSED
    offset, kind = (gates[0] - INITIAL_LOGIT)[is_open], SOURCE_KIND[is_open]
    count = torch.bincount(kind, minlength=len(SOURCE_KIND)).clamp(min=1)
    mean = torch.zeros(len(SOURCE_KIND)).index_add(0, kind, offset) / count
    squares = (offset - mean[kind]).square().sum() + mean.square().sum()
    penalty: Tensor = GATE_L2 * squares + FEATURE_L2 * gates[1:].square().sum()
    return penalty
