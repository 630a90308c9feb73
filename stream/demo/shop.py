"""The catalogue of the simulated shop: 600 items in 24 categories, with prices, brands and likely next items.

The shop has a fixed seed and the users have another one. So a model that was trained on simulated history knows the
items of every demo, but none of its users. No real data is used.
"""

import random
from dataclasses import dataclass
from itertools import accumulate

CATEGORIES = (
    "boots", "sneakers", "sandals", "socks", "jeans", "shirts", "jackets", "hats",
    "tents", "stoves", "ropes", "lamps", "bikes", "helmets", "gloves", "pumps",
    "phones", "cables", "speakers", "cameras", "books", "puzzles", "kettles", "mugs",
)  # fmt: skip
NEIGHBOURS = 4
"""Size of a group of related categories. The groups: shoes, clothes, camping, cycling, devices, home."""
BRANDS = "aknsv"
ITEMS_PER_BRAND = 5

SHOP_SEED = 600
SUCCESSOR_WEIGHTS = (10.0, 6.0, 4.0, 2.0, 1.0)
LOYALTY = 4.0
"""Factor on the weight of a successor of the user's brand. A model can learn the brand only from the user's history."""


@dataclass(frozen=True)
class Item:
    """One item of the shop; price in the shop's currency."""

    item_id: str
    category: int
    brand: int
    price: float


@dataclass(frozen=True)
class Shop:
    """The catalogue. Every item is an index into `items`; weights are cumulative, as `random.choices` takes them.

    by_brand    category -> brand -> its items, most popular first
    successors  item -> the items that users look at after it
    weights     brand -> item -> cumulative weights of its successors, for a user of that brand
    expensive   category -> its most expensive items
    """

    items: tuple[Item, ...]
    by_brand: tuple[tuple[tuple[int, ...], ...], ...]
    successors: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[tuple[float, ...], ...], ...]
    expensive: tuple[tuple[int, ...], ...]


def build_shop(seed: int = SHOP_SEED) -> Shop:
    """Build the shop of a seed. It is the same on every machine and Python version."""
    rng = random.Random(seed)
    items: list[Item] = []
    by_brand: list[tuple[tuple[int, ...], ...]] = []
    for category, name in enumerate(CATEGORIES):
        level = rng.uniform(2.0, 5.0)
        brands: list[tuple[int, ...]] = []
        for brand, letter in enumerate(BRANDS):
            brands.append(tuple(range(len(items), len(items) + ITEMS_PER_BRAND)))
            for number in range(ITEMS_PER_BRAND):
                price = round(2.718 ** rng.gauss(level, 0.5), 2)
                items.append(Item(f"{name}-{letter}{number + 1}", category, brand, price))
        by_brand.append(tuple(brands))
    successors = tuple(_successors(number, items, by_brand, rng) for number in range(len(items)))
    return Shop(
        items=tuple(items),
        by_brand=tuple(by_brand),
        successors=successors,
        weights=tuple(tuple(_weights(items, brand, chosen) for chosen in successors) for brand in range(len(BRANDS))),
        expensive=tuple(_expensive(items, category) for category in range(len(CATEGORIES))),
    )


def related(category: int) -> range:
    """The categories of a category's group, with the category itself."""
    first = category - category % NEIGHBOURS
    return range(first, first + NEIGHBOURS)


def _successors(
    number: int, items: list[Item], by_brand: list[tuple[tuple[int, ...], ...]], rng: random.Random
) -> tuple[int, ...]:
    """Five different items: most from the item's own category, the rest from its related categories."""
    category = items[number].category
    chosen: list[int] = []
    while len(chosen) < len(SUCCESSOR_WEIGHTS):
        drawn = category if rng.random() < 0.6 else rng.choice(related(category))
        other = rng.choice(rng.choice(by_brand[drawn]))
        if other != number and other not in chosen:
            chosen.append(other)
    return tuple(chosen)


def _weights(items: list[Item], brand: int, successors: tuple[int, ...]) -> tuple[float, ...]:
    loyal = [LOYALTY if items[other].brand == brand else 1.0 for other in successors]
    return tuple(accumulate(weight * factor for weight, factor in zip(SUCCESSOR_WEIGHTS, loyal, strict=True)))


def _expensive(items: list[Item], category: int) -> tuple[int, ...]:
    mine = [number for number, item in enumerate(items) if item.category == category]
    return tuple(sorted(mine, key=lambda number: -items[number].price)[:10])
