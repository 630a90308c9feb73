"""The conversion of decisions to events, field by field."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.detect.alert import AlertRule
from stream.events import Click, Origin
from stream.wire.output import anomalies, recommendations

NAMES = np.array([f"i{n}" for n in range(9)], np.object_)
K = 4


def clicks(count: int) -> tuple[list[Click], list[Origin]]:
    read = [Origin("clicks", n % 3, 100 + n) for n in range(count)]
    return [Click(f"u{n}", f"i{n}", 1_700_000_000_000 + n, "cart") for n in range(count)], read


@settings(max_examples=40)
@given(counts=st.lists(st.integers(0, K), max_size=5), explores=st.booleans(), seed=st.integers(0, 99))
def test_every_decision_has_its_own_clicks_fields_and_its_own_list(
    counts: list[int], explores: bool, seed: int
) -> None:
    """Row i of the columns is click i; of each list only the first counts[i] items are sent, with rounded numbers."""
    n, rng = len(counts), np.random.default_rng(seed)
    given_clicks, origins = clicks(n)
    items, log_probs = rng.integers(0, len(NAMES), (n, K)), rng.normal(-4, 1, (n, K)).astype(np.float32)
    surprise, p_value = rng.exponential(5, n).astype(np.float32), rng.random(n)
    shares = rng.random((n, K)) if explores else None
    explored = (rng.random((n, K)) < 0.5) & (np.arange(K) < np.reshape(counts, (n, 1))) if explores else None
    later = np.where(rng.random(n) < 0.5, rng.permutation(n), -1)
    found = recommendations(
        NAMES, "shop/1", given_clicks, origins, items, log_probs, np.array(counts, np.int64), shares, explored,
        later, surprise, p_value,
    )  # fmt: skip
    assert [one.id for one in found] == [f"clicks-{partition}-{offset}@shop/1" for _, partition, offset in origins]
    for i, (one, click, count) in enumerate(zip(found, given_clicks, counts, strict=True)):
        assert (one.user_id, one.item_id, one.timestamp, one.model) == (
            click.user_id,
            click.item_id,
            click.timestamp,
            "shop/1",
        )
        assert one.items == [NAMES[item] for item in items[i, :count]]
        assert one.log_probs == pytest.approx(log_probs[i, :count].tolist(), abs=6e-6)
        assert all(value == round(value, 5) for value in (*one.log_probs, one.surprise))
        assert one.surprise == pytest.approx(float(surprise[i]), abs=6e-6)
        assert one.p_value == p_value[i]
        assert one.superseded_by == (None if later[i] < 0 else found[later[i]].id)
        if shares is None or explored is None:
            assert one.propensities is one.explored is None
        else:
            assert one.propensities == shares[i, :count].tolist()
            assert one.explored == [slot for slot in range(K) if explored[i, slot]]


def test_an_alert_has_the_click_the_expected_items_and_its_rule() -> None:
    """The reason is one sentence for a person; programs get the same numbers as fields."""
    given_clicks, origins = clicks(2)
    found = anomalies(
        NAMES,
        "shop/1",
        given_clicks,
        origins,
        np.array([12.3456789, 9.0], np.float32),
        np.array([0.001, 0.01]),
        [
            AlertRule("2 clicks", 900, 0.01, 100, {"rate": 0.002}, "the last 2 clicks came every 1 s"),
            AlertRule("1 click", 50, 0.02, 7, {}, "the items of the last 1 clicks were not expected"),
        ],
        np.array([[1, 2], [1, 4]]),
        np.log(np.array([[0.5, 0.25], [0.125, 0.0625]], np.float32)),
    )
    first, second = found
    assert (first.id, first.user_id, first.item_id, first.event_type) == ("clicks-0-100", "u0", "i0", "cart")
    sentence = "the last 2 clicks came every 1 s (p-value 0.001); cart of i0 where i1 or i2 was expected"
    assert first.reason == sentence
    assert second.reason.endswith("of i1, which was expected, as was i4")
    assert (first.episode, second.episode) == ("clicks-0-100", "clicks-1-7")
    assert first.statistics == {"rate": 0.002}
    assert (first.surprise, first.p_value, first.score) == (12.34568, 0.001, 3.0)
    assert (first.pool, first.pool_size, first.threshold) == ("2 clicks", 900, 0.01)
    assert [(one.item_id, one.probability) for one in first.expected] == [("i1", 0.5), ("i2", 0.25)]
    assert (second.pool, second.pool_size, second.threshold) == ("1 click", 50, 0.02)
    assert [(one.item_id, one.probability) for one in second.expected] == [("i1", 0.125), ("i4", 0.0625)]


@given(st.lists(st.floats(1e-9, 1.0), min_size=2, max_size=6))
@settings(max_examples=30)
def test_a_higher_score_is_a_smaller_p_value(p_values: list[float]) -> None:
    """Alerts can be sorted by score: high = anomalous, 0 = p-value of 1."""
    n = len(p_values)
    given_clicks, origins = clicks(n)
    none, rule = np.empty((n, 0)), AlertRule("1 click", 9, 0.5, 0, {}, "")
    found = anomalies(
        NAMES, "m/1", given_clicks, origins, np.ones(n, np.float32), np.array(p_values), [rule] * n,
        none.astype(np.int64), none.astype(np.float32),
    )  # fmt: skip
    for one, p_value in zip(found, p_values, strict=True):
        assert one.score >= 0
        assert 10**-one.score == pytest.approx(p_value, rel=2e-4)


def test_columns_of_different_lengths_raise() -> None:
    """Columns of unequal length raise, so a decision is never sent with the wrong click."""
    given_clicks, origins = clicks(3)
    with pytest.raises(ValueError, match=r"zip\(\)"):
        recommendations(
            NAMES, "m/1", given_clicks, origins[:2], np.zeros((3, 1), np.int64), np.zeros((3, 1), np.float32),
            np.ones(3, np.int64), None, None, np.full(3, -1), np.zeros(3, np.float32), np.ones(3),
        )  # fmt: skip


def test_no_clicks_are_no_events() -> None:
    """Without clicks there are no events."""
    none = np.empty(0, np.float32)
    assert recommendations(
        NAMES, "m/1", [], [], np.empty((0, K), np.int64), np.empty((0, K), np.float32), np.empty(0, np.int64), None,
        None, np.empty(0, np.intp), none, none.astype(np.float64),
    ) == []  # fmt: skip
