"""Held-out clicks -> the mixture's gates, the network's temperature, and the weight of its popularity bias.

All are fitted together, to the likelihood of clicks that the network was not trained on. The rule: few clicks leave the
gates near where they began, so that what a short log does not show is not ruled out.

The network's log-probability of a click costs V at each temperature and bias weight. So it is expanded to second order
in (1 / temperature, bias weight), and expanded again where the fit has moved: EXPANSIONS passes over the catalogue.

Sources: temperature as in Guo et al. 2017.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from export.network.mixture import CLOSED, MOST, REMEMBERED, TINY, Mixture

KINDS = torch.tensor([0] + [kind for kind in (1, 2, 3, 4) for _ in range(REMEMBERED)])
"""Of the sources: followers; neighbours of this visit's items, of older ones; the items of this visit, older ones."""

EXPANSIONS, STEPS = 10, 40
"""Passes over the catalogue, and steps of Adam after each."""

GATE_STEPS = 300
"""Steps of Adam for the gates alone."""

RATE = 0.03

LOWEST, HIGHEST = torch.tensor([0.1, 0.0]), torch.tensor([1.0, 1.0])
"""Of (1 / temperature, bias weight). The network is never sharpened, and never left without any order of its items."""

FARTHEST = 1.5, 0.25
"""The factor by which 1 / temperature, and the amount by which the bias weight may move before the next expansion. From
1 to 0.1 in one step the second order is off by nats, and gates that open meanwhile do not close again."""

OVERSHOOT = 0.3
"""Nats per mass that the gates let in beyond MOST. There the likelihood has no slope, so they would open on. On made-up
sessions in which all hangs on the last click, one network of three ended .018 nats worse without it."""

FIRST = -4.0
"""Where the search for a gate begins and what few clicks leave it near: a mass of .018. In a short log no user may have
come back to the fourth last item; that is no reason never to show it."""

STIFF, STIFFER = 0.3, 1.0
"""Nats over all clicks for the square of a gate's distance from the mean of its kind, of that mean's from FIRST, and of
its weights for place and popularity. Nats of held-out clicks that gates were not fitted to, without any -> each gate
held by itself, one temperature for all: bolcom 4.706 -> 4.648 (300 clicks fitted), 4.641 -> 4.629 (1,000), 4.621 ->
4.617 (3,990); trivago .855 -> .831 (798); taobao 10.330 -> 10.268 (567)."""


class Examples(NamedTuple):
    """n held-out clicks as the mixture sees them: the features (n, F); presence, masses and the shares of the item that
    came (n, S) of the sources."""

    features: Tensor
    present: Tensor
    masses: Tensor
    at: Tensor


class Expansion(NamedTuple):
    """The network's log-probability of n clicks around one (1 / temperature, bias weight), to second order.

    around     (2,)
    value      (n,) nats
    gradient   (n, 2)
    curvature  (n, 2, 2), positive: the covariance of what is weighed, under the network's distribution
    """

    around: Tensor
    value: Tensor
    gradient: Tensor
    curvature: Tensor

    def log_probs(self, point: Tensor) -> Tensor:
        """(n,) nats at a point (2,) near by; differentiable."""
        moved = point - self.around
        found: Tensor = self.value + self.gradient @ moved - (self.curvature @ moved) @ moved / 2
        return found


def fit_jointly(mixture: Mixture, examples: Examples, expand: Callable[[Tensor], Expansion]) -> None:
    """Set gates, temperature and bias weight to what makes the clicks most likely.

    The search begins at the mixture's own; gates of sources that never had a mass stay closed.
    expand  (1 / temperature, bias weight) (2,) -> the expansion of the n clicks there
    """
    gates = _opened(mixture, examples)
    point = torch.cat([1 / mixture.temperature, mixture.bias_weight]).requires_grad_()
    optimizer = torch.optim.Adam([gates, point], lr=RATE)
    for number in range(EXPANSIONS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - number / EXPANSIONS)
        network = expand(point.detach().clone())
        factor, amount = FARTHEST
        low = torch.maximum(LOWEST, torch.stack([network.around[0] / factor, network.around[1] - amount]))
        high = torch.minimum(HIGHEST, torch.stack([network.around[0] * factor, network.around[1] + amount]))
        for _ in range(STEPS):
            _step(optimizer, _loss(mixture, gates, examples, network.log_probs(point)))
            point.data.clamp_(low, high)
    mixture.gates = gates.detach()
    mixture.temperature, mixture.bias_weight = 1 / point.detach()[:1], point.detach()[1:].clone()


def fit_gates(mixture: Mixture, examples: Examples, log_probs: Tensor) -> None:
    """Set the gates to what makes the clicks most likely; log_probs (n,), the network's as it is in the mixture."""
    gates = _opened(mixture, examples)
    optimizer = torch.optim.Adam([gates], lr=RATE)
    for _ in range(GATE_STEPS):
        _step(optimizer, _loss(mixture, gates, examples, log_probs))
    mixture.gates = gates.detach()


def _opened(mixture: Mixture, examples: Examples) -> Tensor:
    """Gates to fit: those of sources that were there begin at FIRST, unless they are open already."""
    gates = mixture.gates.clone()
    there = torch.where(examples.masses.sum(dim=0) > 0, FIRST, CLOSED)
    gates[0] = torch.where(gates[0] > CLOSED, gates[0], there)
    return gates.requires_grad_()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _loss(mixture: Mixture, gates: Tensor, examples: Examples, log_probs: Tensor) -> Tensor:
    """Mean nats of the clicks under a mixture with these gates (F, S), and what the gates themselves cost."""
    mixture.gates = gates
    weights, taken = mixture.let_in(examples.features, examples.present, examples.masses)
    beyond = torch.relu(taken - MOST).mean()
    weights, left = mixture.limited(weights, taken)
    mixed = left * log_probs.exp().unsqueeze(1) + mixture.total(weights * examples.at) + TINY
    loss: Tensor = OVERSHOOT * beyond - mixed.log().mean() + _strain(gates) / len(log_probs)
    return loss


def _strain(gates: Tensor) -> Tensor:
    """What it costs gates (F, S) to be away from where they began, nats over all clicks. Closed ones cost nothing.

    Clicks that speak against one age of a kind speak against the others too: its mean moves for the price of one.
    """
    there = gates[0].detach() > CLOSED
    away, kind = (gates[0] - FIRST)[there], KINDS[there]
    count = torch.bincount(kind, minlength=len(KINDS)).clamp(min=1)
    mean = torch.zeros(len(KINDS)).index_add(0, kind, away) / count
    apart = (away - mean[kind]).square().sum() + mean.square().sum()
    strain: Tensor = STIFF * apart + STIFFER * gates[1:].square().sum()
    return strain
