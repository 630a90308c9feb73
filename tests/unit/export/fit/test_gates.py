"""The fit of the mixture on held-out clicks: gates, temperature and bias weight."""

import numpy as np
import pytest
import torch
from torch import Tensor

from export.dataset.cooccurrence import NEIGHBOURS, Counted, Neighbours
from export.fit.gates import HIGHEST, INITIAL_LOGIT, LOWEST, Examples, fit_gates, fit_jointly
from export.fit.mixture import expansion
from export.network.mixture import AGES, FEATURES, MAX_WEIGHT, Mixture
from export.network.network import Network, Sizes

ITEMS, UNITS = 12, 8
SOURCES = 3 + 4 * AGES


def empty() -> Mixture:
    none = np.zeros((ITEMS + 2, NEIGHBOURS), np.float32)
    nothing = Neighbours(none.astype(np.int32), none, none[:, 0])
    return Mixture(Counted(nothing, nothing, np.zeros(ITEMS)))


def random_network() -> Network:
    torch.manual_seed(0)
    network = Network(Sizes(ITEMS, 1, 3, UNITS))
    network.item_bias.data.normal_()
    network.mixture = empty()
    return network


def examples(clicks: int, share: float) -> Examples:
    """Clicks at which every source exists and gives the clicked item this share."""
    there = torch.ones(clicks, SOURCES)
    features = torch.eye(FEATURES)[:1].expand(clicks, FEATURES)
    return Examples(features, there, there, torch.full_like(there, share))


def gates_after(clicks: int, share: float) -> Tensor:
    """The gates (S,) that are fitted on this many such clicks, as weights."""
    mixture = empty()
    fit_gates(mixture, examples(clicks, share), torch.full((clicks,), -3.0))
    return torch.sigmoid(mixture.gates[0])


def test_a_few_clicks_do_not_switch_a_source_off() -> None:
    """A source that is wrong in ten clicks keeps a weight; one that is wrong in 2,000 keeps almost none."""
    began = torch.sigmoid(torch.tensor(INITIAL_LOGIT))
    assert (gates_after(10, share=0.0) > began / 4).all()
    assert (gates_after(2_000, share=0.0) < began / 10).all()


def test_a_good_source_gets_more_weight() -> None:
    """The gate of a source that gives the clicked item a share of one half rises above its initial value."""
    assert (gates_after(1_000, share=0.5) > torch.sigmoid(torch.tensor(INITIAL_LOGIT))).all()


def test_gates_open_no_further_than_the_limit() -> None:
    """Sources that are always right together get MAX_WEIGHT and not more."""
    assert gates_after(1_000, share=1.0).sum() == pytest.approx(MAX_WEIGHT, abs=0.05)


@pytest.mark.parametrize(("temperature", "bias_weight"), [(1.0, 0.4), (8.0, 0.7)])
def test_temperature_and_bias_weight_are_those_of_the_distribution_of_the_clicks(
    temperature: float, bias_weight: float
) -> None:
    """The fit finds the temperature and bias weight of the network from which thousands of clicks were drawn."""
    network = random_network()
    out = network.output(torch.randn(2_000, UNITS))
    network.mixture.temperature.fill_(temperature)
    network.mixture.bias_weight.fill_(bias_weight)
    target = torch.multinomial(torch.softmax(network.calibrated_logits(out), dim=1), 1).squeeze(1)
    mixture = network.mixture = empty()
    fit_jointly(mixture, examples(len(out), share=0.0), lambda around: expansion(network, out, target, around))
    assert 1 / mixture.temperature.item() == pytest.approx(1 / temperature, rel=0.1)
    assert mixture.bias_weight.item() == pytest.approx(bias_weight, abs=0.1)
    assert not mixture.gates.requires_grad


@pytest.mark.parametrize("wrong", [False, True])
def test_a_network_is_never_sharpened_nor_left_without_an_order(wrong: bool) -> None:
    """Even for a network that is always right, or always wrong, the fitted values stay within their bounds."""
    network = random_network()
    out = network.output(torch.randn(500, UNITS))
    target = (network.logits(out) * (-1 if wrong else 1)).argmax(dim=1)
    mixture = network.mixture
    fit_jointly(mixture, examples(len(out), share=0.0), lambda around: expansion(network, out, target, around))
    point = torch.cat([1 / mixture.temperature, mixture.bias_weight])
    assert (point >= LOWEST - 1e-6).all()
    assert (point <= HIGHEST + 1e-6).all()
    assert (point[0] < 0.5) == wrong


def test_an_expansion_is_the_networks_log_probability() -> None:
    """The expansion is exact at its point, and near it the error is of third order; compared with the softmax."""
    network = random_network()
    out, target = network.output(torch.randn(50, UNITS)), torch.randint(ITEMS, (50,))

    def exact(point: Tensor) -> Tensor:
        scores = point[0] * network.row_products(out) + point[1] * network.item_bias[:-1]
        return torch.log_softmax(scores, dim=1).gather(1, target.unsqueeze(1)).squeeze(1).detach()

    around = torch.tensor([0.5, 0.6])
    found = expansion(network, out, target, around)
    torch.testing.assert_close(found.log_probs(around), exact(around))
    errors = []
    for length in (0.2, 0.1):
        point = around + length * torch.tensor([0.6, 0.8])
        errors.append(float((found.log_probs(point) - exact(point)).abs().mean()))
    assert 4 < errors[0] / errors[1] < 16  # an error of third order is divided by 8


def test_temperature_and_bias_weight_change_only_their_own_part() -> None:
    """The temperature divides the row products, and the weight multiplies the bias; at 1 the logits do not change."""
    network, out = random_network(), torch.randn(4, UNITS)
    torch.testing.assert_close(network.calibrated_logits(out), network.logits(out))
    network.mixture.temperature.fill_(2.0)
    torch.testing.assert_close(network.calibrated_logits(out), network.row_products(out) / 2 + network.item_bias[:-1])
    network.mixture.bias_weight.fill_(0.0)
    torch.testing.assert_close(network.calibrated_logits(out), network.row_products(out) / 2)
