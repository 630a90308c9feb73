"""States and memories of a whole log against one user's clicks at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from export.dataset.cooccurrence import NEIGHBOURS, NEW_SESSION, Counted, Neighbours
from export.dataset.windows import Clicks, Windows
from export.network.mixture import Mixture, remember
from export.network.network import Network, Sizes
from export.network.states import memories, outputs

ITEMS, UNITS, REMEMBERED = 12, 6, 8
QUICK = settings(max_examples=10, deadline=None)
CLICKS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, ITEMS), st.sampled_from([0, 1, NEW_SESSION])),
    min_size=1,
    max_size=25,
).map(lambda clicks: sorted(clicks, key=lambda click: click[0]))
"""User, item, gap bucket; sorted by user."""


def columns(clicks: list[tuple[int, int, int]]) -> Clicks:
    user, item, gap = np.array(clicks, np.int32).T
    none = np.zeros(len(clicks), np.int32)
    return Clicks(item, none, gap.astype(np.uint8), none, none > 0, user, np.arange(len(clicks)))


def network() -> Network:
    torch.manual_seed(0)
    made = Network(Sizes(ITEMS, 1, NEW_SESSION + 1, UNITS))
    none = np.zeros((ITEMS + 2, NEIGHBOURS), np.float32)
    empty = Neighbours(none.astype(np.int32), none, none[:, 0])
    made.mixture = Mixture(Counted(empty, empty, np.zeros(ITEMS)))
    return made.eval()


NETWORK = network()


def asked(count: int, data: st.DataObject) -> np.ndarray:
    return np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))), np.int64)


@QUICK
@given(CLICKS, st.data())
def test_memories_are_those_of_one_click_at_a_time(clicks: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """Users walked through side by side remember what each alone does, at every click that is asked for."""
    rows = asked(len(clicks), data)
    expected, user = [], -1
    for number, item, gap in clicks:
        if number != user:
            user, (recent, visit) = number, torch.zeros(2, 1, REMEMBERED, dtype=torch.int32)
        recent, visit = remember(torch.tensor([item]), torch.tensor([gap]), recent, visit)
        expected.append((recent[0].tolist(), visit[0].tolist()))
    found = memories(columns(clicks), rows, REMEMBERED)
    assert [(a.tolist(), b.tolist()) for a, b in zip(*found, strict=True)] == [expected[row] for row in rows]


@pytest.mark.parametrize(("length", "tokens"), [(1, 1), (3, 1_000), (4, 9)])
def test_outputs_do_not_depend_on_windows_and_batches(length: int, tokens: int) -> None:
    """A state carried from window to window is that of the user's clicks in one piece."""
    rng = np.random.default_rng(length)
    user, item = np.sort(rng.integers(0, 4, 30)), rng.integers(0, ITEMS + 1, 30)
    clicks = columns(list(zip(user.tolist(), item.tolist(), [1] * 30, strict=True)))
    rows = np.arange(2, 30, 3)
    found = outputs(NETWORK, Windows(clicks, length), rows, tokens)
    with torch.no_grad():
        for number in range(4):
            mine = np.flatnonzero(user == number)
            entered = NETWORK.embed(*clicks.inputs(mine[None]))
            values, _ = NETWORK.cell.sequence(entered, NETWORK.cell.zero_state(1))
            whole = NETWORK.output(values)[0]
            asked_here = np.isin(rows, mine)
            expected = whole[torch.from_numpy(rows[asked_here] - mine[0])]
            torch.testing.assert_close(found[torch.from_numpy(asked_here)], expected, rtol=1e-4, atol=1e-5)
