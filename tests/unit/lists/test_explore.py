"""The propensity of an explored slot is its true frequency: off-policy estimates rely on it."""

import tracemalloc
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from stream.lists.explore import Picked, explore, uniforms
from stream.lists.top import Lists

N = 20_000
CATEGORY = np.array([0, 0, 0, 1, 1, -1, 0, 1, 0, -1, 0, 0, 1, 2], np.int32)


@dataclass
class Case:
    """One user's list and spare items, for N clicks."""

    list: list[int]
    spare: list[int]
    category: np.ndarray

    def shown(self, share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        width = len(self.spare) + 2  # rows are padded where another user's window holds more
        picked = Picked(
            np.tile(np.array([*self.list, 0], np.int64), (N, 1)),
            np.zeros((N, len(self.list) + 1), np.float32),
            np.full(N, len(self.list)),
            np.tile(np.resize(np.array([*self.spare, 0, 0], np.int64), width), (N, 1)),
            np.zeros((N, width), np.float32),
            np.full(N, len(self.spare)),
        )
        lists = explore(picked, self.category, [f"clicks-{i % 7}-{i}" for i in range(N)], share, seed)
        assert lists.propensities is not None
        assert lists.explored is not None
        count = len(self.list)
        assert (lists.counts == count).all()
        return lists.items[:, :count], lists.propensities[:, :count], lists.explored[:, :count]


ALL_ALIKE = Case([0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10], np.zeros(14, np.int32))
BY_CATEGORY = Case([0, 3, 1, 5, 13], [2, 4, 6, 7, 8, 9, 10], CATEGORY)


@pytest.mark.parametrize("case", [ALL_ALIKE, BY_CATEGORY])
def test_the_propensity_is_the_measured_frequency(case: Case) -> None:
    """Every (slot, item) is as frequent as its propensity, and always has the same propensity."""
    items, propensities, explored = case.shown(share=0.3)
    for slot in range(items.shape[1]):
        total = 0.0
        for item, times in Counter(items[:, slot].tolist()).items():
            found = set(propensities[items[:, slot] == item, slot].tolist())
            assert len(found) == 1
            p = found.pop()
            total += p
            assert abs(times / N - p) <= 4.5 * np.sqrt(p * (1 - p) / N)
            assert set(explored[items[:, slot] == item, slot].tolist()) == {item != case.list[slot]}
        assert total == pytest.approx(1.0)


@pytest.mark.parametrize("case", [ALL_ALIKE, BY_CATEGORY])
def test_slots_are_independent_and_no_item_is_shown_twice(case: Case) -> None:
    """A list's propensity is the product of its slots'; the pools of two slots share no item."""
    items, _, explored = case.shown(share=0.3)
    assert all(len(set(row)) == len(row) for row in items.tolist())
    correlation = np.corrcoef(explored[:, explored.any(0)].T.astype(float))
    assert np.abs(correlation - np.eye(len(correlation))).max() < 4.5 / np.sqrt(N)


def test_inverse_propensities_estimate_the_value_of_a_different_policy() -> None:
    """IPS over explored lists estimates what showing one spare item in slot 0 would earn, without showing it."""
    items, propensities, _ = ALL_ALIKE.shown(share=0.2)
    clicked = np.where(items[:, 0] == 8, 0.9, 0.1)  # item 8 would earn 0.9, any other 0.1
    weight = (items[:, 0] == 8) / propensities[:, 0]
    assert (weight * clicked).mean() == pytest.approx(0.9, abs=0.15)
    assert weight.mean() == pytest.approx(1.0, abs=0.15)


def test_under_a_rule_on_categories_a_slot_keeps_its_category() -> None:
    """Exploration does not change the categories of a list; a slot without a spare item of its category shows its own
    item."""
    items, propensities, explored = BY_CATEGORY.shown(share=0.5)
    assert (CATEGORY[items] == CATEGORY[BY_CATEGORY.list]).all()
    assert not explored[:, 4].any()
    assert (propensities[:, 4] == 1.0).all()
    assert explored[:, :4].any(0).all()


def test_only_the_same_seed_explores_in_the_same_way() -> None:
    """A redelivered click gets the same list; a new experiment needs a new seed."""
    first, again, other = (ALL_ALIKE.shown(0.3, seed)[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_the_numbers_are_uniform_in_every_slot() -> None:
    """Neighbouring offsets give independent numbers."""
    draws = uniforms([f"clicks-0-{i}" for i in range(N)], 0, 6)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = np.apply_along_axis(lambda column: np.histogram(column, 20, (0, 1))[0], 0, draws)
    assert ((counts - N / 20) ** 2 / (N / 20)).sum(0).max() < 50  # chi square, 19 degrees: p = 1e-4
    assert np.abs(np.corrcoef(draws.T) - np.eye(6)).max() < 4.5 / np.sqrt(N)
    assert abs(np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]) < 4.5 / np.sqrt(N)


def by_definition(picked: Picked, category: np.ndarray, ids: list[str], share: float, seed: int) -> Lists:
    """The formulas of the scheme, with every slot compared with every spare item: (n, k, 5k) arrays."""
    k = picked.items.shape[1]
    slots = np.arange(k) < picked.counts[:, None]
    spares = np.arange(picked.spare.shape[1]) < picked.spares[:, None]
    of_slot, of_spare = category[picked.items], category[picked.spare]
    alike = (of_slot[:, :, None] == of_slot[:, None, :]) & slots[:, None, :]
    turn = (alike & (np.arange(k) < np.arange(k)[:, None])).sum(2)
    among = np.maximum(alike.sum(2), 1)
    stock = ((of_slot[:, :, None] == of_spare[:, None, :]) & spares[:, None, :]).sum(2)
    pool = np.where(slots, np.maximum(stock - turn + among - 1, 0) // among, 0)
    draws = uniforms(ids, seed, 2 * k)
    explored = (pool > 0) & (draws[:, :k] < share)
    propensities = np.where(pool > 0, 1 - share, 1.0)
    user, slot = np.nonzero(explored)
    drawn = turn[user, slot] + among[user, slot] * (draws[user, k + slot] * pool[user, slot]).astype(np.int64)
    its = (of_spare[user] == of_slot[user, slot][:, None]) & spares[user]
    at = (its & (np.cumsum(its, axis=1) == drawn[:, None] + 1)).argmax(1)
    items, log_probs = picked.items.copy(), picked.log_probs.copy()
    items[user, slot] = picked.spare[user, at]
    log_probs[user, slot] = picked.spare_probs[user, at]
    propensities[user, slot] = share / pool[user, slot]
    return Lists(items, log_probs, picked.counts, propensities, explored)


def windows(n: int, k: int, categories: int, seed: int) -> tuple[Picked, np.ndarray, list[str]]:
    """n lists of up to k items with up to 4k spare ones, of a catalogue of 6k items, some without a category."""
    rng = np.random.default_rng(seed)
    shown = np.argsort(rng.random((n, 6 * k)), axis=1)
    picked = Picked(
        shown[:, :k],
        rng.normal(size=(n, k)).astype(np.float32),
        rng.integers(0, k + 1, n),
        shown[:, k:],
        rng.normal(size=(n, 5 * k)).astype(np.float32),
        rng.integers(0, 4 * k + 1, n),
    )
    return picked, rng.integers(-1, categories, 6 * k).astype(np.int32), [f"clicks-0-{i}" for i in range(n)]


@pytest.mark.parametrize("categories", [0, 1, 3, 40])
@pytest.mark.parametrize(("n", "k"), [(0, 3), (1, 1), (60, 7)])
def test_every_byte_equals_the_formulas(n: int, k: int, categories: int) -> None:
    """A click's draws, items and propensities equal those of the formulas."""
    picked, category, ids = windows(n, k, categories, seed=n + categories)
    got, want = (make(picked, category, ids, 0.4, 5) for make in (explore, by_definition))
    for name in ("items", "log_probs", "counts", "propensities", "explored"):
        assert getattr(got, name).tobytes() == getattr(want, name).tobytes()
        assert getattr(got, name).dtype == getattr(want, name).dtype


def test_memory_grows_only_with_the_windows() -> None:
    """Long lists need no array of every slot with every spare item, which took fifteen times as much memory."""
    picked, category, ids = windows(300, 200, 10, seed=1)
    tracemalloc.start()
    explore(picked, category, ids, 0.1, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * (picked.items.nbytes + picked.spare.nbytes)
