"""How far a few clicks may move what the user's last items bring to a list."""

import numpy as np
import pytest
import torch

from export.dataset.cooccurrence import NEIGHBOURS, Counted, Neighbours
from export.fit.trust import BIAS_WEIGHTS, FIRST, TEMPERATURES, Chances, choose_trust, fit_mixture
from export.network.mixture import FEATURES, REMEMBERED, Mixture
from export.network.network import Network, Sizes

ITEMS = 12
SOURCES = 1 + 4 * REMEMBERED


def empty() -> Mixture:
    none = np.zeros((ITEMS + 2, NEIGHBOURS), np.float32)
    nothing = Neighbours(none.astype(np.int32), none, none[:, 0])
    return Mixture(Counted(nothing, nothing, np.zeros(ITEMS)))


def chances(network: torch.Tensor, came: float) -> Chances:
    """Of clicks where every source was there and had given the item that came such a chance; network (n, T)."""
    there = torch.ones(len(network), SOURCES)
    features = torch.eye(FEATURES)[:1].expand(len(network), FEATURES)
    return Chances(network, features, there, there, torch.full_like(there, came))


def gates_after(clicks: int, came: float) -> torch.Tensor:
    """The gates (S,) fitted on so many of them."""
    mixture = empty()
    fit_mixture(mixture, chances(torch.full((clicks, 1), -3.0), came))
    return torch.sigmoid(mixture.gates[0])


def test_a_few_clicks_do_not_rule_a_source_out() -> None:
    """What never came in ten clicks still has a chance; what never came in thousands has next to none."""
    began = torch.sigmoid(torch.tensor(FIRST))
    assert (gates_after(10, came=0.0) > began / 4).all()
    assert (gates_after(5_000, came=0.0) < began / 15).all()


def test_what_brings_the_item_is_let_in() -> None:
    """A source that is right every second time gets more than it began with."""
    assert (gates_after(1_000, came=0.5) > torch.sigmoid(torch.tensor(FIRST))).all()


@pytest.mark.parametrize("best", [(0, 0), (0, 3), (4, 0), (2, 5), (len(TEMPERATURES) - 1, len(BIAS_WEIGHTS) - 1)])
def test_the_network_is_trusted_as_far_as_it_was_right(best: tuple[int, int]) -> None:
    """Wherever the clicks are likeliest, the search ends there, step by step."""
    apart = [abs(i - best[0]) + abs(j - best[1]) for i in range(len(TEMPERATURES)) for j in range(len(BIAS_WEIGHTS))]
    mixture = empty()
    choose_trust(mixture, chances(-3 - torch.tensor(apart).expand(50, -1) / 20, came=0.0))
    assert mixture.temperature.item() == pytest.approx(TEMPERATURES[best[0]])
    assert mixture.bias_weight.item() == pytest.approx(BIAS_WEIGHTS[best[1]])
    assert mixture.gates.grad_fn is None


def test_what_is_trusted_less_changes_only_its_own_part() -> None:
    """The temperature divides what the state says, the weight is of the bias; fully trusted they are the logits."""
    torch.manual_seed(0)
    network, out = Network(Sizes(ITEMS, 1, 3, 8)), torch.randn(4, 8)
    network.item_bias.data.normal_()
    network.mixture = empty()
    torch.testing.assert_close(network.cooled(out), network.logits(out))
    network.mixture.temperature.fill_(2.0)
    torch.testing.assert_close(network.cooled(out), network.fits(out) / 2 + network.item_bias[:-1])
    network.mixture.bias_weight.fill_(0.0)
    torch.testing.assert_close(network.cooled(out), network.fits(out) / 2)
