"""The properties of the simulated shop."""

from itertools import pairwise

import pytest

from stream.demo.shop import (
    BRANDS,
    CATEGORIES,
    ITEMS_PER_BRAND,
    LOYALTY,
    NEIGHBOURS,
    SUCCESSOR_WEIGHTS,
    build_shop,
    related,
)

SHOP = build_shop()
COUNT = len(CATEGORIES) * len(BRANDS) * ITEMS_PER_BRAND


def test_every_item_is_in_its_category_and_brand_once() -> None:
    """The shop has 600 items with different names and a price."""
    placed = [item for brands in SHOP.by_brand for items in brands for item in items]
    assert sorted(placed) == list(range(COUNT)) == list(range(len(SHOP.items)))
    assert len({item.item_id for item in SHOP.items}) == COUNT
    for category, brands in enumerate(SHOP.by_brand):
        for brand, items in enumerate(brands):
            for number in items:
                one = SHOP.items[number]
                assert (one.category, one.brand) == (category, brand)
                assert one.item_id.startswith(f"{CATEGORIES[category]}-{BRANDS[brand]}")
                assert one.price > 0


def test_successors_are_other_items_of_related_categories() -> None:
    """Successors are in related categories, and no item is its own successor."""
    for number, chosen in enumerate(SHOP.successors):
        assert len(set(chosen)) == len(SUCCESSOR_WEIGHTS)
        assert number not in chosen
        assert all(SHOP.items[other].category in related(SHOP.items[number].category) for other in chosen)


def test_a_users_brand_is_four_times_as_likely() -> None:
    """The weights are cumulative, and only successors of the user's brand have a higher weight."""
    for brand, by_item in enumerate(SHOP.weights):
        for number, cumulative in enumerate(by_item):
            single = [cumulative[0], *(b - a for a, b in pairwise(cumulative))]
            factors = [LOYALTY if SHOP.items[other].brand == brand else 1.0 for other in SHOP.successors[number]]
            assert single == pytest.approx([w * f for w, f in zip(SUCCESSOR_WEIGHTS, factors, strict=True)])


def test_the_expensive_items_are_the_ten_most_expensive_of_a_category() -> None:
    """Thieves buy the most expensive items."""
    for category, chosen in enumerate(SHOP.expensive):
        prices = sorted((item.price for item in SHOP.items if item.category == category), reverse=True)
        assert [SHOP.items[number].price for number in chosen] == prices[:10]


def test_groups_of_categories_do_not_overlap() -> None:
    """Related categories form groups: being related is symmetric and transitive."""
    groups = {tuple(related(category)) for category in range(len(CATEGORIES))}
    assert sorted(category for group in groups for category in group) == list(range(len(CATEGORIES)))
    assert all(len(group) == NEIGHBOURS for group in groups)
    assert all(category in related(category) for category in range(len(CATEGORIES)))
