"""Held-out clicks -> how far the network is trusted, and how much each source of the mixture may add.

Chosen for the clicks' likelihood, on clicks that the network was not trained on. The rule: few clicks leave everything
near where it began, so that what a short log does not show is not ruled out.

Sources: temperature as in Guo et al. 2017.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from export.network.mixture import CLOSED, REMEMBERED, TINY, Mixture

KINDS = torch.tensor([0] + [kind for kind in (1, 2, 3, 4) for _ in range(REMEMBERED)])
"""Of the sources: followers; neighbours of this visit's items, of older ones; the items of this visit, older ones."""

FIRST_ROUNDS, MORE_ROUNDS = 300, 100

TEMPERATURES = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 6.0, 10.0)
BIAS_WEIGHTS = (1.0, 0.75, 0.5, 0.35, 0.2, 0.1, 0.0)
TRUSTS = tuple((temperature, weight) for temperature in TEMPERATURES for weight in BIAS_WEIGHTS)
"""How far a network may be trusted: what its state says is divided by the first; its bias, which is popularity, times
the second. One temperature for both makes the lists of a poor network end in no order. Nats of held-out clicks and
recall@20, one -> two, the gates alike: made-up sessions in which all hangs on the last click (355 clicks fitted)
2.970 / .792 -> 2.880 / .817; bolcom 4.752 / .5993 -> 4.713 / .6017 (1,000); trivago .864 / .1603 -> .866 / .1603."""

CLOSER = 1e-4
"""Nats by which one must be better than another: less is the gates' own fit, which goes on."""

FIRST = -4.0
"""Where the search for a gate begins and what few clicks leave it near: a mass of .018. In a short log no user may have
come back to the fourth last item; that is no reason never to show it."""

STIFF, STIFFER = 0.3, 1.0
"""Nats over all clicks for the square of a gate's distance from the mean of its kind, of that mean's from FIRST, and of
its weights for place and popularity. Nats of held-out clicks that gates were not fitted to, without any -> each gate
held by itself, one temperature for all: bolcom 4.706 -> 4.648 (300 clicks fitted), 4.641 -> 4.629 (1,000), 4.621 ->
4.617 (3,990); trivago .855 -> .831 (798); taobao 10.330 -> 10.268 (567)."""


class Chances(NamedTuple):
    """What the fit needs of n held-out clicks: the network's log-probability of each under some trusts (n, T); the
    features (n, F), presence, masses and the shares of the item that came (n, S) of the sources."""

    network: Tensor
    features: Tensor
    present: Tensor
    masses: Tensor
    at: Tensor


def choose_trust(mixture: Mixture, chances: Chances) -> None:
    """Set temperature and bias weight to what makes the clicks likeliest, and the gates that go with them.

    chances  under all TRUSTS: from full trust the search goes to a neighbour that is better, until none is
    """
    _open(mixture, chances)
    best, gates = _fit_gates(mixture, chances, 0, FIRST_ROUNDS)
    at, tried = (0, 0), {(0, 0)}
    while True:
        near = [(at[0] + down, at[1] + along) for down, along in ((1, 0), (0, 1), (-1, 0), (0, -1))]
        for place in near:
            if place in tried or not (0 <= place[0] < len(TEMPERATURES) and 0 <= place[1] < len(BIAS_WEIGHTS)):
                continue
            tried.add(place)
            mixture.gates = gates
            surprise, moved = _fit_gates(mixture, chances, place[0] * len(BIAS_WEIGHTS) + place[1], MORE_ROUNDS)
            if surprise < best - CLOSER:
                at, best, gates = place, surprise, moved
                break
        else:
            break
    mixture.gates = gates
    mixture.temperature.fill_(TEMPERATURES[at[0]])
    mixture.bias_weight.fill_(BIAS_WEIGHTS[at[1]])


def fit_mixture(mixture: Mixture, chances: Chances) -> None:
    """Set the gates to what makes the clicks likeliest.

    Gates that are open, an older model's or choose_trust's, are where the search begins.
    chances  under the mixture's own trust
    """
    _open(mixture, chances)
    _, mixture.gates = _fit_gates(mixture, chances, 0, FIRST_ROUNDS)


def _open(mixture: Mixture, chances: Chances) -> None:
    """Gates of sources that were there begin at FIRST, unless they are open."""
    gates = mixture.gates.clone()
    there = torch.where(chances.masses.sum(dim=0) > 0, FIRST, CLOSED)
    gates[0] = torch.where(gates[0] > CLOSED, gates[0], there)
    mixture.gates = gates


def _fit_gates(mixture: Mixture, chances: Chances, column: int, rounds: int) -> tuple[float, Tensor]:
    """Gates after so many rounds of Adam from the mixture's, and the mean surprise with them.

    column  of chances.network
    """
    network = chances.network[:, column].exp()
    learned = mixture.gates.clone().requires_grad_()
    there = mixture.gates[0] > CLOSED
    mixture.gates = learned
    optimizer = torch.optim.Adam([learned], lr=0.03)
    surprise = 0.0
    for _ in range(rounds):
        weights, left = mixture.weigh(chances.features, chances.present, chances.masses)
        mixed = left * network.unsqueeze(1) + mixture.total(weights * chances.at) + TINY
        loss = -mixed.log().mean()
        surprise = loss.item()
        optimizer.zero_grad()
        (loss + _strain(learned, there) / len(network)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return surprise, learned.detach()


def _strain(gates: Tensor, there: Tensor) -> Tensor:
    """What it costs gates (F, S) to be away from where they began, nats over all clicks; of sources `there` (S,) bool.

    Clicks that speak against one age of a kind speak against the others too: its mean moves for the price of one.
    """
    away, kind = (gates[0] - FIRST)[there], KINDS[there]
    count = torch.bincount(kind, minlength=len(KINDS)).clamp(min=1)
    mean = torch.zeros(len(KINDS)).index_add(0, kind, away) / count
    apart = (away - mean[kind]).square().sum() + mean.square().sum()
    strain: Tensor = STIFF * apart + STIFFER * gates[1:].square().sum()
    return strain
