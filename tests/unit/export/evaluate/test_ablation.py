"""Ablations use the network that was judged, and do not change it."""

import copy
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.dataset.windows import Windows
from export.evaluate import ablation
from export.evaluate.ablation import NOTHING, ablations, temporarily
from export.fit.mixture import count_cooccurrence, mix
from export.log.log import GAP_EDGES_MS, Log
from export.measure.ranking import list_ranks, recall_and_mrr
from export.network.mixture import AGES, CLOSED
from export.network.network import Network, Sizes
from export.network.states import memories, outputs
from export.train.holdout import HeldOut, halves, hold_out

ITEMS, USERS, CLICKS = 300, 500, 8
LAST, FOLLOWERS, NEIGHBOURS, REPEATS = ablation.SOURCES
NO_SHIFT = np.zeros(ITEMS + 1)


def log_of(item: NDArray[np.int64], pause_ms: NDArray[np.int64], event_types: int = 1) -> Log:
    """Items (USERS, CLICKS) as clicks, pause_ms (USERS, CLICKS) after each; event types in turn."""
    start = 1_700_000_000_000 + 60_000 * np.arange(USERS)[:, None]
    user = np.repeat(np.arange(USERS, dtype=np.int32), CLICKS)
    return Log(
        user=user,
        item=item.ravel().astype(np.int32),
        event_type=(np.arange(USERS * CLICKS) % 3 % event_types).astype(np.int32),
        session=user,
        time_ms=(start + np.cumsum(pause_ms, axis=1)).ravel(),
        users=[f"u{i}" for i in range(USERS)],
        items=[f"i{i}" for i in range(ITEMS)],
        event_types=[f"e{i}" for i in range(event_types)],
        sessions=[],
    )


ALIKE = np.full((USERS, CLICKS), 20_000)


def chains(pause_ms: NDArray[np.int64] = ALIKE, event_types: int = 1) -> Log:
    """After item i comes item 7 i + 3, whoever clicks, and nobody comes back to one."""
    item = np.empty((USERS, CLICKS), np.int64)
    item[:, 0] = np.random.default_rng(0).integers(0, ITEMS, USERS)
    for t in range(1, CLICKS):
        item[:, t] = (7 * item[:, t - 1] + 3) % ITEMS
    return log_of(item, pause_ms, event_types)


def returns() -> Log:
    """Every user goes round three items of their own."""
    own = np.random.default_rng(0).integers(0, ITEMS, (USERS, 3))
    return log_of(own[:, np.arange(CLICKS) % 3], ALIKE)


class Judged(NamedTuple):
    network: Network
    held_out: HeldOut
    rows: NDArray[np.int64]
    quality: dict[str, float]

    def alone(self, network: Network) -> tuple[float, float]:
        """recall@20 and MRR@20 of another network on the same clicks."""
        seen = self.held_out.seen
        out, remembered = outputs(network, Windows(seen), self.rows), memories(seen, self.rows, AGES)
        return recall_and_mrr(list_ranks(network, out, remembered, seen.target[self.rows]))


def judged(log: Log, seed: int = 0) -> Judged:
    """A network that has learned nothing, its mixture counted and fitted."""
    torch.manual_seed(seed)
    held_out = hold_out(log)
    network = Network(Sizes(len(held_out.vocabulary.items), len(log.event_types), len(GAP_EDGES_MS) + 2, 16)).eval()
    torch.nn.init.normal_(network.event_rows)
    torch.nn.init.normal_(network.gap_rows)
    count_cooccurrence(network, held_out.head, held_out.popularity, None, None)
    quality = mix(network, held_out.seen, held_out.cut_ms, seed)
    return Judged(network, held_out, halves(held_out.seen, held_out.cut_ms)[1], quality)


@pytest.fixture(scope="module")
def chained() -> Judged:
    return judged(chains())


def test_the_lists_as_served_are_those_that_the_training_judged(chained: Judged) -> None:
    """The first row equals the result of `mix` on the same clicks bit by bit, and its difference is 0."""
    row = ablations(chained.network, chained.held_out.seen, chained.rows, NO_SHIFT)[NOTHING]
    assert row == {"judged": len(chained.rows), **chained.quality}
    assert row["recall20"] > 0.9


def test_followers_are_missed_where_they_carry_the_signal(chained: Judged) -> None:
    """In chains only the last items predict the next: without them recall is lost, and without followers the order is
    worse."""
    found = ablations(chained.network, chained.held_out.seen, chained.rows, NO_SHIFT)
    assert found[LAST]["recall20"] < 0.2
    assert found[LAST]["change"]["recall20"]["95"][1] < -0.7
    assert found[FOLLOWERS]["change"]["mrr20"]["95"][1] < -0.1
    assert found[REPEATS]["change"]["recall20"]["mean"] == pytest.approx(0, abs=0.02)
    for name in (LAST, FOLLOWERS, NEIGHBOURS, REPEATS):
        change = found[name]["change"]["recall20"]
        assert change["mean"] == pytest.approx(found[name]["recall20"] - found[NOTHING]["recall20"])
        assert change["95"][0] <= change["mean"] <= change["95"][1]


def test_repeats_are_missed_where_people_come_back() -> None:
    """Where everyone goes round items of their own, repeats carry the recall; others' followers do not."""
    one = judged(returns())
    found = ablations(one.network, one.held_out.seen, one.rows, np.zeros(one.network.sizes.items + 1))
    assert found[NOTHING]["recall20"] > 0.65  # five of seven next clicks come back to an item
    assert found[REPEATS]["change"]["recall20"]["95"][1] < -0.3
    assert found[FOLLOWERS]["change"]["recall20"]["mean"] > -0.05


def test_inputs_and_shift_are_left_out_as_a_network_without_them_would_be() -> None:
    """The rows are those of a copy whose event rows or gap rows are zeros, or whose bias is that of before."""
    pauses = np.random.default_rng(1).integers(1_000, 900_000, (USERS, CLICKS))
    one = judged(chains(pauses, event_types=3))
    gates = one.network.mixture.gates
    gates[0] = CLOSED  # the network alone, which has learned nothing: every change of its state moves its lists
    shift = np.random.default_rng(2).normal(0, 1, ITEMS + 1)
    steady = copy.deepcopy(one.network)
    one.network.item_bias.data += torch.from_numpy(shift).float()
    found = ablations(one.network, one.held_out.seen, one.rows, shift)
    served = one.alone(one.network)
    for name, attribute in (("event types", "event_rows"), ("time gaps", "gap_rows")):
        without = copy.deepcopy(one.network)
        getattr(without, attribute).data.zero_()
        assert (found[name]["recall20"], found[name]["mrr20"]) == one.alone(without) != served
    row = found["the shift of popularity"]
    assert (row["recall20"], row["mrr20"]) == pytest.approx(one.alone(steady), abs=0.005)
    assert one.alone(steady) != served


def test_what_the_log_does_not_have_gets_no_row(chained: Judged) -> None:
    """One event type, the same pause everywhere and no shift: there is nothing to leave out."""
    found = ablations(chained.network, chained.held_out.seen, chained.rows, NO_SHIFT)
    assert list(found) == [NOTHING, LAST, FOLLOWERS, NEIGHBOURS, REPEATS]
    assert ablations(chained.network, chained.held_out.seen, chained.rows[:0], NO_SHIFT) == {}


def test_network_and_mixture_stay_as_they_were() -> None:
    """Weights, gates and tables are the same bits afterwards, and after an error within, and no other tensors."""
    one = judged(chains(np.random.default_rng(1).integers(1_000, 900_000, (USERS, CLICKS)), event_types=3))
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    gates = one.network.mixture.gates
    ablations(one.network, one.held_out.seen, one.rows, np.ones(ITEMS + 1))
    with pytest.raises(KeyboardInterrupt), temporarily(gates, torch.zeros_like(gates)):
        raise KeyboardInterrupt
    assert one.network.mixture.gates is gates
    after = one.network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_large_catalogue_is_judged_on_fewer_clicks(chained: Judged, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of a part's lists are bounded, so the table costs no more where items are many."""
    monkeypatch.setattr(ablation, "SCORED", 50 * ITEMS)
    found = ablations(chained.network, chained.held_out.seen, chained.rows, NO_SHIFT)
    assert {row["judged"] for row in found.values()} == {50}
