"""The lists of shortlist.onnx: bit-equal in every batch, in the order of the exact scores, each item once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.dataset.windows import Clicks
from export.fit.shortlist import choose_shortlist
from export.model.parity import check_shortlist
from export.model.untrained import write_untrained
from export.network.mixture import CLOSED
from export.network.weights import load_network
from export.ranking.byte_product import byte_product
from export.ranking.shortlist import SLOTS, ShortlistScore, _once
from stream.errors import ArtifactError
from stream.manifest import SHORTLIST, read_manifest
from stream.model.runtime import Model, load_model
from tests.unit.export.train.test_trainer import Silent

ITEMS, RANKED, K = 3_000, 1_500, 20


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "large" / "1"
    write_untrained(directory, [f"i{i}" for i in range(ITEMS)], ["view"], hidden=32, ranked=RANKED)
    return directory


@pytest.fixture(scope="module")
def model(directory: Path) -> Model:
    return load_model(directory, "cpu")


def states(users: int, newest: int = ITEMS) -> list[NDArray[Any]]:
    """h, last_items and visit_clicks of users who have clicked eight different items of the first `newest`."""
    rng = np.random.default_rng(0)
    h = rng.uniform(-1, 1, (users, 32)).astype(np.float32)
    last = np.stack([rng.permutation(newest)[:8] + 1 for _ in range(users)]).astype(np.int32)
    return [h, last, np.tile(np.array([3, 1, 1, 0, 0, 0, 0, 0], np.int32), (users, 1))]


def without_clicks(users: int) -> list[NDArray[Any]]:
    """The same with an empty memory, so that no source adds anything."""
    h, last, clicks = states(users)
    return [h, np.zeros_like(last), np.zeros_like(clicks)]


def assert_bit_equal_in_every_batch(model: Model, state: list[NDArray[Any]]) -> None:
    """The lists of 64 users do not depend on who else is in the call."""
    whole, order = model.score(state, K), np.random.default_rng(1).permutation(64)
    for size in (1, 3, 4, 12, 33):
        for start in range(0, 64, size):
            rows = order[start : start + size]
            for ours, theirs in zip(model.score([part[rows] for part in state], K), whole, strict=True):
                np.testing.assert_array_equal(ours, theirs[rows])


def test_lists_are_bit_equal_whatever_batch_they_are_in(model: Model) -> None:
    """A list does not depend on who else is in the call: replay relies on it."""
    assert_bit_equal_in_every_batch(model, states(64))


def test_the_exact_scores_give_the_order(directory: Path, model: Model) -> None:
    """Without sources a list has the best of the ranked items in the order of their float32 scores."""
    state, network = without_clicks(64), load_network(directory)
    items, log_probs = model.score(state, K)
    with torch.no_grad():
        exact = network.log_probs(network.output(torch.from_numpy(state[0])), *map(torch.from_numpy, state[1:]))
    ranked = np.flatnonzero(ShortlistScore(network, RANKED).column_of[:ITEMS].numpy() < RANKED)
    assert len(ranked) == RANKED
    best = ranked[np.argsort(-exact[:, ranked].numpy(), axis=1, kind="stable")[:, :K]]
    assert (items == best).mean() > 0.999  # scores that are equal in float32 may be swapped
    error = log_probs - np.take_along_axis(exact.numpy(), items, 1)
    assert np.ptp(error, axis=1).max() < 1e-5  # one shift for all items of a user: the estimated sum
    assert np.abs(error).mean() < 0.1  # with so few items; .005 in a trained catalogue of 40,000


def test_an_item_is_listed_once_with_all_that_its_sources_add(directory: Path, model: Model) -> None:
    """Items that several sources name, also items beyond the ranked ones, have the probability of the exact list."""
    network, state = load_network(directory), states(64, newest=12)  # the same few items, so the same neighbours
    items, log_probs = model.score(state, K)
    assert all(len(set(row)) == K for row in items.tolist())
    with torch.no_grad():
        exact = network.log_probs(network.output(torch.from_numpy(state[0])), *map(torch.from_numpy, state[1:])).numpy()
        sources = network.mixture.additions(*map(torch.from_numpy, state[1:]))[0].numpy()
    beyond = ShortlistScore(network, RANKED).column_of[:ITEMS].numpy() >= RANKED
    candidates = np.tile(~beyond, (64, 1))
    np.put_along_axis(candidates, sources, True, axis=1)
    wanted = np.argsort(-np.where(candidates, exact, -np.inf), axis=1)[:, :K]
    error = np.abs(log_probs - np.take_along_axis(exact, items, 1))
    assert error.max() < 0.3  # a source left out or added twice is .69
    assert np.quantile(error, 0.95) < 0.1
    same = np.array([len(set(a) & set(b)) / K for a, b in zip(items.tolist(), wanted.tolist(), strict=True)])
    close = error.max(axis=1) < 0.02  # elsewhere the estimated sum moves the network's items against the sources'
    assert close.sum() > 8
    assert same[close].mean() > 0.95  # the others: items beyond the ranked ones that a source hardly names
    assert beyond[items].any()


def test_the_occurrences_of_an_item_are_found_and_added() -> None:
    """Each item has one last occurrence, with the sum of all, also where many items share their first slot."""
    rng = np.random.default_rng(0)
    pool = np.concatenate([rng.integers(0, 1_000_000, 300), SLOTS * np.arange(1, 31)])
    items, added = rng.choice(pool, (40, 600)), rng.random((40, 600)).astype(np.float32)
    last, total = (part.numpy() for part in _once(torch.from_numpy(items), torch.from_numpy(added)))
    lost = 0
    for row, shares, is_last, sums in zip(items, added, last, total, strict=True):
        for item in np.unique(row):
            at = np.flatnonzero(row == item)
            if not is_last[at].any():
                lost += 1
                continue
            assert np.flatnonzero(is_last[at]).tolist() == [len(at) - 1]
            assert sums[at[-1]] == pytest.approx(shares[at].sum(), rel=1e-5)
    assert lost < 0.01 * items.size


def test_a_list_can_be_longer_or_shorter(model: Model) -> None:
    """Every k gives the beginning of the longer list."""
    state = without_clicks(8)
    longest = model.score(state, 300)[0]
    for k in (1, 21, 100):
        np.testing.assert_array_equal(model.score(state, k)[0], longest[:, :k])


def test_a_list_can_be_as_long_as_the_catalogue(model: Model) -> None:
    """Rules that allow few items ask for rankings as deep as the catalogue, also beyond the ranked items."""
    assert all(len(set(row)) == ITEMS for row in model.score(states(8), ITEMS)[0].tolist())


def test_a_shortlist_that_differs_from_its_network_is_refused(directory: Path) -> None:
    """A graph with other item rows than the network writes no model."""
    network = load_network(directory)
    check_shortlist(directory, network, ShortlistScore(network, RANKED))
    with torch.no_grad():
        network.item_rows.copy_(network.item_rows.roll(1, dims=1))
    with pytest.raises(ArtifactError, match=SHORTLIST):
        check_shortlist(directory, network, ShortlistScore(network, RANKED))


def test_the_manifest_lists_the_graph_and_a_missing_one_is_refused(directory: Path, tmp_path: Path) -> None:
    """shortlist.onnx belongs to the model, with a checksum."""
    manifest = read_manifest(directory)
    assert SHORTLIST in manifest.files
    for file in directory.iterdir():
        if file.name != SHORTLIST:
            (tmp_path / file.name).hardlink_to(file)
    with pytest.raises(ArtifactError, match=f"{SHORTLIST} is missing"):
        load_model(tmp_path, "cpu")


def test_the_byte_product_is_that_of_integers() -> None:
    """The sums are exact, also the largest ones."""
    rng = np.random.default_rng(0)
    output, codes = rng.integers(1, 256, (5, 256), np.uint8), rng.integers(-63, 64, (256, 96), np.int8)
    output[0], codes[:, 0] = 255, 63
    sums = (output.astype(np.int64) - 128) @ codes.astype(np.int64)
    ours = byte_product(*map(torch.from_numpy, (output, codes, np.ones(96, np.float32), np.zeros(96, np.float32))))
    np.testing.assert_array_equal(ours.numpy(), sums)


def clicks_of(item: NDArray[np.int32]) -> Clicks:
    """Clicks of users (n, 4), one after the other."""
    users, length = item.shape
    target = np.concatenate([item[:, 1:], np.full((users, 1), -1, np.int32)], axis=1)
    first = np.arange(item.size) % length == 0
    return Clicks(
        item=item.ravel(),
        event_type=np.zeros(item.size, np.int32),
        gap=np.where(first, 0, 2).astype(np.uint8),
        target=target.ravel(),
        fresh=np.zeros(item.size, np.bool_),
        user=np.repeat(np.arange(users, dtype=np.int32), length),
        time_ms=np.arange(item.size, dtype=np.int64),
    )


def test_the_fewest_ranked_items_that_lose_little_are_chosen(directory: Path) -> None:
    """Repeated items need few ranked items, a popular item beyond them needs all; a medium catalogue
    ranks all, a small one has none."""
    network, rng = load_network(directory), np.random.default_rng(0)
    again = clicks_of(np.repeat(rng.integers(0, ITEMS, (100, 1)), 4, axis=1).astype(np.int32))
    judged = np.flatnonzero(again.target >= 0)
    found = choose_shortlist(network, again, judged, complete=False, large=ITEMS, watch=Silent())
    assert found is not None
    assert (found.ranked, found.lost) == (ITEMS // 2, 0.0)
    whole = choose_shortlist(network, again, judged, complete=True, large=ITEMS, watch=Silent())
    assert whole is not None
    assert whole.ranked == ITEMS
    medium = choose_shortlist(network, again, judged, complete=False, large=10 * ITEMS, watch=Silent())
    assert medium is not None
    assert medium.ranked == ITEMS
    assert choose_shortlist(network, again, judged, complete=False, large=10 * (ITEMS + 1), watch=Silent()) is None
    last = ITEMS - 1  # equal clicks: the last items are beyond the ranked ones
    with torch.no_grad():
        network.item_bias[last] = 20.0
        network.mixture.gates[0] = CLOSED
    item = rng.integers(0, last, (100, 4)).astype(np.int32)
    item[:, 3] = last
    popular = clicks_of(item)
    judged = np.flatnonzero(popular.target == last)
    found = choose_shortlist(network, popular, judged, complete=False, large=ITEMS, watch=Silent())
    assert found is not None
    assert found.ranked == ITEMS
