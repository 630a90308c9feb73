"""Checks the results of a contender: one for each click, and the same lists and surprises as the limit's."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bench.throughput.clicks import Message

TOLERANCE = 1e-3
"""Nats. The runtime adds in another order when it gets one row or several; the differences grow along a history."""

EVERY = 50
"""Each so many-th click is compared."""


class Stamp(msgspec.Struct):
    """The field of a result that names its click."""

    timestamp: int


class Judged(msgspec.Struct):
    """The fields of a result that are compared.

    superseded_by  only from Eddy with `--lists last`: there is no list, and it is not compared
    """

    timestamp: int
    items: list[str]
    log_probs: list[float]
    surprise: float
    superseded_by: str | None = None


def wrong(values: Sequence[bytes], clicks: Sequence[Message], reference: Mapping[int, Judged]) -> list[str]:
    """What is wrong with the results of `clicks`, a line each. `reference`: the results of the limit, from `sample`."""
    decode = msgspec.json.Decoder(Judged).decode
    results = [decode(value) for value in values]
    lines = uncounted(Counter(result.timestamp for result in results), (click.timestamp for click in clicks))
    compared = [(reference[one.timestamp], one) for one in results if one.timestamp in reference]
    differ = [theirs.timestamp for ours, theirs in compared if not same(ours, theirs)]
    if differ:
        lines.append(f"{len(differ)} of {len(compared)} results differ from the limit's, first at {differ[0]}")
    if not compared:
        lines.append("no result could be compared with the limit's")
    return lines


def sample(values: Iterable[bytes], clicks: Sequence[Message]) -> dict[int, Judged]:
    """The results of each EVERY-th click: timestamp -> result."""
    chosen = {click.timestamp for click in clicks[::EVERY]}
    decode = msgspec.json.Decoder(Judged).decode
    return {result.timestamp: result for result in map(decode, values) if result.timestamp in chosen}


def timestamps(values: Iterable[bytes]) -> Counter[int]:
    """How many results there are for the click of each timestamp."""
    decode = msgspec.json.Decoder(Stamp).decode
    return Counter(decode(value).timestamp for value in values)


def uncounted(found: Counter[int], expected: Iterable[int]) -> list[str]:
    """Lines about clicks without a result, with several results, and results without a click."""
    wanted = Counter(expected)
    missing, more = wanted - found, found - wanted
    lines = [f"{missing.total()} clicks have no result"] if missing else []
    twice = sum(more[timestamp] for timestamp in more if timestamp in wanted)
    if twice:
        lines.append(f"{twice} results are repeated")
    if more.total() > twice:
        lines.append(f"{more.total() - twice} results belong to no click")
    return lines


def clicks_per_list(values: Sequence[bytes]) -> float:
    """The number of results for each one that has a list."""
    decode = msgspec.json.Decoder(Judged).decode
    return len(values) / sum(decode(value).superseded_by is None for value in values)


def same(one: Judged, other: Judged) -> bool:
    """True if surprise and list are equal. Items whose log-probabilities are within TOLERANCE may change places."""
    if abs(one.surprise - other.surprise) > TOLERANCE:
        return False
    if other.superseded_by is not None:
        return not other.items
    if len(one.items) != len(other.items):
        return False
    if any(abs(a - b) > TOLERANCE for a, b in zip(one.log_probs, other.log_probs, strict=True)):
        return False
    last = one.log_probs[-1]
    ranks = dict(zip(other.items, other.log_probs, strict=True))
    pairs = zip(one.items, one.log_probs, strict=True)
    return all(abs(ranks.get(item, last) - log_prob) <= TOLERANCE for item, log_prob in pairs)
