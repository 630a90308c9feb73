"""The fit of the mixture on a log's held-out clicks."""

import numpy as np
import pytest
import torch

from export.dataset.cooccurrence import NEIGHBOURS, Counted, Neighbours
from export.dataset.windows import Clicks
from export.fit import mixture
from export.network.mixture import Mixture
from export.network.network import Network, Sizes

ITEMS, USERS, UNITS = 12, 300, 8


def fitted(factor: float, monkeypatch: pytest.MonkeyPatch) -> Mixture:
    """The mixture that is fitted to users with two random clicks, with FLATTER = factor."""
    monkeypatch.setattr(mixture, "FLATTER", factor)
    torch.manual_seed(0)
    network = Network(Sizes(ITEMS, 1, 9, UNITS))
    shares = np.zeros((ITEMS + 2, NEIGHBOURS), np.float32)
    none = Neighbours(shares.astype(np.int32), shares, shares[:, 0])
    network.mixture = Mixture(Counted(none, none, np.ones(ITEMS)))
    item = np.random.default_rng(0).integers(0, ITEMS, 2 * USERS).astype(np.int32)
    first = np.arange(2 * USERS) % 2 == 0
    clicks = Clicks(
        item=item,
        event_type=np.zeros_like(item),
        gap=np.where(first, 0, 1).astype(np.uint8),
        target=np.where(first, np.roll(item, -1), -1).astype(np.int32),
        fresh=np.zeros(2 * USERS, np.bool_),
        user=np.arange(2 * USERS, dtype=np.int32) // 2,
        time_ms=np.arange(2 * USERS),
    )
    mixture.fit_mixture(network, clicks, np.flatnonzero(first), seed=0)
    return network.mixture


def test_the_gates_are_fitted_at_the_flatter_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    """The temperature is FLATTER times the most likely one. The gates then differ: the sources' part is another one."""
    likeliest, flatter = fitted(1.0, monkeypatch), fitted(1.5, monkeypatch)
    assert flatter.temperature.item() == pytest.approx(1.5 * likeliest.temperature.item())
    assert not torch.equal(flatter.gates, likeliest.gates)
