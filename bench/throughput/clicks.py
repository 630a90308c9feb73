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

from bench.throughput.contenders.model import decode
from export.dataset.windows import Clicks
from export.log.log import Vocabulary
from export.model.calibrate import calibrated, surprises
from export.model.directory import write_calibration
from export.model.untrained import write_untrained
from stream.lists.rules import NO_CATEGORY
from stream.manifest import sha256, write_manifest
from stream.model.gaps import gap_bucket

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
    """Write a model with random weights, calibrated on made-up clicks, so that alerts are as rare as in a shop.

    With a calibration of random numbers, many clicks would be alerts, each with a list of expected items.
    """
    types = list(dict.fromkeys(EVENTS))
    manifest = write_untrained(directory, [f"i{number}" for number in range(ITEMS)], types, HIDDEN, ranked=ITEMS)
    made = [decode(message.value) for message in made_up(CALIBRATED_ON, seed=1)]
    made.sort(key=lambda click: (click.user_id, click.timestamp))
    _, user = np.unique([click.user_id for click in made], return_inverse=True)
    item = np.array([int(click.item_id[1:]) for click in made], np.int32)
    time_ms = np.array([click.timestamp for click in made])
    first = np.append(True, user[1:] != user[:-1])
    gap = gap_bucket(np.diff(time_ms, prepend=time_ms[0]), first, manifest.gap_edges_ms).astype(np.uint8)
    event_type = np.array([types.index(click.event_type) for click in made], np.int32)
    clicks = Clicks(item, event_type, gap, np.full_like(item, -1), first & False, user.astype(np.int32), time_ms)
    surprise, event_surprise = surprises(directory, manifest.state, clicks)
    vocabulary = Vocabulary([f"i{number}" for number in range(ITEMS)], tuple(types), manifest.gap_edges_ms)
    every, none = np.ones(len(made), np.bool_), np.full(ITEMS, NO_CATEGORY, np.int64)
    calibration = calibrated(surprise, event_surprise, clicks, every, vocabulary, none, clicks)
    write_calibration(directory, calibration)
    files = {**manifest.files, "calibration.npz": sha256(directory / "calibration.npz")}
    names = tuple(calibration.pools)
    write_manifest(directory, msgspec.structs.replace(manifest, calibration=names, files=files))


def send(producer: Producer, topic: str, clicks: list[Message]) -> None:
    """Send clicks as fast as possible, and wait until Kafka has all of them."""
    for click in clicks:
        producer.produce(topic, click.value, click.key)
        producer.poll(0)
    if producer.flush(60):
        raise TimeoutError(f"Kafka did not store the clicks of {topic} within 60 s")
