"""Committed batches -> figures for the meter, and examples that say what a figure alone does not.

Everything here runs in the event loop's thread, after a batch is committed: a batch that was rolled back and comes
again counts once. A batch costs one pass over its timestamps and a bounded sample of its keys and dead letters.
"""

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np

from stream.events import Origin, hashed
from stream.kafka.partitioners import Placements
from stream.kafka.transport import Chunk
from stream.meter import Meter
from stream.model.runtime import Model
from stream.state.arena import Arena
from stream.worker.batch import Batch, Refused

KEYS_PER_BATCH = 64
LETTERS_PER_BATCH = 5
LONGEST_READ = 65_536
MOST_FIELDS = 20


@dataclass(frozen=True)
class Example:
    """What messages refused for one reason look like.

    detail  of one of them, as its dead letter has it, with its user id hashed
    fields  names of the fields in the latest of them, sorted; empty where they are not JSON objects
    """

    detail: str
    fields: tuple[str, ...]


class Observed:
    """Figures and examples of what one worker has committed.

    partitions  of the topic that the clicks are read from
    clock_ms    ms since the epoch, to compare with the records' timestamps
    """

    def __init__(
        self,
        meter: Meter,
        model: Model,
        arena: Arena,
        partitions: int,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.meter = meter
        self.placements = Placements(partitions)
        self.examples: dict[str, Example] = {}
        self._model = model
        self._arena = arena
        self._clock_ms = clock_ms
        self._rng = random.Random(0)

    def committed(self, chunks: Sequence[Chunk], batch: Batch) -> None:
        """Take in a batch that has just been committed, and the chunks it was made of."""
        count, clicks, decisions = self.meter.count, batch.clicks, batch.cycle.decisions
        stamps = np.array([record.timestamp for chunk in chunks for record in chunk.records], np.float64)
        count("messages", len(stamps))
        count("clicks_lost", sum(chunk.lost for chunk in chunks))
        count("clicks", len(decisions.p_value))
        count("unknown_items", int((clicks.item == len(self._model.items)).sum()))
        count("unknown_event_types", int((clicks.event_type == len(self._model.manifest.event_types)).sum()))
        count("alerts", len(decisions.alerts.click))
        for reason, n in Counter(refused.why.reason for refused in batch.refused).items():
            count("dead_letters", n, reason=reason)
        for field, n in batch.left_out.items():
            count("left_out", n, field=field)
        self.meter.level("users", len(self._arena))
        self.meter.observe("latency", (self._clock_ms() - stamps[stamps > 0]) / 1000.0)
        self._sample_letters(batch.refused)
        self._sample_keys(chunks, batch.refused)

    def _sample_letters(self, refused: Sequence[Refused]) -> None:
        fields: dict[str, set[str]] = {}
        for letter in self._some(refused, LETTERS_PER_BATCH):
            message = _object(letter.record.value)
            seen = fields.setdefault(letter.why.reason, set())
            seen.update(message)
            users = [letter.record.key, str(message.get("user_id", "")).encode()]
            self.examples[letter.why.reason] = Example(
                _printable(_without_users(letter.why.detail, users)),
                tuple(map(_printable, sorted(seen)[:MOST_FIELDS])),
            )

    def _sample_keys(self, chunks: Sequence[Chunk], refused: Sequence[Refused]) -> None:
        """Keys of clicks: a refused message has no state that could lie in the wrong partition."""
        ends = list(accumulate(len(chunk.records) for chunk in chunks))
        dead = {letter.origin for letter in refused}
        for at in self._some(range(ends[-1] if ends else 0), KEYS_PER_BATCH):
            number = next(i for i, end in enumerate(ends) if at < end)
            chunk, record = chunks[number], chunks[number].records[at - ends[number]]
            if Origin(*chunk.partition, record.offset) not in dead:
                self.placements.add(record.key, chunk.partition.number, record.offset)

    def _some(self, what: Sequence[Any], most: int) -> Sequence[Any]:
        """All of it, or a random sample: a regular one could hit one of several producers only."""
        return what if len(what) <= most else self._rng.sample(what, most)


def _object(value: bytes | None) -> dict[str, Any]:
    """The message as a JSON object; an empty one if it is none, or too long to look at."""
    if not value or len(value) > LONGEST_READ:
        return {}
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        return {}


def _without_users(detail: str, users: Sequence[bytes | None]) -> str:
    """The detail with these ids hashed; a detail shows their first 64 characters, plain or as Python writes them."""
    for user in filter(None, users):
        text = user.decode(errors="replace")
        for shown in {text, text[:64], repr(text[:64])[1:-1], repr(user[:64])[2:-1]}:
            detail = re.sub(rf"(?<!\w){re.escape(shown)}(?!\w)", hashed(user), detail)
    return detail


def _printable(text: str) -> str:
    """A producer's text on one line of a log: at most 200 characters, none of them a control character."""
    return "".join(c if c.isprintable() else "?" for c in text[:200])
