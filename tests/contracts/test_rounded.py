"""The lists by rounded scores of all items: those of the exact ranking, and bit-equal in every batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.model.untrained import write_untrained
from export.network.weights import load_network
from export.ranking.rounded import RoundedScore
from stream.manifest import SHORTLIST
from stream.model.runtime import Model, load_model
from tests.contracts.test_shortlist import assert_bit_equal_in_every_batch

ITEMS, K = 5_000, 20


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "medium" / "1"
    write_untrained(directory, [f"i{i}" for i in range(ITEMS)], ["view"], hidden=64, ranked=ITEMS)
    return directory


@pytest.fixture(scope="module")
def model(directory: Path) -> Model:
    model = load_model(directory, "cpu")
    assert SHORTLIST in model.manifest.graphs
    return model


def states(users: int, sharpest: float = 1.0) -> list[NDArray[Any]]:
    """h, last_items and visit_clicks: users without clicks, with a few and with many items in the memory."""
    rng = np.random.default_rng(0)
    h = (rng.standard_normal((users, 64)) * sharpest).astype(np.float32)
    last = rng.integers(1, ITEMS + 2, (users, 8)).astype(np.int32)
    last[rng.random((users, 8)) < 0.3] = 7  # an item several times, and its neighbours
    last[: users // 4] = 0
    h[: users // 8] = 0
    return [h, last, np.tile(np.array([3, 1, 1, 0, 0, 0, 0, 0], np.int32), (users, 1))]


def exact_of(directory: Path, state: list[NDArray[Any]]) -> NDArray[np.float32]:
    network = load_network(directory)
    with torch.no_grad():
        out = network.output(torch.from_numpy(state[0]))
        exact: NDArray[np.float32] = network.log_probs(out, *map(torch.from_numpy, state[1:])).numpy()
    return exact


def test_lists_are_those_of_the_exact_ranking(directory: Path, model: Model) -> None:
    """Same items in the same order, but where two differ by less than the rounded sum may move them."""
    state = states(256)
    exact = exact_of(directory, state)
    items, log_probs = model.score(state, K)
    best = np.argsort(-exact, axis=1, kind="stable")[:, :K]
    ours, theirs = (np.take_along_axis(exact, some, 1) for some in (items, best))
    error = np.abs(log_probs - ours)
    assert np.abs(ours - theirs).max() < 0.01  # place by place: a missing item moves all that follow
    assert (items == best).mean() > 0.99
    assert np.quantile(error, 0.9) < 2e-3
    assert all(len(set(row)) == K for row in items.tolist())


def test_lists_are_bit_equal_whatever_batch_they_are_in(model: Model) -> None:
    """A list does not depend on who else is in the call: replay relies on it."""
    assert_bit_equal_in_every_batch(model, states(64))


def test_a_list_can_be_longer_or_shorter(model: Model) -> None:
    """Every k gives the beginning of the longer list. No list has the unknown item or the column after it."""
    state = states(8)
    longest, log_probs = model.score(state, 1_000)
    assert longest.max() < ITEMS
    for k in (1, 21, 100):
        items, ours = model.score(state, k)
        assert (items == longest[:, :k]).mean() > 0.99  # the last places of a list depend on where the front ends
        assert (ours == log_probs[:, :k]).mean() > 0.99


def test_the_whole_catalogue_is_ranked_by_the_exact_scores(directory: Path, model: Model) -> None:
    """Rules that allow few items ask for rankings as deep as the catalogue."""
    state = states(8)
    items, log_probs = model.score(state, ITEMS)
    exact = exact_of(directory, state)
    assert all(len(set(row)) == ITEMS for row in items.tolist())
    np.testing.assert_allclose(log_probs, np.take_along_axis(exact, items, 1), atol=2e-5)
    assert (np.diff(log_probs, axis=1) <= 0).all()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_every_temperature_has_finite_lists_in_the_order_of_the_exact_scores(
    directory: Path, temperature: float
) -> None:
    """Also with the smallest one that is fitted, where the reference column has the least probability."""
    network = load_network(directory)
    network.mixture.temperature.fill_(temperature)
    state = [torch.from_numpy(part) for part in states(64)]
    with torch.no_grad():
        items, log_probs = RoundedScore(network)(*state, torch.tensor([K]))
        exact = network.log_probs(network.output(state[0]), *state[1:])
    assert torch.isfinite(log_probs).all()
    best = exact.topk(K, dim=1).values
    assert (exact.gather(1, items) - best).abs().max() < 0.02
