"""Finds the signs of trouble in clicks. One user with a sign means little; many at once are a fault or a campaign.

    unknown event types  the model does not know the event type of the click
    unknown items        it does not know the items of the click and of the user's click before, in one session; of the
                         click's own id it knows the form
    new form of ids      the id of the item has a form that no item of the model has (model.forms)
    twins                the click is on the same item as the user's click before, within a second
    alerts: STATISTIC    the click opens an episode, and this statistic is the strongest one
    one item in demand   it is on an item on which many more users click than usual (surge.py)

The signs of a click depend only on it and on the user's earlier clicks, but for the last one.
"""

import numpy as np
import numpy.typing as npt

from stream.detect.alert import Verdicts
from stream.detect.detector import Evidence
from stream.detect.statistics import STATISTICS
from stream.detect.windows import NO_GAP, TWIN_MS
from stream.model.gaps import SESSION_GAP_MS

WHAT = {
    "unknown event types": "sent an event type that the model does not know",
    "unknown items": "clicked two items one after the other that the model does not know",
    "twins": "sent a click on the same item again within a second",
    "new form of ids": "sent an item id of a form that no item of the model has",
}
"""Sign -> what its users did. The signs by alerts come after these."""

SIGNS = (*WHAT, *(f"alerts: {name}" for name in STATISTICS))

SURGE = "one item in demand"
"""The sign of a whole partition: no click has it by itself."""

NO_SIGN = -1


def sentence(sign: str) -> str:
    """What the users of a sign did, in words."""
    if sign == SURGE:
        return "clicked the same item, or one of few others"
    return WHAT.get(sign) or f"had an alert for {sign.removeprefix('alerts: ')!r}"


def shown(seen: Evidence, unknown_item: int, unknown_type: int) -> npt.NDArray[np.int64]:
    """The signs of n clicks but those by alerts, (n,) int64: bit i is set if the click shows SIGNS[i].

    unknown_item, unknown_type  index of the unknown item and of the unknown event type
    """
    unknown = seen.recent[:, :2] == unknown_item
    follows = (seen.gap_ms != NO_GAP) & (seen.gap_ms < SESSION_GAP_MS)
    signs = (seen.event_type == unknown_type).astype(np.int64)
    signs |= (unknown.all(1) & follows & ~seen.new_form).astype(np.int64) << 1  # one alert for a cause
    soon = (seen.gap_ms >= 0) & (seen.gap_ms <= TWIN_MS)
    signs |= (seen.same_item & soon).astype(np.int64) << 2
    found: npt.NDArray[np.int64] = signs | (seen.new_form.astype(np.int64) << 3)
    return found


def led_by(verdicts: Verdicts) -> dict[int, int]:
    """Position of each click with an alert -> the index of its sign; NO_SIGN if no statistic is unusual by itself."""
    return {
        click: SIGNS.index(f"alerts: {next(iter(rule.statistics))}") if rule.statistics else NO_SIGN
        for click, rule in zip(verdicts.alerted.tolist(), verdicts.rules, strict=True)
    }
