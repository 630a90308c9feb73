"""Converts events to JSON bytes that fit the size limit of their topic.

An event that is too large is shortened. Then a field of the event has the number of omitted items.
"""

from itertools import accumulate

from msgspec.structs import replace

from stream.events import Anomaly, Recommendation
from stream.trigger import Trigger
from stream.wire.json import encode

LONGEST_REASON = 500


def fit_recommendation(decision: Recommendation, most_bytes: int) -> tuple[bytes, int]:
    """Convert a recommendation to JSON bytes, with as many of its first items as fit.

    most_bytes  size limit in bytes. The recommendation without items must fit
    returns     the JSON bytes, and the number of omitted items
    """
    whole = encode(decision)
    if len(whole) <= most_bytes:
        return whole, 0
    count = len(decision.items)
    room = most_bytes - len(encode(_first(decision, 0)))
    keep = sum(size <= room for size in accumulate(_item_bytes(decision, i) for i in range(count)))
    return encode(_first(decision, keep)), count - keep


def _first(decision: Recommendation, count: int) -> Recommendation:
    """Return the recommendation with only the first `count` items of its list."""
    return replace(
        decision,
        items=decision.items[:count],
        log_probs=decision.log_probs[:count],
        propensities=decision.propensities and decision.propensities[:count],
        explored=decision.explored and [slot for slot in decision.explored if slot < count],
        items_cut=len(decision.items) - count,
    )


def _item_bytes(decision: Recommendation, slot: int) -> int:
    """Return the largest number of JSON bytes that one slot of the list needs: its values, each with a comma."""
    size = len(encode(decision.items[slot])) + len(encode(decision.log_probs[slot])) + 2
    if decision.propensities is not None:
        size += len(encode(decision.propensities[slot])) + 1
    if decision.explored is not None and slot in decision.explored:
        size += len(encode(slot)) + 1
    return size


def fit_trigger(trigger: Trigger, most_bytes: int) -> bytes:
    """Convert a trigger to JSON bytes, with as many of its first items as fit.

    most_bytes  size limit in bytes. The trigger without items must fit
    """
    whole = encode(trigger)
    if len(whole) <= most_bytes:
        return whole
    room = most_bytes - len(encode(replace(trigger, items=[])))
    keep = sum(size <= room for size in accumulate(len(encode(item)) + 1 for item in trigger.items))
    return encode(replace(trigger, items=trigger.items[:keep]))


def fit_anomaly(alert: Anomaly, most_bytes: int) -> bytes:
    """Convert an alert to JSON bytes. If it does not fit, omit the expected items and shorten the reason.

    Then `expected_cut` has the number of omitted items.

    most_bytes  size limit in bytes. The alert without expected items must fit
    """
    whole = encode(alert)
    if len(whole) <= most_bytes:
        return whole
    return encode(replace(alert, expected=[], reason=alert.reason[:LONGEST_REASON], expected_cut=len(alert.expected)))
