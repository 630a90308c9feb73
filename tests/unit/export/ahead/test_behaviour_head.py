"""The behaviour head: it learns a known rule and is calibrated."""

import numpy as np
import pytest
import torch

from export.ahead import fit
from export.ahead.counters import counters_of
from export.ahead.fit import Examples, fit_behaviour, states_that_help
from export.ahead.network import BehaviourHead, time_logits
from export.ahead.upcoming import EDGES_MS, LEFT_AFTER, RETURN_AFTER, upcoming

VIEW, CART, BUY, TYPES = 0, 1, 2, 3
MINUTE, DAY = 60_000, 86_400_000
BUYS = {0: 0.05, 1: 0.3, 2: 0.8}
"""Probability of a purchase in the session, by its carts so far; the state says which of two kinds a user is."""


def shop(users: int, seed: int) -> Examples:
    """Sessions of three views or carts, then a purchase with the probability of their number of carts."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        at, carts = int(rng.integers(DAY)), 0
        for _ in range(3):
            kind = CART if rng.random() < 0.3 else VIEW
            carts += kind == CART
            rows.append((user, at, kind))
            at += MINUTE
        if rng.random() < BUYS[min(carts, 2)]:
            rows.append((user, at, BUY))
    user, time_ms, event_type = (np.array(column) for column in zip(*rows, strict=True))
    counters = counters_of(user, time_ms, event_type, np.zeros_like(user), TYPES)
    label = upcoming(user, time_ms, event_type, TYPES, BUY, 20 * DAY)
    return Examples(torch.zeros(len(user), 8), torch.from_numpy(counters), torch.from_numpy(event_type), user, label)


@pytest.fixture(scope="module")
def head() -> BehaviourHead:
    torch.set_num_threads(1)
    return fit_behaviour(shop(800, 1), TYPES, (False, False, False), 0)


def test_the_head_learns_the_rule_and_its_probabilities_hold(head: BehaviourHead) -> None:
    """On users it never saw: after the third click, the probability is that of the rule, for each number of carts."""
    later = shop(2000, 2)
    told = head.told(later.direction, later.counters, later.event_type)
    third = (later.counters[:, 0] == 3) & (later.event_type != BUY)
    carts = later.counters[:, 7 + CART]
    for number, expected in BUYS.items():
        rows = third & (carts == number)
        assert float(told.intent[rows].mean()) == pytest.approx(expected, abs=0.15)
        assert float(told.next[rows, BUY].mean()) == pytest.approx(expected, abs=0.15)
        assert float(told.leaves[rows].mean()) == pytest.approx(1 - expected, abs=0.15)


def test_probabilities_are_of_one_distribution(head: BehaviourHead) -> None:
    """Event types and leaving sum to 1 with the unknown type, which has never been seen."""
    later = shop(50, 3)
    told = head.told(later.direction, later.counters, later.event_type)
    total = told.next.sum(dim=1) + told.leaves
    assert float(total.max()) <= 1.00001
    assert float(total.min()) > 0.97


def test_leaving_and_returning_are_products_of_the_hazards() -> None:
    hazard = torch.rand(5, len(EDGES_MS)) * 0.5
    leaves, returns = time_logits(torch.logit(hazard))
    stays_away = 1 - hazard
    torch.testing.assert_close(torch.sigmoid(leaves), stays_away[:, :LEFT_AFTER].prod(dim=1))
    torch.testing.assert_close(torch.sigmoid(returns), 1 - stays_away[:, LEFT_AFTER:RETURN_AFTER].prod(dim=1))


def test_a_state_that_says_the_answer_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "EPOCHS", 4)
    torch.set_num_threads(1)
    parts = [shop(300, seed) for seed in (4, 5)]
    told = []
    for part in parts:
        answer = torch.from_numpy((part.label.intent == 1).astype(np.float32))
        told.append(part._replace(direction=torch.stack([answer, 1 - answer], dim=1)))
    assert states_that_help(*told, TYPES, 0)[2]
