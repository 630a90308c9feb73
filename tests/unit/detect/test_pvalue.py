"""The pools of surprises: which one judges a click."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.detect.pvalue import ALL, FEWEST, HISTORIES, Pools, history_of, pool_name
from stream.detect.tail import Tail


def test_a_pool_that_is_too_small_is_replaced_by_a_coarser_one() -> None:
    """A pool needs FEWEST clicks; otherwise the event type's pool is used, or the pool of all clicks."""
    many, few = (Tail.fit(np.arange(count, dtype=np.float32)) for count in (FEWEST, FEWEST - 1))
    names = ("all", "view", "view/first", "view/long", "cart")
    table = Pools.of(names, [many, many, few, many, few], ("view", "cart")).table
    assert [[names[i] for i in row] for row in table] == [["view", "view", "view/long"], ["all"] * 3, ["all"] * 3]


def test_each_click_is_judged_by_the_pool_of_its_kind() -> None:
    """A surprise that is usual for a cart is unusual for a view."""
    high, low = (Tail.fit(np.arange(FEWEST, dtype=np.float32) + add) for add in (10 * FEWEST, 0))
    pools = Pools.of(("all", "view", "cart"), [low, low, high], ("view", "cart"))
    surprise, zeros = np.full(3, 10 * FEWEST, np.float32), np.zeros(3, np.int64)
    view, cart, unknown = np.exp(-pools.nats(surprise, np.arange(3), zeros))
    assert cart == 1.0
    assert view == unknown < 1 / FEWEST


def test_a_calibration_without_the_pool_of_all_clicks_is_refused() -> None:
    """There would be nothing to judge an unknown event type by."""
    with pytest.raises(ValueError, match="no pool `all`"):
        Pools.of(("view",), [Tail.fit(np.ones(9, np.float32))], ("view",))


@given(st.lists(st.text("al/%first2F61", max_size=9), unique=True))
def test_no_two_pools_have_the_same_name(event_types: list[str]) -> None:
    """Event types named `all` or `view/first` do not replace a pool with this name."""
    names = [ALL, *(pool_name(event_type, history) for event_type in event_types for history in (None, *HISTORIES))]
    assert len(set(names)) == len(names)


def test_usual_event_types_keep_their_names() -> None:
    """Only the characters that could be mistaken are encoded."""
    assert pool_name("view") == "view"
    assert pool_name("add to cart", "short") == "add to cart/short"
    assert (pool_name("all"), pool_name("cart/add", "long")) == ("%61ll", "cart%2Fadd/long")


def test_history_is_first_short_or_long() -> None:
    """No earlier click is `first`, one to four are `short`, more are `long`."""
    assert history_of(np.array([0, 1, 4, 5, 90])).tolist() == [0, 1, 1, 2, 2]
