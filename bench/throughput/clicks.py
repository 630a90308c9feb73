"""Made-up clicks of a large shop, and a model with random weights whose alerts are as rare on them as in a shop."""

import random
from collections.abc import Iterator
from itertools import count as numbers
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from confluent_kafka import Producer

from bench.throughput.contenders.model import Users, decode, open_graphs
from export.model.untrained import write_untrained
from stream.manifest import read_manifest, sha256, write_manifest

ITEMS, HIDDEN, USERS = 20_000, 128, 20_000
START_MS, STEP_MS = 1_735_689_600_000, 137
EVENTS = ("view", "view", "view", "view", "cart", "purchase")
CALIBRATED_ON = 20_000


class Message(NamedTuple):
    """A click as it is sent. Its timestamp is the only one of that value."""

    key: bytes
    value: bytes
    timestamp: int


def made_up(count: int, seed: int = 0, users: int = USERS) -> list[Message]:
    """The first `count` clicks of a seed."""
    return list(islice(endless(seed, users), count))


def endless(seed: int = 0, users: int = USERS) -> Iterator[Message]:
    """The clicks of a seed, 204 bytes each on average, without an end.

    Users and items are skewed: the most active of 20,000 users makes 0.7 % of the clicks, the most popular item 4 %.
    """
    rng, encode = random.Random(seed), msgspec.json.encode
    for number in numbers():
        user, item = f"user-{int(users * rng.random() ** 2):05}", f"i{int(ITEMS * rng.random() ** 3)}"
        time_ms = START_MS + STEP_MS * number
        click = {
            "user_id": user,
            "item_id": item,
            "timestamp": time_ms,
            "event_type": rng.choice(EVENTS),
            "page": f"https://shop.example/product/{item}?session={rng.getrandbits(64):016x}",
            "referrer": "search-results",
            "device": "desktop",
        }
        yield Message(user.encode(), encode(click), time_ms)


def position(timestamp: int) -> int:
    """The position of a click among those of its seed, counted from 0."""
    return (timestamp - START_MS) // STEP_MS


def write_shop_model(directory: Path) -> None:
    """Write a model with random weights, calibrated on made-up clicks: one click in a thousand is an alert.

    With pools of random numbers, half of the clicks would be alerts, each with a list of expected items.
    """
    types = list(dict.fromkeys(EVENTS))
    write_untrained(directory, [f"i{number}" for number in range(ITEMS)], types, HIDDEN)
    users = Users(open_graphs(str(directory)))
    held_out = [decode(message.value) for message in made_up(CALIBRATED_ON, seed=1)]
    pool = np.sort(np.array([result.surprise for result in users.process(held_out)], np.float32))
    manifest = read_manifest(directory)
    path = directory / "calibration.npz"
    np.savez(path, **{f"pool_{number}": pool for number in range(len(manifest.calibration))})
    files = {**manifest.files, path.name: sha256(path)}
    write_manifest(directory, msgspec.structs.replace(manifest, files=files))


def send(producer: Producer, topic: str, clicks: list[Message]) -> None:
    """Send clicks as fast as possible, and wait until Kafka has all of them."""
    for click in clicks:
        producer.produce(topic, click.value, click.key)
        producer.poll(0)
    if producer.flush(60):
        raise TimeoutError(f"Kafka did not store the clicks of {topic} within 60 s")
