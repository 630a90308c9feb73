"""The simulated shop's shelves: 600 items in 24 categories, with prices, brands, and what people look at next.

The shop comes from one fixed seed and the users from another, so that a model trained on simulated history knows the
shop of every demo, but none of its users. Nothing here is drawn from real data.
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
"""Categories stand in groups of four that go together: shoes, clothes, camping, cycling, devices, home."""
BRANDS = "aknsv"
ITEMS_PER_BRAND = 5

SHOP_SEED = 600
SUCCESSOR_WEIGHTS = (10.0, 6.0, 4.0, 2.0, 1.0)
LOYALTY = 4.0
"""How much heavier a successor of the user's own brand weighs: what only the user's history can tell."""


@dataclass(frozen=True)
class Item:
    """One item of the shop; price in the shop's currency."""

    item_id: str
    category: int
    brand: int
    price: float


@dataclass(frozen=True)
class Shop:
    """The shelves. Items are numbers into `items`; weights are cumulative, as `random.choices` takes them.

    shelf       category -> brand -> its items, most popular first
    successors  item -> what people look at after it
    follow      brand -> item -> cumulative weights of its successors, for a user of that brand
    expensive   category -> its dearest items
    """

    items: tuple[Item, ...]
    shelf: tuple[tuple[tuple[int, ...], ...], ...]
    successors: tuple[tuple[int, ...], ...]
    follow: tuple[tuple[tuple[float, ...], ...], ...]
    expensive: tuple[tuple[int, ...], ...]


def build_shop(seed: int = SHOP_SEED) -> Shop:
    """The shop of a seed: the same on every machine and Python."""
    rng = random.Random(seed)
    items: list[Item] = []
    shelf: list[tuple[tuple[int, ...], ...]] = []
    for category, name in enumerate(CATEGORIES):
        level = rng.uniform(2.0, 5.0)
        brands: list[tuple[int, ...]] = []
        for brand, letter in enumerate(BRANDS):
            brands.append(tuple(range(len(items), len(items) + ITEMS_PER_BRAND)))
            for number in range(ITEMS_PER_BRAND):
                price = round(2.718 ** rng.gauss(level, 0.5), 2)
                items.append(Item(f"{name}-{letter}{number + 1}", category, brand, price))
        shelf.append(tuple(brands))
    successors = tuple(_successors(number, items, shelf, rng) for number in range(len(items)))
    return Shop(
        items=tuple(items),
        shelf=tuple(shelf),
        successors=successors,
        follow=tuple(tuple(_follow(items, brand, chosen) for chosen in successors) for brand in range(len(BRANDS))),
        expensive=tuple(_expensive(items, category) for category in range(len(CATEGORIES))),
    )


def companions(category: int) -> range:
    """The categories that go together with one, itself included."""
    first = category - category % NEIGHBOURS
    return range(first, first + NEIGHBOURS)


def _successors(
    number: int, items: list[Item], shelf: list[tuple[tuple[int, ...], ...]], rng: random.Random
) -> tuple[int, ...]:
    """Five others: most from the same category, the rest from those that go together with it."""
    category = items[number].category
    chosen: list[int] = []
    while len(chosen) < len(SUCCESSOR_WEIGHTS):
        place = category if rng.random() < 0.6 else rng.choice(companions(category))
        other = rng.choice(rng.choice(shelf[place]))
        if other != number and other not in chosen:
            chosen.append(other)
    return tuple(chosen)


def _follow(items: list[Item], brand: int, successors: tuple[int, ...]) -> tuple[float, ...]:
    loyal = [LOYALTY if items[other].brand == brand else 1.0 for other in successors]
    return tuple(accumulate(weight * factor for weight, factor in zip(SUCCESSOR_WEIGHTS, loyal, strict=True)))


def _expensive(items: list[Item], category: int) -> tuple[int, ...]:
    mine = [number for number, item in enumerate(items) if item.category == category]
    return tuple(sorted(mine, key=lambda number: -items[number].price)[:10])
