"""Generates clicks and bad messages, sends them at a steady rate, and records what Kafka acknowledged.

A tenth of the messages is not a valid click; the generator knows the reason that the dead letter must have
(docs/events.md). The times of the clicks are ten minutes apart on average and jump back now and then, so some
users are forgotten within a run, and hundreds of hours are over. Now and then a bot clicks one item a dozen
times, so that there are alerts. Some clicks give or take the user's consent, most have a price and a category, and the
workers have rules for triggers of each kind. The same seed gives the same messages; only the speed of sending differs.
"""

import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, Message, Producer

START_MS = 1_100_000_000_000
STEP_MS = 600_000
LONGEST_MESSAGE = 4_096
"""The workers' --max-message-bytes."""

ITEMS, EVENT_TYPES = [f"i{n}" for n in range(300)], ["view", "cart", "purchase"]
BAD_SHARE, BOT_SHARE, BOT_CLICKS = 0.1, 0.01, 12

TRIGGERS = """
[[trigger]]
name = "cart"
kind = "abandoned"
has = ["cart"]
without = ["purchase"]
cooldown = "3d"
consent = true
control = 0.3

[[trigger]]
name = "back"
kind = "away"
after = "1d"
cooldown = "4d"

[[trigger]]
name = "more"
kind = "after"
events = ["purchase"]
cooldown = "1d"

[[trigger]]
name = "hot"
kind = "trending"
least = 2
times = 1
significance = 1.0
without = ["purchase"]
cooldown = "2d"

[[trigger]]
name = "cheaper"
kind = "price_drop"
drop = 0.1
over = "3d"
least = 1
without = ["purchase"]
cooldown = "2d"
"""
"""The workers' --triggers."""


class Sent(NamedTuple):
    """A message that was sent. `reason` is the one of its dead letter; None for a valid click."""

    key: bytes | None
    value: bytes | None
    reason: str | None


def messages(seed: int) -> Iterator[Sent]:
    """Endless messages; no two are equal."""
    rng = random.Random(seed)
    now_ms, n = START_MS, 0
    while True:
        n += 1
        now_ms += round(rng.expovariate(1 / STEP_MS))
        user = f"once{n}" if rng.random() < 0.05 else f"user{n // 2_000 * 40 + rng.randrange(250)}"
        if rng.random() < BOT_SHARE:
            for second in range(BOT_CLICKS):
                made = {"user_id": f"bot{n}", "item_id": "i7", "timestamp": now_ms + 1_000 * second, "n": second}
                yield Sent(f"bot{n}".encode(), json.dumps(made).encode(), None)
        late_ms = rng.randrange(3 * STEP_MS) if rng.random() < 0.05 else 0
        click = {
            "user_id": user,
            "item_id": f"i{int(rng.random() ** 2 * 330)}",
            "event_type": rng.choice(["view", "view", "view", "cart", "purchase", "share"]),
            "timestamp": now_ms - late_ms,
            "n": n,
        }
        if n % 3 == 0:
            click["consent"] = n % 5 > 0
        if n % 4:
            click["price"] = (29.9, 24.95, 19.9)[n // 100 % 3]
        if n % 5:
            click["category"] = f"c{n % 11}"
        if rng.random() < BAD_SHARE:
            yield bad(rng, n, click)
        else:
            yield Sent(user.encode(), json.dumps(click).encode(), None)


def bad(rng: random.Random, n: int, click: dict[str, Any]) -> Sent:
    """A message that is refused, made from a valid click."""
    key, text = click["user_id"].encode(), json.dumps(click)
    other = {name: value for name, value in click.items() if name != "item_id"}
    return rng.choice(
        [
            Sent(f"empty{n}".encode(), None, "empty_value"),
            Sent(None, text.encode(), "empty_key"),
            Sent(key, json.dumps([click]).encode(), "wrong_fields"),
            Sent(key, json.dumps(other).encode(), "wrong_fields"),
            Sent(key, text.replace(': "i', ': "\udcff', 1).encode(errors="surrogateescape"), "not_utf8"),
            Sent(key, text[:-2].encode(), "not_json"),
            Sent(b"not-" + key, text.encode(), "key_is_not_user"),
            Sent(key, json.dumps(click | {"timestamp": 86_400}).encode(), "bad_timestamp"),
            Sent(key, json.dumps(click | {"timestamp": 3_900_000_000_000}).encode(), "future_timestamp"),
            Sent(key, json.dumps(click | {"more": "x" * LONGEST_MESSAGE}).encode(), "too_large"),
        ]
    )


class Traffic:
    """Sends `messages(seed)` in a thread of its own, `rate` a second, also while brokers are down.

    sent      every message that was sent
    offsets   for each of them (partition, offset), as acknowledged; None until then. The offset is -1 if Kafka
              acknowledged a repetition (an idempotent producer does not learn the first offset)
    """

    def __init__(self, broker: str, topic: str, seed: int, rate: float) -> None:
        self._topic, self._rate = topic, rate
        self._messages = messages(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._producer = Producer(
            {
                "bootstrap.servers": broker,
                "partitioner": "murmur2_random",
                "linger.ms": 10,
                "enable.idempotence": True,  # a repetition after a broker crash is stored once, and in order
                "message.timeout.ms": 600_000,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        self.sent: list[Sent] = []
        self.offsets: list[tuple[int, int] | None] = []
        self.failed: list[str] = []

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Send no more, and wait until Kafka has everything. What it has not is in `failed`."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        left = self._producer.flush(60)
        if left:
            self.failed.append(f"{left} messages were not acknowledged within 60 s")

    def send_bad(self, partition: int) -> None:
        """Send a message that is no click to a partition. It changes no state."""
        self._produce(Sent(b"x", b"%d" % len(self.sent), "wrong_fields"), partition)

    def _send(self) -> None:
        began = time.monotonic()
        while not self._over.wait(0.01):
            for _ in range(len(self.sent), int((time.monotonic() - began) * self._rate)):
                self._produce(next(self._messages))
            self._producer.poll(0)

    def _produce(self, one: Sent, partition: int = -1) -> None:
        at = len(self.sent)
        self.sent.append(one)
        self.offsets.append(None)

        def delivered(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                self.failed.append(f"message {at} was not stored: {error}")
            else:
                self.offsets[at] = message.partition(), message.offset()

        self._producer.produce(self._topic, one.value, one.key, partition, on_delivery=delivered)
