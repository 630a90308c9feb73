"""The choice of the temperature by the lists of held-out clicks."""

import numpy as np
import pytest
import torch

from export.arrays import F64, I64
from export.dataset.cooccurrence import NEIGHBOURS, Counted, Neighbours
from export.dataset.windows import Clicks, Windows
from export.fit import mixture as fit
from export.fit.gates import fit_gates
from export.network.mixture import Mixture
from export.network.network import SHARPNESS, Network, Sizes
from export.network.states import memories, outputs

ITEMS, UNITS = 60, 8
FIRST, USUAL, WRONG = 0, 1, 2
LOGIT = 5.3
"""Row product of WRONG after FIRST; that of all other items is 0. So the network gives WRONG .77 at temperature 1, .68
at 1.1 and .58 at 1.2."""

FOLLOWS = 0.4
"""Share of the users who click USUAL after FIRST; so its source gets about this weight, and WRONG keeps .46, .41, .35
of the list's probability."""


def shop(users: int) -> tuple[Network, Clicks, I64]:
    """A network that is sure of a wrong item, and the users: a click on FIRST, then on USUAL or on any rare item."""
    rng = np.random.default_rng(0)
    second = np.where(np.arange(users) < FOLLOWS * users, USUAL, rng.integers(3, ITEMS, users))
    item = np.column_stack([np.full(users, FIRST), second]).ravel().astype(np.int32)
    target = np.column_stack([second, np.full(users, -1)]).ravel().astype(np.int32)
    zeros = np.zeros(2 * users)
    gap = np.tile(np.array([0, 1], np.uint8), users)
    user = np.repeat(np.arange(users, dtype=np.int32), 2)
    clicks = Clicks(item, zeros.astype(np.int32), gap, target, zeros.astype(bool), user, np.arange(2 * users))
    rows = np.arange(0, 2 * users, 2)
    torch.manual_seed(0)
    network = Network(Sizes(ITEMS, 1, 9, UNITS)).eval()
    with torch.no_grad():
        network.item_rows[WRONG] = 0.0  # FIRST keeps its row: it moves the state
        direction = outputs(network, Windows(clicks), rows[:1])[0] / SHARPNESS
        others = network.item_rows[1:]
        others -= (others @ direction).unsqueeze(1) * direction
        network.item_rows[WRONG] = direction * LOGIT / SHARPNESS
    shares = np.zeros((ITEMS + 2, NEIGHBOURS), np.float32)
    none = Neighbours(shares.astype(np.int32), shares, shares[:, 0])
    items, followed = none.items.copy(), shares.copy()
    items[FIRST + 1, 0], followed[FIRST + 1, 0] = USUAL, 1.0
    network.mixture = Mixture(Counted(Neighbours(items, followed, followed[:, 0]), none, np.ones(ITEMS)))
    return network, clicks, rows


def first_of_the_list(network: Network, clicks: Clicks, rows: I64) -> int:
    """The first item after a click on FIRST."""
    recent, session = (torch.from_numpy(part) for part in memories(clicks, rows[:1]))
    logits = network.calibrated_logits(outputs(network, Windows(clicks), rows[:1]))
    return int(network.mixture.mixed(logits, recent, session).argmax())


def chosen(network: Network, clicks: Clicks, rows: I64) -> float:
    """The temperature after the choice."""
    examples = fit._examples(network, clicks, rows)
    fit_gates(network.mixture, examples, fit._log_probs(network, clicks, rows))
    fit.choose_temperature(network, clicks, rows, examples)
    return network.mixture.temperature.item()


def test_the_lists_choose_the_temperature() -> None:
    """Of the factors, only 1.2 puts the item that most users click first."""
    network, clicks, rows = shop(500)
    assert chosen(network, clicks, rows) == pytest.approx(1.2)
    assert first_of_the_list(network, clicks, rows) == USUAL


@pytest.mark.parametrize(("better", "factor"), [(3, 1.0), (10, 1.1)])
def test_a_difference_that_may_be_chance_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, better: int, factor: float
) -> None:
    """Better lists at 3 of 100 clicks are less than two standard errors, at 10 of 100 more."""
    network, clicks, rows = shop(100)

    def gains(network: Network, clicks: Clicks, rows: I64) -> F64:
        return np.where(np.arange(len(rows)) < better * (network.mixture.temperature.item() > 1), 0.5, 0.0)

    monkeypatch.setattr(fit, "_list_gains", gains)
    assert chosen(network, clicks, rows) == pytest.approx(factor)


@pytest.mark.parametrize(("temperature", "direction"), [(1.0, -1), (10.0, 1)])
def test_a_temperature_stays_within_its_bounds(
    monkeypatch: pytest.MonkeyPatch, temperature: float, direction: int
) -> None:
    """Between 1 and 10, however much better the lists would be."""
    network, clicks, rows = shop(100)
    network.mixture.temperature.fill_(temperature)

    def gains(network: Network, clicks: Clicks, rows: I64) -> F64:
        return np.full(len(rows), direction * network.mixture.temperature.item())

    monkeypatch.setattr(fit, "_list_gains", gains)
    assert chosen(network, clicks, rows) == pytest.approx(temperature)
