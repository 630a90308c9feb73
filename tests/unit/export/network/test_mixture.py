"""The mixture compared with a mixture in plain Python."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from export.dataset.cooccurrence import NEIGHBOURS, NEW_SESSION, Counted, Neighbours
from export.network.mixture import AGES, MAX_WEIGHT, MOST_CLICKS, Mixture, remember

ITEMS, REMEMBERED = 14, 12
QUICK = settings(max_examples=25, deadline=None)

GAPS = st.sampled_from([1, 1, 1, 1, 0, NEW_SESSION - 1, NEW_SESSION, NEW_SESSION + 2])
WALK = st.lists(st.tuples(st.integers(0, ITEMS), GAPS)) | st.lists(
    st.tuples(st.integers(0, ITEMS), st.just(1)), min_size=20, max_size=30
)
"""One user's items and gap buckets; ITEMS = unknown. Some have more items than are remembered in one session."""


def slow_memory(walk: list[tuple[int, int]]) -> dict[int, int]:
    """The items remembered, the one clicked last first -> clicks in this session since it was last forgotten."""
    clicks: dict[int, int] = {}
    for item, gap in walk:
        if gap == 0 or gap >= NEW_SESSION:
            clicks = dict.fromkeys(clicks, 0)
        clicks = {item: clicks.pop(item, 0) + 1} | clicks
        clicks = dict(list(clicks.items())[:REMEMBERED])
    return clicks


def memory(walk: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    recent, visit = torch.zeros(2, 1, REMEMBERED, dtype=torch.int32)
    for item, gap in walk:
        recent, visit = remember(torch.tensor([item]), torch.tensor([gap]), recent, visit)
    return recent, visit


@QUICK
@given(WALK)
def test_memory_is_the_last_different_items(walk: list[tuple[int, int]]) -> None:
    """A user who looks again and again at a few items keeps the others; a long gap starts the items' counts again."""
    recent, visit = memory(walk)
    clicks = slow_memory(walk)
    empty = [0] * (REMEMBERED - len(clicks))
    assert recent[0].tolist() == [item + 1 for item in clicks] + empty
    assert visit[0].tolist() == [*clicks.values(), *empty]


def test_more_items_than_are_remembered_push_out_the_oldest() -> None:
    """The row has a fixed size: the item clicked longest ago goes first, however often it was clicked."""
    recent, visit = memory([(0, 1), (0, 1), *((item, 1) for item in range(REMEMBERED + 1))])
    assert recent[0].tolist() == list(range(REMEMBERED + 1, 1, -1))
    assert visit.tolist() == [[1] * REMEMBERED]


def test_an_endless_session_has_a_largest_count() -> None:
    """A bot's count stops where the shares are still exact; its other items keep theirs."""
    recent, visit = memory([(3, 1), (5, 1)])
    visit[0, 0] = MOST_CLICKS - 1
    for _ in range(3):
        recent, visit = remember(torch.tensor([5]), torch.tensor([1]), recent, visit)
    assert visit[0, :3].tolist() == [MOST_CLICKS, 1, 0]


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
    made = Mixture(Counted(table(seed), table(seed + 1), np.arange(1.0, ITEMS + 1) ** 2), REMEMBERED)
    generator = torch.Generator().manual_seed(seed)
    made.gates.copy_(torch.randn(made.gates.shape, generator=generator) * strength)
    return made


def shares(found: Neighbours, item: int) -> dict[int, float]:
    """Neighbour -> share of an item, where there is one."""
    pairs = zip(found.items[item + 1].tolist(), found.share[item + 1].tolist(), strict=True)
    return {neighbour: share for neighbour, share in pairs if share > 0}


def slow_mixture(made: Mixture, seed: int, walk: list[tuple[int, int]], network: list[float]) -> list[float]:
    """p = left * network + the sum over the sources of weight * shares, source by source."""
    clicks = slow_memory(walk)
    recent, session = list(clicks), sum(count > 0 for count in clicks.values())
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
    for age, item in enumerate(recent[:AGES]):
        now = age < session
        if age == 0 and now:
            sources.append((gate(0), shares(following, item) if item < ITEMS else {}))
        column = 1 + age + (0 if now else AGES)
        sources.append((gate(column), shares(near, item) if item < ITEMS else {}))
        sources.append((gate(column + 2 * AGES), {item: 1.0} if item < ITEMS else {}))
    if session:
        for source, counted in enumerate((recent, recent[1:]), start=1 + 4 * AGES):
            all_clicks = sum(clicks[item] for item in counted)
            visited = [item for item in counted if item < ITEMS and clicks[item]]
            sources.append((gate(source), {item: clicks[item] / all_clicks for item in visited}))
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
    """Followers, neighbours, repeats by age and repeats by count have the weights of their gates; together at most
    MAX_WEIGHT."""
    made, (recent, visit) = mixture(seed, strength), memory(walk)
    logits = torch.randn(1, ITEMS, generator=torch.Generator().manual_seed(seed))
    network = torch.softmax(logits.double(), dim=1)[0].tolist()
    found = made.mixed(logits, recent, visit)[0]
    np.testing.assert_allclose(found.numpy(), slow_mixture(made, seed, walk, network), rtol=2e-4, atol=1e-6)
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-5)


@QUICK
@given(WALK, st.integers(0, 50))
def test_the_surprise_at_an_item_is_its_probability_in_the_list(walk: list[tuple[int, int]], seed: int) -> None:
    """surprise.onnx and score.onnx have the same distribution: the surprise is -log of the list's probability."""
    made, (recent, visit) = mixture(seed), memory(walk)
    logits = torch.randn(1, ITEMS, generator=torch.Generator().manual_seed(seed))
    network = torch.softmax(logits, dim=1).t()
    item = torch.arange(ITEMS)
    found = made.surprise(network, item, recent.expand(ITEMS, -1), visit.expand(ITEMS, -1))
    np.testing.assert_allclose(found.numpy(), -made.log_probs(logits, recent, visit)[0].numpy(), atol=1e-4)


def test_closed_gates_leave_the_network_alone() -> None:
    """A mixture that was never fitted is the network."""
    made = Mixture(Counted(table(0), table(1), np.ones(ITEMS)), REMEMBERED)
    recent, visit = memory([(1, 0), (2, 1)])
    logits = torch.randn(1, ITEMS)
    np.testing.assert_allclose(made.mixed(logits, recent, visit), torch.softmax(logits, dim=1), atol=1e-6)


def test_a_new_user_has_the_networks_list() -> None:
    """Without remembered items no source exists, even if the gates are open."""
    made = mixture(0)
    made.gates.fill_(5.0)
    recent, visit = memory([])
    logits = torch.randn(1, ITEMS)
    np.testing.assert_allclose(made.mixed(logits, recent, visit), torch.softmax(logits, dim=1), atol=1e-6)


def test_unknown_items_are_remembered_but_have_no_shares() -> None:
    """A user with only unknown items gets the network's list."""
    made = mixture(3)
    made.gates.fill_(5.0)
    recent, visit = memory([(ITEMS, 0), (ITEMS, 1)])
    assert recent[0, 0] == ITEMS + 1
    logits = torch.randn(1, ITEMS)
    np.testing.assert_allclose(made.mixed(logits, recent, visit), torch.softmax(logits, dim=1), atol=1e-6)


def test_users_of_one_batch_do_not_mix() -> None:
    """Each row of a batch has the result that it has alone."""
    made = mixture(7)
    walks = [[(0, 0)], [(1, 0), (2, 1), (ITEMS, 1)], []]
    recent, visit = (torch.cat(parts) for parts in zip(*map(memory, walks), strict=True))
    logits = torch.randn(3, ITEMS)
    together = made.mixed(logits, recent, visit)
    for user, walk in enumerate(walks):
        alone = made.mixed(logits[user : user + 1], *memory(walk))
        np.testing.assert_allclose(together[user : user + 1], alone, rtol=1e-5)


def test_what_it_was_made_from_comes_back() -> None:
    """A training that starts from the model finds the counts as they were."""
    counted = Counted(table(4), table(5), np.arange(ITEMS, 0.0, -1))
    found = Mixture(counted).counted
    for one, two in ((found.following, counted.following), (found.near, counted.near)):
        for name in Neighbours._fields:
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(found.clicks, counted.clicks)
