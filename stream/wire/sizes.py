"""Events -> JSON bytes that are not larger than their topic takes: what is too long is cut, and the event says so."""

from itertools import accumulate

from msgspec.structs import replace

from stream.events import Anomaly, Recommendation
from stream.wire.json import encode

LONGEST_REASON = 500


def fit_recommendation(decision: Recommendation, most_bytes: int) -> tuple[bytes, int]:
    """The decision with the longest prefix of its list that fits, and how many items were left out.

    most_bytes  at least what the decision takes without its list
    """
    whole = encode(decision)
    if len(whole) <= most_bytes:
        return whole, 0
    count = len(decision.items)
    room = most_bytes - len(encode(_first(decision, 0)))
    keep = sum(size <= room for size in accumulate(_item_bytes(decision, i) for i in range(count)))
    return encode(_first(decision, keep)), count - keep


def _first(decision: Recommendation, count: int) -> Recommendation:
    """The decision with the first `count` items of its list."""
    return replace(
        decision,
        items=decision.items[:count],
        log_probs=decision.log_probs[:count],
        propensities=decision.propensities and decision.propensities[:count],
        explored=decision.explored and [slot for slot in decision.explored if slot < count],
        items_cut=len(decision.items) - count,
    )


def _item_bytes(decision: Recommendation, slot: int) -> int:
    """What one slot of the list adds to the JSON bytes, at most: its values, each with a comma."""
    size = len(encode(decision.items[slot])) + len(encode(decision.log_probs[slot])) + 2
    if decision.propensities is not None:
        size += len(encode(decision.propensities[slot])) + 1
    if decision.explored is not None and slot in decision.explored:
        size += len(encode(slot)) + 1
    return size


def fit_anomaly(alert: Anomaly, most_bytes: int) -> bytes:
    """The alert, without the expected items where it would not fit; `expected_cut` then says how many they were.

    most_bytes  at least what the alert takes without them
    """
    whole = encode(alert)
    if len(whole) <= most_bytes:
        return whole
    return encode(replace(alert, expected=[], reason=alert.reason[:LONGEST_REASON], expected_cut=len(alert.expected)))
