"""The events Eddy reads and writes, as they stand on the topics (JSON objects with these fields).

A click comes in; exactly one Recommendation goes out for it (the decision), an Anomaly where its surprise is too
unlikely, or a DeadLetter where the message was no click. Every output's `id` is derived from the click's place in its
topic, so a consumer can drop repeats without asking Eddy.
"""

import hashlib
from typing import NamedTuple

from msgspec import Struct


class Partition(NamedTuple):
    """One partition of one topic: the key of whatever is kept per partition, never the bare number."""

    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}-{self.number}"


class Origin(NamedTuple):
    """Where a message was read: its place in Kafka, which is also its identity."""

    topic: str
    partition: int
    offset: int

    @property
    def id(self) -> str:
        return f"{self.topic}-{self.partition}-{self.offset}"


class Click(Struct, frozen=True, gc=False, omit_defaults=True):
    """One event of one user: a view, a cart, a purchase ... `timestamp` is ms since the epoch, UTC."""

    user_id: str
    item_id: str
    timestamp: int
    event_type: str = "view"
    session_id: str | None = None
    price: float | None = None
    quantity: float | None = None
    category: str | None = None


class Recommendation(Struct, frozen=True, gc=False, omit_defaults=True):
    """The decision on one click: the top items for the user's next one, best first.

    log_probs     natural log of the model's probability of each item, over its whole catalogue; non-increasing where
                  neither diversity nor exploration moved an item
    surprise      of the click itself under the state before it, in nats
    p_value       conformal, in (0, 1]; small = unusual
    model         "name/version" of the model that decided
    propensities  only with exploration: the probability with which each slot shows the item it shows, given the click
    explored      only with exploration: the slots (0 = first) that it filled
    items_cut     only where the whole list was larger than the topic takes: how many of its last items were left out
    """

    id: str
    user_id: str
    item_id: str
    timestamp: int
    items: list[str]
    log_probs: list[float]
    surprise: float
    p_value: float
    model: str
    propensities: list[float] | None = None
    explored: list[int] | None = None
    items_cut: int = 0


class Expected(Struct, frozen=True, gc=False):
    """An item the model held likely, and its probability."""

    item_id: str
    probability: float


class Anomaly(Struct, frozen=True, gc=False, omit_defaults=True):
    """An alert: what was expected, what came, how unlikely that is, and by which rule it is reported.

    score         high = anomalous: -log10 of the p-value
    threshold     the alert is raised when p_value <= threshold, which is also the promised false-alarm rate per click
    pool          which calibration pool judged it (event type and history length), and its size
    expected_cut  only where the alert was larger than its topic takes: how many of `expected` were left out
    """

    id: str
    user_id: str
    item_id: str
    event_type: str
    timestamp: int
    reason: str
    surprise: float
    p_value: float
    score: float
    threshold: float
    pool: str
    pool_size: int
    expected: list[Expected]
    model: str
    expected_cut: int = 0


class DeadLetter(Struct, frozen=True, gc=False):
    """A message that is no click, with why and where it came from.

    key, value              the original bytes in base64, cut where the letter would be larger than its topic takes
    key_bytes, value_bytes  how long they were; 0 also where there was none
    """

    id: str
    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    timestamp: int
    key: str | None
    value: str | None
    value_bytes: int
    key_bytes: int


def hashed(user: bytes) -> str:
    """A user's key as log lines show it: the first 12 hex digits of its SHA-256.

    Whoever knows the user finds the line: `printf %s USER | sha256sum | cut -c1-12`.
    """
    return hashlib.sha256(user).hexdigest()[:12]
