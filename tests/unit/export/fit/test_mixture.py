"""The fit of the mixture on a log's held-out clicks, and what the log decides about the memory."""

import numpy as np
import pytest
import torch

from export.dataset.cooccurrence import NEIGHBOURS, NEW_SESSION, Counted, Neighbours
from export.dataset.windows import Clicks
from export.fit import mixture
from export.fit.mixture import items_to_remember, set_mixture
from export.network.mixture import Mixture, remember
from export.network.network import Network, Sizes

ITEMS, USERS, UNITS = 12, 300, 8


def fitted(factor: float, monkeypatch: pytest.MonkeyPatch) -> Mixture:
    """The mixture that is fitted to users with two random clicks, with FLATTER = factor."""
    monkeypatch.setattr(mixture, "FLATTER", factor)
    network = untrained()
    clicks = of_sessions(np.random.default_rng(0).integers(0, ITEMS, (USERS, 2)).tolist())
    mixture.fit_mixture(network, clicks, np.flatnonzero(clicks.target >= 0), seed=0)
    return network.mixture


def untrained() -> Network:
    """A random network, and a mixture without neighbours."""
    torch.manual_seed(0)
    network = Network(Sizes(ITEMS, 1, 9, UNITS))
    shares = np.zeros((ITEMS + 2, NEIGHBOURS), np.float32)
    none = Neighbours(shares.astype(np.int32), shares, shares[:, 0])
    network.mixture = Mixture(Counted(none, none, np.ones(ITEMS)))
    return network


def of_sessions(sessions: list[list[int]]) -> Clicks:
    """The items of users with one session each."""
    item = np.concatenate([np.array(session, np.int32) for session in sessions])
    user = np.repeat(np.arange(len(sessions), dtype=np.int32), [len(session) for session in sessions])
    first = np.append(True, user[1:] != user[:-1])
    return Clicks(
        item=item,
        event_type=np.zeros_like(item),
        gap=np.where(first, 0, 1).astype(np.uint8),
        target=np.where(np.roll(first, -1), -1, np.roll(item, -1)).astype(np.int32),
        fresh=np.zeros(len(item), np.bool_),
        user=user,
        time_ms=np.arange(len(item)),
    )


def test_the_gates_are_fitted_at_the_flatter_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    """The temperature is FLATTER times the most likely one. The gates then differ: the sources' part is another one."""
    likeliest, flatter = fitted(1.0, monkeypatch), fitted(1.5, monkeypatch)
    assert flatter.temperature.item() == pytest.approx(1.5 * likeliest.temperature.item())
    assert not torch.equal(flatter.gates, likeliest.gates)


def test_a_log_of_returns_teaches_to_rank_by_count() -> None:
    """If people return to the items that they clicked often, an item clicked three times ranks above a newer one."""
    rng, sessions = np.random.default_rng(1), []
    for _ in range(60):
        session = [int(rng.integers(ITEMS))]
        for _ in range(15):
            session.append(int(rng.choice(session)) if rng.random() < 0.8 else int(rng.integers(ITEMS)))
        sessions.append(session)
    clicks, network = of_sessions(sessions), untrained()
    mixture.fit_mixture(network, clicks, np.flatnonzero(clicks.target >= 0), seed=0)
    recent, visit = torch.zeros(2, 1, network.mixture.remembered, dtype=torch.int32)
    for item in (3, 7, 3, 3, 5, 9):
        recent, visit = remember(torch.tensor([item]), torch.tensor([1]), recent, visit)
    found = network.mixture.mixed(torch.zeros(1, ITEMS), recent, visit)[0]
    assert found[3] > 2 * found[5] > 0
    assert found[5] > 2 * found[2]


@pytest.mark.parametrize(
    ("circle", "share", "needed"),
    [(5, 1.0, 8), (9, 1.0, 12), (16, 1.0, 16), (17, 1.0, 24), (24, 1.0, 24), (24, 0.001, 8), (25, 1.0, 8)],
)
def test_a_log_decides_how_many_items_are_remembered(circle: int, share: float, needed: int) -> None:
    """People who go round in circles need their circle remembered. Not if they are rare, or if no memory is enough."""
    few, many = int(2_000 * share), int(2_000 * (1 - share))
    sessions = [[i % circle for i in range(2 * circle)] for _ in range(few)] + [[1, 2, 1, 3]] * many
    assert items_to_remember(of_sessions(sessions)) == needed


def test_returns_in_a_later_session_need_no_memory() -> None:
    """Only returns within a session count: sources by count know no others."""
    clicks = of_sessions([list(range(12)) * 2] * 50)
    clicks.gap[12::24] = NEW_SESSION
    assert items_to_remember(clicks) == 8


def test_a_memory_does_not_shrink() -> None:
    """A newer log without returns keeps the number of items that an older model remembers."""
    network = untrained()
    clicks = of_sessions([[1, 2, 3]] * 20)
    network.mixture = Mixture(network.mixture.counted, 16)
    set_mixture(network, clicks, np.ones(len(clicks)))
    assert network.mixture.remembered == 16
    assert [part.shape for part in network.mixture.state] == [(16,), (16,)]
