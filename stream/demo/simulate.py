"""Simulates the users of the shop: seeded streams of clicks, each with the truth about bots and stolen accounts.

Every actor is an endless generator of (time, number, click, truth) with its own random generator. The shop's stream is
the merge of all actors by time. A message never contains the truth. `python -m stream.demo.simulate` writes a log
without bots and stolen accounts, to train a model.

The same seed gives the same stream, and the timestamps of a user are strictly ascending.
"""

import argparse
import csv
import gzip
import heapq
import io
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from stream.demo.shop import CATEGORIES, Shop, build_shop, related
from stream.events import Click

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
DECADES_MS = 40 * 365 * DAY_MS

AWAY_MS = 40 * MINUTE_MS
"""Shortest time between two sessions of a user. After a shorter one, a new session would look like a bot's jump."""
SESSION_GAP_MS = 3 * HOUR_MS
THINKING_MS = 2 * MINUTE_MS
ENDS = 0.13
"""Chance that a click is the session's last one before the purchases: about 8 clicks per session."""
DRIFTS = 0.08
"""Chance per session that a related category replaces one of the user's favourites."""
MOVES = 0.003
"""Chance per session that all of a user's favourites change. An event that happens more often than the worker's alpha
is no anomaly, so MOVES and STRAYS are small."""
FAVOURITES = (0.65, 0.25, 0.10)
STRAYS = 0.0001
"""Chance that a click of a person is on a random item of the shop."""

SCRAPERS_PER_1000 = 4
REPEATERS_PER_1000 = 2
TAKEN_OVER = 0.01
"""Chance per session, from the user's second one, that a thief uses the account."""


class Simulated(NamedTuple):
    """One click of the simulation. `truth` is "" for the owner of the account, else scraper, repeater or takeover."""

    timestamp: int
    actor: int
    click: Click
    truth: str


def simulate(shop: Shop, users: int, seed: int, start_ms: int) -> Iterator[Simulated]:
    """The endless stream of a shop in time order. A few users are bots or have a stolen account."""
    scrapers = max(1, users * SCRAPERS_PER_1000 // 1000)
    repeaters = max(1, users * REPEATERS_PER_1000 // 1000)
    behaviours: list[Callable[[Shop, random.Random, int, int], Iterator[Simulated]]] = [
        *[_scraper] * scrapers,
        *[_repeater] * repeaters,
        *[_sometimes_taken_over] * users,
    ]
    actors = [
        behaviour(shop, random.Random(f"{seed}/{number}"), number, start_ms)
        for number, behaviour in enumerate(behaviours)
    ]
    return heapq.merge(*actors)


def simulate_clean(shop: Shop, users: int, seed: int, start_ms: int) -> Iterator[Simulated]:
    """The same stream without bots and stolen accounts, to train a model."""
    return heapq.merge(
        *(_person(shop, random.Random(f"{seed}/{number}"), number, start_ms, 0.0) for number in range(users))
    )


def break_message(rng: random.Random, click: Click, value: bytes) -> bytes:
    """Make a broken message from a click, as a faulty producer would send it."""
    breakages: tuple[Callable[[], bytes], ...] = (
        lambda: value[: rng.randrange(1, len(value))],  # cut off
        lambda: value.replace(click.item_id.encode(), b"\xff\xfe"),  # not UTF-8
        lambda: value.replace(b'"item_id"', b'"item"'),  # a field under another name
        lambda: value.replace(b"%d" % click.timestamp, b"%d" % (click.timestamp + DECADES_MS)),  # a clock that is ahead
        lambda: value.replace(b"%d" % click.timestamp, b'"yesterday"'),  # text instead of a number
        lambda: b"",
    )
    return rng.choice(breakages)()


def _sometimes_taken_over(shop: Shop, rng: random.Random, number: int, start_ms: int) -> Iterator[Simulated]:
    return _person(shop, rng, number, start_ms, TAKEN_OVER)


def _person(shop: Shop, rng: random.Random, number: int, start_ms: int, taken_over: float) -> Iterator[Simulated]:
    """Sessions of a user with a brand and three favourite categories, which change; some sessions are a thief's."""
    user = _name(number)
    brand = rng.randrange(len(shop.weights))
    favourites = _favourites(rng)
    now, sessions = start_ms + int(rng.random() * SESSION_GAP_MS), 0
    while True:
        sessions += 1
        session_id = f"{user}-{sessions}"
        if sessions > 1 and rng.random() < taken_over:
            acts, truth = _steal(shop, rng, favourites), "takeover"
        else:
            acts, truth = _browse(shop, rng, brand, favourites), ""
        for wait_ms, item, event_type in acts:
            now += wait_ms
            yield Simulated(now, number, _click(shop, user, item, now, event_type, session_id), truth)
        if rng.random() < DRIFTS:
            favourites[rng.randrange(len(favourites))] = rng.choice(related(favourites[0]))
        if rng.random() < MOVES:
            favourites = _favourites(rng)
        now += AWAY_MS + int(rng.expovariate(1 / SESSION_GAP_MS))


def _browse(shop: Shop, rng: random.Random, brand: int, favourites: list[int]) -> Iterator[tuple[int, int, str]]:
    """One session as (pause in ms, item, event type): a random walk over items with views and carts, then purchases."""
    category = rng.choices(favourites, FAVOURITES)[0]
    item = _from_category(shop, rng, category, brand)
    before, cart = item, list[int]()
    yield 0, item, "view"
    while True:
        if item not in cart and rng.random() < 0.10:
            cart.append(item)
            yield _pause(rng), item, "cart"
        if rng.random() < ENDS:
            break
        drawn = rng.random()
        if drawn < STRAYS:
            after = rng.randrange(len(shop.items))
        elif drawn < 0.62:
            after = rng.choices(shop.successors[item], cum_weights=shop.weights[brand][item])[0]
        elif drawn < 0.76:
            after = rng.choices(shop.successors[before], cum_weights=shop.weights[brand][before])[0]
        else:
            after = _from_category(shop, rng, category, brand)
        if after != item:
            before, item = item, after
            yield _pause(rng), item, "view"
    for bought in cart:
        if rng.random() < 0.6:
            yield _pause(rng), bought, "purchase"


def _steal(shop: Shop, rng: random.Random, favourites: list[int]) -> Iterator[tuple[int, int, str]]:
    """A session of a thief: expensive items from categories that the owner never looks at, bought quickly."""
    strange = [category for category in range(len(CATEGORIES)) if category not in related(favourites[0])]
    for _ in range(rng.randrange(6, 14)):
        item = rng.choice(shop.expensive[rng.choice(strange)])
        yield _pause(rng) // 4 + 1, item, "view"
        if rng.random() < 0.5:
            yield _pause(rng) // 8 + 1, item, "purchase"


def _scraper(shop: Shop, rng: random.Random, number: int, start_ms: int) -> Iterator[Simulated]:
    """A bot that views 100 to 300 random items at a constant pace, and repeats this after some hours."""
    user, now, rounds = _name(number), start_ms + int(rng.random() * HOUR_MS), 0
    while True:
        rounds += 1
        for item in rng.sample(range(len(shop.items)), rng.randrange(100, 300)):
            now += rng.randrange(28_000, 32_000)
            yield Simulated(now, number, _click(shop, user, item, now, "view", f"{user}-{rounds}"), "scraper")
        now += int(rng.uniform(3, 9) * HOUR_MS)


def _repeater(shop: Shop, rng: random.Random, number: int, start_ms: int) -> Iterator[Simulated]:
    """A bot that clicks the same three items many times, so that they look popular."""
    user, now, rounds = _name(number), start_ms + int(rng.random() * HOUR_MS), 0
    while True:
        rounds += 1
        pushed = rng.sample(range(len(shop.items)), 3)
        for turn in range(rng.randrange(40, 120)):
            now += rng.randrange(55_000, 65_000)
            click = _click(shop, user, pushed[turn % 3], now, "view", f"{user}-{rounds}")
            yield Simulated(now, number, click, "repeater")
        now += int(rng.uniform(3, 9) * HOUR_MS)


def _favourites(rng: random.Random) -> list[int]:
    """Three related categories; the first is the most used one."""
    return rng.sample(related(rng.randrange(len(CATEGORIES))), len(FAVOURITES))


def _from_category(shop: Shop, rng: random.Random, category: int, brand: int) -> int:
    """A random item of a category, mostly of the user's brand; popular items are more frequent."""
    drawn = brand if rng.random() < 0.7 else rng.randrange(len(shop.weights))
    items = shop.by_brand[category][drawn]
    return items[int(len(items) * rng.random() ** 1.7)]


def _pause(rng: random.Random) -> int:
    """Milliseconds between two clicks of a session: at least one second, log-normal."""
    return 1_000 + int(THINKING_MS * math.exp(rng.gauss(0.0, 0.7)))


def _click(shop: Shop, user: str, item: int, now_ms: int, event_type: str, session_id: str) -> Click:
    bought = shop.items[item]
    return Click(
        user_id=user,
        item_id=bought.item_id,
        timestamp=now_ms,
        event_type=event_type,
        session_id=session_id,
        price=bought.price,
        quantity=1.0 if event_type == "purchase" else None,
        category=CATEGORIES[bought.category],
    )


def _name(number: int) -> str:
    return f"user-{number:05d}"


COLUMNS = ("user_id", "session_id", "item_id", "event_type", "timestamp", "price", "quantity", "category")


def write_log(clicks: Iterator[Simulated], path: Path) -> int:
    """Write clicks as CSV, with gzip if the name ends in .gz, and return their number.

    The same clicks give the same bytes.
    """
    written = 0
    with _open(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for simulated in clicks:
            writer.writerow([getattr(simulated.click, column) for column in COLUMNS])
            written += 1
    return written


def _open(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        packed = gzip.GzipFile(path, "wb", compresslevel=6, mtime=0)  # mtime=0: the same clicks give the same bytes
        return io.TextIOWrapper(cast(IO[bytes], packed), encoding="utf-8", newline="")
    return path.open("w", encoding="utf-8", newline="")


def main() -> None:
    """Write a log of simulated days for `eddy train`, without bots and stolen accounts."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--users", type=int, default=2000)
    parser.add_argument("--days", type=float, default=3.0, help="simulated days")
    parser.add_argument("--seed", type=int, default=1, help="seed of the users; the demo uses another one")
    parser.add_argument("--start-ms", type=int, default=1_735_689_600_000, help="first timestamp, ms since 1970")
    parser.add_argument("--out", type=Path, required=True, help="FILE.csv or FILE.csv.gz")
    given = parser.parse_args()
    end_ms = given.start_ms + given.days * DAY_MS
    stream = simulate_clean(build_shop(), given.users, given.seed, given.start_ms)
    written = write_log(_until(stream, end_ms), given.out)
    print(f"{given.out}: {written} clicks of {given.users} users")


def _until(stream: Iterator[Simulated], end_ms: float) -> Iterator[Simulated]:
    for simulated in stream:
        if simulated.timestamp >= end_ms:
            return
        yield simulated


if __name__ == "__main__":
    main()
