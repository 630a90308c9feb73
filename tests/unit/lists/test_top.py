"""The most likely items without the excluded ones, against the full ranking."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.lists.top import among, top_items
from stream.model.runtime import SCORE_ROWS, Model, StateArray, load_model

ITEMS = 50


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return load_model(model_dir, "cpu")


def states(model: Model, users: int, seed: int) -> list[StateArray]:
    """Inputs of score.onnx for so many users, all different."""
    rng = np.random.default_rng(seed)
    tensors = [tensor for tensor in model.manifest.state if tensor.name in model.score_inputs]
    return [
        rng.uniform(-1, 1, (users, *t.shape)).astype("float32")
        if t.dtype == "float32"
        else rng.integers(0, 8, (users, *t.shape)).astype(t.dtype)
        for t in tensors
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    left_out=st.lists(st.lists(st.integers(-1, ITEMS), min_size=3, max_size=3), max_size=5),
    k=st.sampled_from([1, 7, ITEMS - 1, ITEMS, 80]),
    seed=st.integers(0, 99),
)
def test_lists_are_the_ranking_without_the_excluded_items(
    model: Model, left_out: list[list[int]], k: int, seed: int
) -> None:
    """For any k up to more than the catalogue: the first k allowed items, best first, each with its log-probability."""
    state, gone = states(model, len(left_out), seed), np.array(left_out, np.int32).reshape(-1, 3)
    found = top_items(*model.score(state, min(k + 3, ITEMS)), gone, k)
    for user, excluded in enumerate(left_out):
        items, log_probs = model.score([value[user : user + 1] for value in state], ITEMS)
        ranking = dict(zip(items[0].tolist(), log_probs[0].tolist(), strict=True))
        expected = [item for item in ranking if item not in excluded][:k]
        count = int(found.counts[user])
        assert found.items[user, :count].tolist() == expected
        assert found.log_probs[user, :count].tolist() == [ranking[item] for item in expected]


def test_a_repeated_excluded_item_shortens_no_list(model: Model) -> None:
    """A user who clicked one item sixteen times still has a full list."""
    state = states(model, 1, 0)
    found = top_items(*model.score(state, 36), np.full((1, 16), 3, np.int32), 20)
    assert found.counts.tolist() == [20]
    assert 3 not in found.items[0]


def test_users_beyond_one_call_of_the_graph_have_their_own_lists(model: Model) -> None:
    """A batch is scored in parts; users at the borders of the parts have the same list as alone."""
    rows = SCORE_ROWS[model.provider]
    count = 2 * rows + 1
    state = states(model, count, 1)
    items, log_probs = model.score(state, 5)
    assert items.shape == log_probs.shape == (count, 5)
    for user in (0, rows - 1, rows, 2 * rows):
        alone = model.score([value[user : user + 1] for value in state], 5)
        assert alone[0].tolist() == [items[user].tolist()]
        assert alone[1].tolist() == [log_probs[user].tolist()]


def test_no_users_have_no_lists(model: Model) -> None:
    """Without users the arrays are empty and have the usual width."""
    nobody = states(model, 0, 0)
    items, log_probs = model.score(nobody, 4)
    assert (items.shape, items.dtype, log_probs.shape, log_probs.dtype) == ((0, 4), np.int64, (0, 4), np.float32)
    assert len(top_items(items, log_probs, np.empty((0, 2), np.int32), 4).counts) == 0


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(0, 6), st.integers(0, 5), st.integers(0, 1_000))
def test_among_is_membership_by_user(users: int, width: int, excluded: int, seed: int) -> None:
    """Each item is looked up among the same user's excluded items only."""
    rng = np.random.default_rng(seed)
    items = rng.integers(0, 6, (users, width))
    left_out = rng.integers(-1, 7, (users, excluded)).astype(np.int32)
    expected = [[item in gone for item in row] for row, gone in zip(items.tolist(), left_out.tolist(), strict=True)]
    assert among(items, left_out).tolist() == expected
