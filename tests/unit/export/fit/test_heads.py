"""The examples of the surprise head, and its correction by the temperature."""

import numpy as np
import torch
from torch import Tensor

from export.dataset.cooccurrence import NEIGHBOURS, Counted, Neighbours
from export.dataset.windows import Clicks, Windows
from export.fit.heads import PreClickStates, SurpriseExamples, fitted_surprise, states_before
from export.network.mixture import Mixture
from export.network.network import Network, Sizes
from export.network.states import outputs
from export.network.surprise import SurpriseHead

ITEMS, UNITS = 12, 8
CLUSTERS = np.arange(ITEMS) % 3


def untrained() -> Network:
    torch.manual_seed(0)
    network = Network(Sizes(ITEMS, 1, 3, UNITS))
    none = np.zeros((ITEMS + 2, NEIGHBOURS), np.float32)
    empty = Neighbours(none.astype(np.int32), none, none[:, 0])
    network.mixture = Mixture(Counted(empty, empty, np.zeros(ITEMS)))
    return network


def fitted(temperature: float) -> tuple[SurpriseHead, Tensor]:
    """The head of one random network under a mixture of this temperature, and the states it was fitted on."""
    network = untrained()
    network.mixture.temperature.fill_(temperature)
    item = torch.arange(200) % (ITEMS + 1)
    after = torch.randn(200, UNITS) + 4 * torch.randn(ITEMS + 1, UNITS)[item]
    states = PreClickStates(after, torch.arange(200), torch.ones(200, dtype=torch.bool))
    examples = SurpriseExamples(states, item, torch.zeros(200, dtype=torch.int64), torch.ones(200))
    return fitted_surprise(network, examples, CLUSTERS, 5, torch.Generator().manual_seed(0)), after


def test_the_state_before_a_click_is_that_after_the_previous_click() -> None:
    """It is the output after the same user's previous click; zeros before a user's first click."""
    user = np.array([3, 3, 3, 7, 9, 9], np.int32)
    item, none = np.arange(6, dtype=np.int32), np.zeros(6, np.int32)
    clicks = Clicks(item, none, none.astype(np.uint8), none, none > 0, user, none.astype(np.int64))
    network, rows = untrained().eval(), np.array([0, 2, 3, 5])
    after, before = outputs(network, Windows(clicks), np.arange(6)), states_before(network, clicks, rows)
    nothing = torch.zeros(UNITS)
    torch.testing.assert_close(before.at(torch.arange(4)), torch.stack([nothing, after[1], nothing, after[4]]))


def test_the_temperature_corrects_both_levels() -> None:
    """It divides the rows of clusters and items, but not the biases, which give the probabilities of a new user."""
    (plain, states), (cooled, _) = fitted(1.0), fitted(2.0)
    torch.testing.assert_close(cooled.blocks, plain.blocks / 2)
    torch.testing.assert_close(cooled.top.weight, plain.top.weight / 2)
    torch.testing.assert_close(cooled.biases, plain.biases)  # popularity has a weight of its own
    nobody = torch.zeros(1, UNITS)
    torch.testing.assert_close(cooled.top(nobody), plain.top(nobody))
    surest, cooler = (torch.softmax(head.top(states), dim=1).max(dim=1).values.mean() for head in (plain, cooled))
    assert cooler < surest


def test_probabilities_of_all_items_sum_to_one() -> None:
    """The sum is over the known items and over the new items that share the probability of the unknown item."""
    head, states = fitted(2.0)
    few = states[:3]
    every = torch.cat([head(torch.full((3,), item), few) for item in range(ITEMS + 1)], dim=1)
    torch.testing.assert_close(every[:, :ITEMS].sum(dim=1) + 5 * every[:, ITEMS], torch.ones(3))
