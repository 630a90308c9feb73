"""What a training holds in memory: parts at a time give what all at once would."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from export.dataset import cooccurrence
from export.dataset.cooccurrence import NEW_SESSION, PRIOR, WINDOW, count_neighbours
from export.dataset.windows import Clicks, Windows, encode
from export.log.log import Log
from export.model import calibrate
from export.model.calibrate import surprises
from export.network.network import Network, Sizes
from export.network.states import memories, outputs
from export.network.weights import load_network
from export.pipeline import train_model
from export.train.holdout import vocabulary_of
from tests.unit.export.train.test_trainer import SETTINGS, Silent, shop

pytestmark = pytest.mark.usefixtures("hurried")

ITEMS = 30


def clicks_of(users: int, seed: int = 0) -> Clicks:
    """Twenty clicks a user, sessions within them, some on the unknown item."""
    rng = np.random.default_rng(seed)
    count = users * 20
    item = np.minimum(rng.geometric(0.1, count) - 1, ITEMS).astype(np.int32)
    gap = np.where(rng.random(count) < 0.2, 9, 1).astype(np.uint8)
    user = np.repeat(np.arange(users, dtype=np.int32), 20)
    none = np.zeros(count, np.int32)
    return Clicks(item, none, gap, none, np.zeros(count, np.bool_), user, np.arange(count) * 60_000)


@pytest.mark.parametrize("pairs", [20, 500, 1_000_000])
def test_neighbours_are_counted_some_items_at_a_time(monkeypatch: pytest.MonkeyPatch, pairs: int) -> None:
    """However many pairs are summed at once, each table is what a plain count over all pairs gives."""
    monkeypatch.setattr(cooccurrence, "PAIRS", pairs)
    clicks, weight = clicks_of(users=25), np.random.default_rng(1).random(500) + 0.5
    masses = {name: np.zeros((ITEMS, ITEMS)) for name in ("near", "following")}
    begins = (clicks.gap == 9) | (np.arange(500) % 20 == 0)
    session, item = np.cumsum(begins), clicks.item.tolist()
    for one in range(500):
        for other in range(one + 1, min(one + WINDOW + 1, 500)):
            if session[one] == session[other] and item[one] != item[other] and max(item[one], item[other]) < ITEMS:
                mass = float(weight[other]) / (other - one)
                masses["near"][item[one], item[other]] += mass
                masses["near"][item[other], item[one]] += mass
                if other == one + 1:
                    masses["following"][item[one], item[other]] += mass
    counted = count_neighbours(clicks, weight, ITEMS)
    for name, dense in masses.items():
        table, share = getattr(counted, name), np.zeros((ITEMS, ITEMS))
        np.add.at(share, (np.arange(ITEMS)[:, None], table.items[1:-1]), table.share[1:-1])
        np.testing.assert_allclose(table.total[1:-1], dense.sum(axis=1), rtol=1e-6)
        np.testing.assert_allclose(share, dense / (dense.sum(axis=1, keepdims=True) + PRIOR), rtol=1e-6, atol=1e-9)


def test_surprises_do_not_depend_on_who_is_met_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six users at a time or all: each click has the same surprise, bit for bit."""
    torch.manual_seed(0)
    directory, log = tmp_path / "m" / "1", shop(users=61)
    train_model(directory, log, replace(SETTINGS, epochs=1), Silent())
    clicks = encode(log, vocabulary_of(log), 3_600_000).where(np.random.default_rng(0).random(len(log)) < 0.7)
    state = load_network(directory).state
    whole = surprises(directory, state, clicks)
    monkeypatch.setattr(calibrate, "USERS", 6)
    np.testing.assert_array_equal(surprises(directory, state, clicks), whole)
    assert len(np.unique(whole)) > 100


def test_states_are_those_of_the_whole_log_wherever_they_are_asked_for() -> None:
    """Outputs and memories of some clicks are rows of those of all, and users who were not asked for are not run."""
    torch.manual_seed(0)
    clicks = clicks_of(users=40)
    network = Network(Sizes(ITEMS, 0, 12, 8)).eval()
    every, rows = np.arange(len(clicks)), np.flatnonzero(np.random.default_rng(1).random(len(clicks)) < 0.02)
    windows = Windows(clicks, length=7)
    whole = outputs(network, windows, every)[rows]
    torch.testing.assert_close(outputs(network, windows, rows), whole, atol=1e-6, rtol=0)
    for some, all_of in zip(memories(clicks, rows, 8), memories(clicks, every, 8), strict=True):
        np.testing.assert_array_equal(some, all_of[rows])
    run = np.concatenate([batch.rows[batch.real] for batch in windows.in_order(100, rows)])
    np.testing.assert_array_equal(np.unique(clicks.user[run]), np.unique(clicks.user[rows]))


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0, 1, NEW_SESSION - 1, NEW_SESSION]))),
    st.integers(1, 9),
    st.sampled_from([8, 12]),
)
def test_different_items_are_remembered_the_last_first(
    history: list[tuple[int, int]], users: int, remembered: int
) -> None:
    """After each click: the last different items, and how often each was clicked in this session."""
    item, gap = (np.array([click[part] for click in history] * users) for part in (0, 1))
    none, user = np.zeros(len(item), np.int32), np.repeat(np.arange(users, dtype=np.int32), len(history))
    clicks = Clicks(item.astype(np.int32), none, gap.astype(np.uint8), none, none.astype(np.bool_), user, item * 0)
    rows = np.arange(len(item))[::-1][::2]
    for row, recent, visit in zip(rows.tolist(), *memories(clicks, rows, remembered), strict=True):
        before = history[: row % len(history) + 1]
        begins = max(i for i in range(len(before)) if i == 0 or before[i][1] in (0, NEW_SESSION))
        items = list(dict.fromkeys(item for item, _ in reversed(before)))
        assert recent[recent > 0].tolist() == [item + 1 for item in items[:remembered]]
        if len(items) <= remembered:  # an item that was forgotten would have fewer clicks
            session = [item for item, _ in before[begins:]]
            assert visit[: len(items)].tolist() == [session.count(item) for item in items]


def test_what_is_learned_from_is_few_bytes_a_click() -> None:
    """Columns, their parts and the windows: below 40 bytes a click; int64 copies in memory took 94."""
    count = 400_000
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(count // 10, dtype=np.int32), 10)
    item, event_type = rng.integers(0, 1000, count, np.int32), np.zeros(count, np.int32)
    names = [str(i) for i in range(1000)]
    log = Log(user, item, event_type, user, np.arange(count) * 1000, names, names, ["view"], [])
    vocabulary = vocabulary_of(log)
    tracemalloc.start()
    clicks = encode(log, vocabulary, 3_600_000)
    head, tail = clicks.where(clicks.time_ms < 360_000_000), clicks.where(clicks.time_ms >= 360_000_000)
    for part in (head, tail):
        assert sum(batch.real.sum() for batch in Windows(part).shuffled(512, rng)) == len(part)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(head) + len(tail) == count
    assert peak / count < 40
