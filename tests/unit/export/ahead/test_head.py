"""The head: it learns a known rule, is calibrated, and is not trusted where the newest clicks contradict it."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from export.ahead.calibration import Labels
from export.ahead.choose import chosen_head, fit_ahead, weights
from export.ahead.counters import counters_of
from export.ahead.fit import Examples, Fitted, fit_head
from export.ahead.network import AheadHead, Logits, spans, time_logits
from export.ahead.upcoming import EDGES_MS, LEFT_AFTER, RETURN_AFTER, upcoming
from export.dataset.windows import Clicks
from stream.ahead.counters import COUNTERS

VIEW, CART, BUY, TYPES = 0, 1, 2, 3
NAMES = ("view", "cart", "purchase")
MINUTE, DAY = 60_000, 86_400_000
BUYS = {0: 0.05, 1: 0.3, 2: 0.8}
"""Probability of a purchase in the session, by its carts so far."""


def shop(users: int, seed: int, buys: dict[int, float] = BUYS) -> Clicks:
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
        if rng.random() < buys[min(carts, 2)]:
            rows.append((user, at, BUY))
    user, time_ms, event_type = (np.array(column) for column in zip(*rows, strict=True))
    zeros = np.zeros(len(user), np.int32)
    return Clicks(
        zeros, event_type.astype(np.int32), zeros.astype(np.uint8), zeros, zeros > 0, user.astype(np.int32), time_ms
    )


def known(clicks: Clicks) -> Examples:
    """All labels are known: the log goes on for weeks."""
    counted = counters_of(clicks.user, clicks.time_ms, clicks.event_type, clicks.item, TYPES)
    label = upcoming(clicks.user, clicks.time_ms, clicks.event_type, TYPES, BUY, 20 * DAY)
    event_type = torch.from_numpy(clicks.event_type.astype(np.int64))
    return Examples(torch.from_numpy(counted), event_type, clicks.user.astype(np.int64), label)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    torch.set_num_threads(1)
    return fit_head(known(shop(600, 1)), TYPES, 0)


@pytest.fixture(scope="module")
def head(fitted: Fitted) -> AheadHead:
    return fitted.head


class Told(NamedTuple):
    next: Tensor
    intent: Tensor
    leaves: Tensor


@torch.no_grad()
def told_of(head: AheadHead, examples: Examples) -> Told:
    found = head(examples.counters, examples.event_type)
    return Told(found[:, :TYPES], found[:, TYPES], found[:, TYPES + 1])


def test_the_head_learns_the_rule_and_its_probabilities_hold(head: AheadHead) -> None:
    """On users it never saw: after the third click, the probability is that of the rule, for each number of carts."""
    later = known(shop(2000, 2))
    told = told_of(head, later)
    third = (later.counters[:, 0] == 3) & (later.event_type != BUY)
    carts = later.counters[:, 7 + CART]
    for number, expected in BUYS.items():
        rows = third & (carts == number)
        assert float(told.intent[rows].mean()) == pytest.approx(expected, abs=0.2)
        assert float(told.next[rows, BUY].mean()) == pytest.approx(expected, abs=0.2)
        assert float(told.leaves[rows].mean()) == pytest.approx(1 - expected, abs=0.2)


def test_probabilities_are_of_one_distribution(head: AheadHead) -> None:
    """Event types and leaving sum to 1 with the unknown type, which has never been seen."""
    told = told_of(head, known(shop(50, 3)))
    total = told.next.sum(dim=1) + told.leaves
    assert float(total.max()) <= 1.00001
    assert float(total.min()) > 0.97


def test_leaving_and_returning_are_products_of_the_hazards() -> None:
    hazard = torch.rand(5, len(EDGES_MS)) * 0.5
    leaves, returns = time_logits(torch.logit(hazard), spans(RETURN_AFTER)).t()
    stays_away = 1 - hazard
    torch.testing.assert_close(torch.sigmoid(leaves), stays_away[:, :LEFT_AFTER].prod(dim=1))
    torch.testing.assert_close(torch.sigmoid(returns), 1 - stays_away[:, LEFT_AFTER:RETURN_AFTER].prod(dim=1))


def test_a_head_without_trust_is_the_table_of_what_followed_each_event_type(head: AheadHead) -> None:
    """The shares are counted here click by click; the table has one click of all types more."""
    clicks = shop(600, 1)
    seen, followed, left = np.zeros(TYPES + 1), np.zeros((TYPES + 1, TYPES + 1)), np.zeros(TYPES + 1)
    for at in range(len(clicks)):
        kind = clicks.event_type[at]
        seen[kind] += 1
        if at + 1 < len(clicks) and clicks.user[at + 1] == clicks.user[at]:
            followed[kind, clicks.event_type[at + 1]] += 1
        else:
            left[kind] += 1
    head.trust, kept = torch.zeros(TYPES + 4), head.trust
    told = told_of(head, known(clicks))
    head.trust = kept
    for kind in (VIEW, CART, BUY):
        at = int(np.flatnonzero(clicks.event_type == kind)[0])
        assert float(told.leaves[at]) == pytest.approx(left[kind] / seen[kind], abs=0.01)
        np.testing.assert_allclose(told.next[at], followed[kind, :TYPES] / seen[kind], atol=0.01)


def trusted(head: AheadHead, later: Clicks) -> Tensor:
    """The weights of the networks by the later clicks alone."""
    examples = known(later)
    label, nothing = Labels.of(examples.label, TYPES), Logits(*torch.zeros(2, len(later), TYPES + 4))
    return weights(label, head.sources(examples.counters, examples.event_type), label, nothing)


def test_networks_that_hold_are_trusted_and_others_are_not(head: AheadHead) -> None:
    """The same shop a day later, and one in which carts have changed their meaning: there the table is better."""
    assert trusted(head, shop(500, 4))[:3].min() >= 0.75
    assert trusted(head, shop(500, 4, {0: 0.8, 1: 0.3, 2: 0.05}))[1] < 0.01


def test_few_clicks_decide_little(head: AheadHead) -> None:
    """Of a slice with four users nobody knows whether the networks hold."""
    few, many = trusted(head, shop(4, 11)), trusted(head, shop(500, 4))
    assert (few - 0.5).abs()[:3].max() < 0.35
    assert many[:3].min() > 0.85


def test_the_slice_alone_decides_the_weights() -> None:
    """A log whose newest part has turned around: served is the table, although the networks fit the log's rest."""
    torch.set_num_threads(1)
    first, second = shop(250, 5), shop(200, 6, {0: 0.8, 1: 0.3, 2: 0.05})
    joined = Clicks(*(np.concatenate([getattr(first, n), getattr(second, n)]) for n in first.__dataclass_fields__))
    joined.user[len(first) :] += 250
    joined.time_ms[len(first) :] += 2 * DAY
    found = chosen_head(joined, 2 * DAY, TYPES, BUY, 0)
    assert found.weights[1] < 0.01


def test_a_slice_without_known_labels_leaves_the_weights_to_users_that_were_left_out(fitted: Fitted) -> None:
    """The log ends with its slice, so nobody knows how the slice's sessions go on."""
    later, label = known(shop(40, 4)), Labels.of(known(shop(600, 1)).label, TYPES)
    unknown = Labels(*(torch.full_like(one, -1) for one in Labels.of(later.label, TYPES)))
    told = fitted.head.sources(later.counters, later.event_type)
    assert weights(unknown, told, label, fitted.unseen)[:3].min() >= 0.75
    assert weights(unknown, told, label, Logits(-fitted.unseen.networks, fitted.unseen.table))[:3].max() == 0


def test_what_is_known_of_a_user_is_not_in_the_logits_without_the_user() -> None:
    """A type that one user alone has: the table without this user does not know what follows it."""
    clicks = shop(40, 9)
    clicks.event_type[:] = VIEW
    clicks.event_type[clicks.user == 7] = CART
    fitted, only = fit_head(known(clicks), TYPES, 0), clicks.user == 7
    seen = fitted.head.table[CART, CART]
    assert float(seen.exp()) > 0.5
    assert float(fitted.unseen.table[torch.from_numpy(only), CART].exp().max()) < 0.1


def test_the_first_networks_have_the_shares_of_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a shop where a purchase follows rarely: networks that begin at other shares are kept on the way to these."""
    monkeypatch.setattr("export.ahead.fit.RATE", 0.0)
    examples = known(shop(400, 10, {0: 0.02, 1: 0.02, 2: 0.02}))
    label = Labels.of(examples.label, TYPES)
    bias = fit_head(examples, TYPES, 0).head.bias
    stays = label.next_type[label.next_type >= 0]
    shares = stays.bincount(minlength=TYPES + 1) / len(stays)
    torch.testing.assert_close(bias[: TYPES + 1].softmax(dim=0), shares, atol=2e-3, rtol=0)
    assert float(bias[TYPES + 1].sigmoid()) == pytest.approx(float((label.intent == 1).float().mean()), abs=2e-3)
    leaves = time_logits(bias[TYPES + 2 :].unsqueeze(0), spans(RETURN_AFTER))[0, 0].sigmoid()
    assert float(leaves) == pytest.approx(float((label.left == 1).float().mean()), abs=5e-3)


def log_of(rows: list[tuple[int, int, int]]) -> Clicks:
    """Clicks of (user, time in ms, event type), sorted by the first two."""
    user, time_ms, event_type = (np.array(column) for column in zip(*sorted(rows), strict=True))
    zeros = np.zeros(len(user), np.int32)
    return Clicks(
        zeros, event_type.astype(np.int32), zeros.astype(np.uint8), zeros, zeros > 0, user.astype(np.int32), time_ms
    )


def timed(users: int, seed: int) -> Clicks:
    """Sessions whose last click a program sends, 30.000 s after the one before. People take 29.9 to 30.1 s at times."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        at = int(rng.integers(DAY))
        for _ in range(int(rng.integers(1, 4))):
            rows.append((user, at, VIEW))
            at += int(rng.choice([29_900, 29_990, 30_010, 30_100, 5_000, 90_000]))
        rows.append((user, rows[-1][1] + 30_000, VIEW))
    return log_of(rows)


def test_a_gap_that_a_program_makes_is_told_from_those_of_people() -> None:
    fitted = fit_head(known(timed(800, 1)), TYPES, 0).head
    assert fitted.timers.tolist()[0] == 30.0
    later = known(timed(400, 2))
    leaves, gap_s = told_of(fitted, later).leaves, later.counters[:, 2]
    assert float(leaves[gap_s == 30.0].mean()) > 0.9
    nearly = (gap_s != 30.0) & ((gap_s - 30.0).abs() < 0.2)
    assert int(nearly.sum()) > 100
    assert float(leaves[nearly].max()) < 0.1


def test_what_follows_depends_on_the_type_of_the_click_before() -> None:
    """A view after a cart is followed by a purchase, a view after a view by a cart. The counts do not tell them apart:
    each session has one cart and two views by then."""
    rng, rows = np.random.default_rng(0), []
    for user in range(600):
        first, kinds = int(rng.integers(DAY)), [VIEW, CART, VIEW, BUY] if user % 2 else [CART, VIEW, VIEW, CART]
        rows += [(user, first + at * MINUTE, kind) for at, kind in enumerate(kinds)]
    clicks = log_of(rows)
    told = told_of(fit_head(known(clicks), TYPES, 0).head, known(clicks))
    third = np.arange(len(clicks)) % 4 == 2
    buys = clicks.user % 2 == 1
    assert float(told.next[third & buys, BUY].mean()) > 0.9
    assert float(told.next[third & ~buys, CART].mean()) > 0.9


def test_an_input_that_was_always_the_same_changes_nothing() -> None:
    """The training log has no user with an earlier session. Its weights would be those of the first step."""
    examples = known(shop(600, 1))
    head = fit_head(examples, TYPES, 0).head
    later = examples.counters.clone()
    later[:, COUNTERS.index("sessions")] = 3
    with torch.no_grad():
        same, other = head(examples.counters, examples.event_type), head(later, examples.event_type)
    torch.testing.assert_close(same, other, rtol=0, atol=0)


def test_a_log_of_some_hours_says_nothing_about_earlier_sessions() -> None:
    """There the hour and the clicks of a user in all sessions say how old the log is."""
    clicks = shop(600, 1)
    clicks.time_ms[:] = clicks.time_ms % (100 * MINUTE) // 5
    clicks = clicks.where(np.lexsort((clicks.time_ms, clicks.user)))
    head, examples = fit_head(known(clicks), TYPES, 0).head, known(clicks)
    later = examples.counters.clone()
    ever = [*(COUNTERS.index(name) for name in ("clicks", "sessions", "hour")), *range(11, 15)]
    later[:, ever] += 7
    with torch.no_grad():
        same, other = head(examples.counters, examples.event_type), head(later, examples.event_type)
    torch.testing.assert_close(same, other, rtol=0, atol=0)


def test_where_the_slice_knows_nothing_the_newest_known_labels_decide() -> None:
    """A log of two hours: nobody knows how the sessions of its last half hour go on. What a cart means turns around
    after an hour, so the networks of the first hour are not trusted, although they hold for users left out."""
    rng, rows = np.random.default_rng(3), []
    for user in range(1_600):
        at, carts = int(rng.integers(120 * MINUTE)), 0
        buys = {0: 0.05, 1: 0.3, 2: 0.8} if at < 65 * MINUTE else {0: 0.8, 1: 0.3, 2: 0.05}
        for _ in range(3):
            kind = CART if rng.random() < 0.3 else VIEW
            carts += kind == CART
            rows.append((user, at, kind))
            at += 5_000
        if rng.random() < buys[min(carts, 2)]:
            rows.append((user, at, BUY))
    clicks = log_of([row for row in rows if row[1] < 120 * MINUTE])
    found = chosen_head(clicks, 108 * MINUTE, TYPES, BUY, 0)
    assert found.weights[1] <= 0.25


def test_a_log_that_cannot_carry_a_head_says_why() -> None:
    clicks = shop(20, 7)
    assert "it ends; 50 of each are needed" in str(fit_ahead(clicks, DAY, NAMES, "purchase", 0))
    many = tuple(f"type-{i}" for i in range(17))
    assert "17 event types" in str(fit_ahead(clicks, DAY, many, "purchase", 0))


def test_labels_of_leaving_are_those_of_the_next_event() -> None:
    """Near the end of the log only quick clicks are known, so neither leaving nor staying counts there."""
    clicks = shop(1, 8)
    label = upcoming(clicks.user, clicks.time_ms, clicks.event_type, TYPES, BUY, int(clicks.time_ms.max()) + 2 * MINUTE)
    assert Labels.of(label, TYPES).left.tolist() == [-1] * len(clicks)
