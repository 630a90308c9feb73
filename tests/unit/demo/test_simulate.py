"""The simulated shop: repeatable, in time order, and without the truth in the messages."""

import csv
import gzip
import random
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import msgspec
import pytest

from stream.demo.shop import CATEGORIES, build_shop
from stream.demo.simulate import break_message, simulate, simulate_clean, write_log
from stream.errors import BadClick
from stream.wire.json import JsonCodec

SHOP = build_shop()
START = 1_700_000_000_000


def test_only_the_same_seed_gives_the_same_stream() -> None:
    """A demo is repeatable: shop, clicks and truth depend only on the seeds."""
    first = list(islice(simulate(SHOP, 50, 7, START), 3000))
    assert first == list(islice(simulate(build_shop(), 50, 7, START), 3000))
    assert first != list(islice(simulate(SHOP, 50, 8, START), 3000))


def test_times_ascend_and_a_users_clicks_have_distinct_times() -> None:
    """The stream is in time order, and user and timestamp identify a click."""
    clicks = [simulated.click for simulated in islice(simulate(SHOP, 80, 3, START), 20_000)]
    assert all(earlier.timestamp <= later.timestamp for earlier, later in pairwise(clicks))
    assert clicks[0].timestamp >= START
    assert len({(click.user_id, click.timestamp) for click in clicks}) == len(clicks)


def test_the_truth_is_known_and_is_not_in_the_message() -> None:
    """Bots and thieves behave as their truth describes, and a message does not contain the truth."""
    stream = list(islice(simulate(SHOP, 600, 5, START), 40_000))
    count = Counter(simulated.truth for simulated in stream)
    assert set(count) == {"", "scraper", "repeater", "takeover"}
    assert count[""] > 0.9 * len(stream)
    for truth in ("scraper", "repeater"):
        owners = {simulated.actor for simulated in stream if simulated.truth == truth}
        assert all(simulated.truth == truth for simulated in stream if simulated.actor in owners)
    robbed = {simulated.actor for simulated in stream if simulated.truth == "takeover"}
    assert all(any(not s.truth for s in stream if s.actor == actor) for actor in robbed), "a victim clicks before"
    message = msgspec.json.encode(stream[0].click)
    assert not any(word in message for word in (b"truth", b"scraper", b"repeater", b"takeover"))
    repeats = [s.click for s in stream if s.truth == "repeater"]
    assert len({click.item_id for click in repeats}) < len(repeats) / 10
    scraped = [s.click for s in stream if s.truth == "scraper"][:100]
    assert len({click.item_id for click in scraped}) > 60


def test_clean_history_holds_people_only_and_every_event_type() -> None:
    """The training data has no bots, covers the shop, and has carts before purchases."""
    stream = list(islice(simulate_clean(SHOP, 300, 1, START), 30_000))
    assert {simulated.truth for simulated in stream} == {""}
    types = Counter(simulated.click.event_type for simulated in stream)
    assert types["view"] > types["cart"] > types["purchase"] > 0
    assert {s.click.item_id for s in stream} > {item.item_id for item in SHOP.items[::7]}
    carts = {(s.click.session_id, s.click.item_id) for s in stream if s.click.event_type == "cart"}
    assert all((s.click.session_id, s.click.item_id) in carts for s in stream if s.click.event_type == "purchase")


def test_the_shop_is_the_same_for_every_seed_of_users() -> None:
    """600 items in 24 categories with prices; the shop's seed is its own."""
    assert len(SHOP.items) == 600
    assert len(CATEGORIES) == 24
    assert len({item.item_id for item in SHOP.items}) == 600
    assert all(item.price > 0 for item in SHOP.items)
    assert build_shop() == SHOP


def test_the_worker_refuses_every_broken_message() -> None:
    """Each kind of broken message becomes a dead letter: none is read as a click."""
    rng = random.Random(0)
    click = next(simulate(SHOP, 5, 0, START)).click
    value, codec = msgspec.json.encode(click), JsonCodec(65_536, 3_600_000)
    broken = {break_message(rng, click, value) for _ in range(300)}
    assert len(broken) > 6
    for message in broken:
        with pytest.raises(BadClick):
            codec.decode(click.user_id.encode(), message, click.timestamp + 1000)


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
def test_a_log_is_written_the_same_each_time(tmp_path: Path, name: str) -> None:
    """The training log of the shop's model is reproducible byte by byte."""
    paths = tmp_path / "a" / name, tmp_path / "b" / name
    for path in paths:
        assert write_log(islice(simulate_clean(SHOP, 20, 1, START), 500), path) == 500
    assert paths[0].read_bytes() == paths[1].read_bytes()
    data = paths[0].read_bytes()
    text = (gzip.decompress(data) if name.endswith("gz") else data).decode()
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 500
    assert rows[0]["event_type"] == "view"
    assert int(rows[0]["timestamp"]) >= START
