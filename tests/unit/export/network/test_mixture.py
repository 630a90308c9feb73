"""The mixture compared with a mixture in plain Python."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from export.dataset.cooccurrence import NEIGHBOURS, NEW_SESSION, Counted, Neighbours
from export.network.mixture import MAX_WEIGHT, REMEMBERED, Mixture, remember

ITEMS = 6
QUICK = settings(max_examples=25, deadline=None)

WALK = st.lists(
    st.tuples(st.integers(0, ITEMS), st.sampled_from([0, 1, NEW_SESSION - 1, NEW_SESSION, NEW_SESSION + 2]))
)
"""One user's items and gap buckets; ITEMS = unknown."""


def slow_memory(walk: list[tuple[int, int]]) -> tuple[list[int], int]:
    """Different items, the one clicked last first, and how many of them are of this session."""
    recent: list[int] = []
    session: set[int] = set()
    for item, gap in walk:
        if gap == 0 or gap >= NEW_SESSION:
            session = set()
        recent = [item, *(other for other in recent if other != item)][:REMEMBERED]
        session.add(item)
    return recent, len(session)


def memory(walk: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    recent, session = torch.zeros(1, REMEMBERED, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)
    for item, gap in walk:
        recent, session = remember(torch.tensor([item]), torch.tensor([gap]), recent, session)
    return recent, session


@QUICK
@given(WALK)
def test_memory_is_the_last_different_items(walk: list[tuple[int, int]]) -> None:
    """A user who looks again and again at a few items keeps the others; a long gap starts the session's count again."""
    recent, session = memory(walk)
    items, count = slow_memory(walk)
    assert recent[0].tolist() == [item + 1 for item in items] + [0] * (REMEMBERED - len(items))
    assert session.tolist() == [[min(count, REMEMBERED)]]


def test_more_items_than_are_remembered_push_out_the_oldest() -> None:
    """The row has a fixed size: the item clicked longest ago goes first."""
    recent = torch.zeros(1, REMEMBERED, dtype=torch.int32)
    session = torch.zeros(1, 1, dtype=torch.int32)
    for item in range(REMEMBERED + 3):
        recent, session = remember(torch.tensor([item]), torch.tensor([1]), recent, session)
    assert recent[0].tolist() == list(range(REMEMBERED + 3, 3, -1))
    assert session.tolist() == [[REMEMBERED]]


def table(seed: int) -> Neighbours:
    """Random neighbours: three of each item with shares that sum to less than 1."""
    rng = np.random.default_rng(seed)
    items = np.zeros((ITEMS + 2, NEIGHBOURS), np.int32)
    share = np.zeros((ITEMS + 2, NEIGHBOURS), np.float32)
    for item in range(ITEMS):
        items[item + 1, :3] = rng.choice([other for other in range(ITEMS) if other != item], 3, replace=False)
        share[item + 1, :3] = rng.dirichlet([1.0] * 4)[:3]
    return Neighbours(items, share, rng.uniform(0, 9, ITEMS + 2).astype(np.float32))


def mixture(seed: int, strength: float = 1.0) -> Mixture:
    """Random tables, popularities and gates."""
    made = Mixture(Counted(table(seed), table(seed + 1), np.arange(1.0, ITEMS + 1) ** 2))
    generator = torch.Generator().manual_seed(seed)
    made.gates.copy_(torch.randn(made.gates.shape, generator=generator) * strength)
    return made


def shares(found: Neighbours, item: int) -> dict[int, float]:
    """Neighbour -> share of an item, where there is one."""
    pairs = zip(found.items[item + 1].tolist(), found.share[item + 1].tolist(), strict=True)
    return {neighbour: share for neighbour, share in pairs if share > 0}


def slow_mixture(made: Mixture, seed: int, walk: list[tuple[int, int]], network: list[float]) -> list[float]:
    """p = left * network + the sum over the sources of weight * shares, source by source."""
    recent, count = slow_memory(walk)
    session = min(count, REMEMBERED)
    newest = recent[0] if recent else None
    counts = [1.0, *(float(n**2) for n in range(1, ITEMS + 1)), 1.0]
    popular = (math.log(max(1.0, counts[0 if newest is None else newest + 1])) - 3) / 3
    read = [1.0, *(float(flag) for flag in (session == 0, session == 1, session == 2, session in (3, 4)))]
    read += [popular, popular**2]
    gates = made.gates.double().numpy()

    def gate(source: int) -> float:
        return 1 / (1 + math.exp(-float(np.dot(read, gates[:, source]))))

    sources: list[tuple[float, dict[int, float]]] = []
    following, near = table(seed), table(seed + 1)
    for age, item in enumerate(recent):
        now = age < session
        if age == 0 and now:
            sources.append((gate(0), shares(following, item) if item < ITEMS else {}))
        column = 1 + age + (0 if now else REMEMBERED)
        sources.append((gate(column), shares(near, item) if item < ITEMS else {}))
        sources.append((gate(column + 2 * REMEMBERED), {item: 1.0} if item < ITEMS else {}))
    total = sum(weight * sum(mine.values()) for weight, mine in sources)
    scale = MAX_WEIGHT / max(MAX_WEIGHT, total)
    found = [p * (1 - total * scale) for p in network]
    for weight, mine in sources:
        for item, share in mine.items():
            found[item] += weight * scale * share
    return found


@QUICK
@given(WALK, st.integers(0, 50), st.sampled_from([0.1, 1.0, 5.0]))
def test_probabilities_are_those_of_the_network_and_of_the_sources(
    walk: list[tuple[int, int]], seed: int, strength: float
) -> None:
    """Followers, neighbours and repeats by age have the weights of their gates; together at most MAX_WEIGHT."""
    made, (recent, session) = mixture(seed, strength), memory(walk)
    logits = torch.randn(1, ITEMS, generator=torch.Generator().manual_seed(seed))
    network = torch.softmax(logits.double(), dim=1)[0].tolist()
    found = made.mixed(logits, recent, session)[0]
    np.testing.assert_allclose(found.numpy(), slow_mixture(made, seed, walk, network), rtol=2e-4, atol=1e-6)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-5)


@QUICK
@given(WALK, st.integers(0, 50))
def test_the_surprise_at_an_item_is_its_probability_in_the_list(walk: list[tuple[int, int]], seed: int) -> None:
    """surprise.onnx and score.onnx have the same distribution: the surprise is -log of the list's probability."""
    made, (recent, session) = mixture(seed), memory(walk)
    logits = torch.randn(1, ITEMS, generator=torch.Generator().manual_seed(seed))
    network = torch.softmax(logits, dim=1)[0]
    item = torch.arange(ITEMS)
    found = made.surprise(network, item, recent.expand(ITEMS, -1), session.expand(ITEMS, -1))
    np.testing.assert_allclose(found.numpy(), -made.log_probs(logits, recent, session)[0].numpy(), atol=1e-4)


def test_closed_gates_leave_the_network_alone() -> None:
    """A mixture that was never fitted is the network."""
    made = Mixture(Counted(table(0), table(1), np.ones(ITEMS)))
    recent, session = memory([(1, 0), (2, 1)])
    logits = torch.randn(1, ITEMS)
    np.testing.assert_allclose(made.mixed(logits, recent, session), torch.softmax(logits, dim=1), atol=1e-6)


def test_a_new_user_has_the_networks_list() -> None:
    """Without remembered items no source exists, even if the gates are open."""
    made = mixture(0)
    made.gates.fill_(5.0)
    recent, session = memory([])
    logits = torch.randn(1, ITEMS)
    np.testing.assert_allclose(made.mixed(logits, recent, session), torch.softmax(logits, dim=1), atol=1e-6)


def test_unknown_items_are_remembered_but_have_no_shares() -> None:
    """A user with only unknown items gets the network's list."""
    made = mixture(3)
    made.gates.fill_(5.0)
    recent, session = memory([(ITEMS, 0), (ITEMS, 1)])
    assert recent[0, 0] == ITEMS + 1
    logits = torch.randn(1, ITEMS)
    np.testing.assert_allclose(made.mixed(logits, recent, session), torch.softmax(logits, dim=1), atol=1e-6)


def test_users_of_one_batch_do_not_mix() -> None:
    """Each row of a batch has the result that it has alone."""
    made = mixture(7)
    walks = [[(0, 0)], [(1, 0), (2, 1), (ITEMS, 1)], []]
    recent, session = (torch.cat(parts) for parts in zip(*map(memory, walks), strict=True))
    logits = torch.randn(3, ITEMS)
    together = made.mixed(logits, recent, session)
    for user, walk in enumerate(walks):
        alone = made.mixed(logits[user : user + 1], *memory(walk))
        np.testing.assert_allclose(together[user : user + 1], alone, rtol=1e-5)


def test_what_it_was_made_from_comes_back() -> None:
    """A training that starts from the model finds the counts as they were."""
    counted = Counted(table(4), table(5), np.array([9.0, 7, 5, 3, 1, 0]))
    found = Mixture(counted).counted
    for one, two in ((found.following, counted.following), (found.near, counted.near)):
        for name in Neighbours._fields:
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(found.clicks, counted.clicks)
