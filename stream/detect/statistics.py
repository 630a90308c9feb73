"""What a detector looks at: a few numbers on the last clicks of a user in the session. High = unusual.

    clicks        the items of the last LAST clicks: sum of -log of the p-values of their surprises (Fisher's method)
    event types   the event types of the last LAST clicks: sum of their surprises
    regular gaps  how little the gaps between the last LAST clicks differ, and how many there are
    steady pace   the same for all gaps of the session
    rate          how fast the last clicks followed each other, and how many there are
    one item      how often the commonest of the last items was clicked
    twins         how many clicks of the session repeat the click before within a second
    category run  how many clicks in a row were on items of one category, each on none of the LAST - 1 items before

Each statistic but those of OF_SESSIONS is compared only with those after about as many clicks of a session
(`fill_class`), so a long window is no reason for an alert. Source of the sum: Fisher 1932, Statistical Methods for
Research Workers.
"""

import numpy as np
import numpy.typing as npt

from stream.detect.tail import F32, F64, I32, I64, OF_COUNTS, OF_NATS
from stream.detect.windows import CLOCK_MS, LAST, PER_NAT, TWIN_MS, Bools, Windows, log_gap

STATISTICS = ("clicks", "event types", "regular gaps", "rate", "one item", "twins", "category run", "steady pace")

OF_SESSIONS = (False, False, False, False, False, True, False, True)
"""True for a statistic that sums over the session: it is compared with those of whole sessions."""

PERSISTENCE = "persistence"
"""How far the session has been unusual in all has this name among the statistics of an alert (detect.behaviour)."""

END = "end"
"""The end of a session has this name among the statistics of an alert (sessions.unusual)."""

SMALLEST_SCALES = (OF_NATS, OF_NATS, OF_NATS, OF_NATS, OF_COUNTS, OF_COUNTS, OF_COUNTS, OF_NATS)
"""Of the tail of each statistic. The probability that g gaps are all shorter than x falls as x^g, and that they all
differ by less than x as x^(g - 1), so the statistics of gaps are in nats too."""

NONE = -np.inf
"""The value of a statistic for which the user has too few clicks."""

CAP = 3 * PER_NAT
"""Most that one click adds to the sum of `clicks`, a p-value of .05: several clicks must be unusual, not one."""

FEWEST_GAPS = 4
"""Regularity needs at least so many gaps."""

NOISE_MS = 500.0
"""Gaps are taken as this uncertain: with a clock of whole seconds, gaps of a second or two are equal by chance."""

USUAL_MS = 30_000.0
"""A usual time between two clicks."""

FILL_EDGES = np.array([2, 3, 4, 6, 8, LAST])
CLASSES = ("1 click", "2 clicks", "3 clicks", "4 or 5 clicks", "6 or 7 clicks", "8 or 9 clicks", "10 clicks or more")
FILLS = len(CLASSES)
"""A click is compared with those after about as many clicks of a session."""


def begins_run(recent: I32, category: I32) -> Bools:
    """Whether each click (n,) does not go on with a run of items of one category.

    recent    (n, R) int32, as in `statistics`
    category  (V + 1,) int32, the category of each item; -1 = none, as for the unknown item, V
    """
    item, previous = recent[:, 0], recent[:, 1]
    its = category[item]
    again = (recent[:, 1:LAST] == item[:, None]).any(1)
    begins: Bools = (previous < 0) | again | (its < 0) | (its != category[previous])
    return begins


def fill_class(filled: I64) -> I64:
    """Convert numbers of clicks in the window (n,) to classes (n,) int64, 0 to FILLS - 1."""
    return FILL_EDGES.searchsorted(filled, "right")


def statistics(windows: Windows, recent: I32, unknown: int) -> F32:
    """The statistics of n clicks, (n, len(STATISTICS)) float32; NONE where the user has too few clicks.

    windows  as they are after each click
    recent   (n, R) int32, R >= LAST, the user's last items, newest first, the click's own included; -1 = none
    unknown  index of the unknown item. Two unknown items count as different ones
    """
    filled = windows.filled
    inside = np.arange(LAST) < filled[:, None]
    found = np.empty((len(filled), len(STATISTICS)), np.float32)
    found[:, 0] = erlang(np.where(inside, np.minimum(windows.item_nats, CAP), 0).sum(1) / PER_NAT, filled)
    found[:, 1] = np.where(inside, windows.event_nats, 0).sum(1) / PER_NAT
    within = np.arange(LAST) < filled[:, None] - 1  # the gap before a session's first click is not one of the session
    real = within & (windows.gap_ms >= 0)  # and before a late click it is not known
    gaps = real.sum(1)
    some = np.maximum(gaps, 1)
    logs = np.where(real, log_gap(windows.gap_ms), 0)
    found[:, 2] = regularity(gaps, logs.sum(1), (logs**2).sum(1))
    mean_ms = np.where(real, windows.gap_ms, 0).sum(1) / some + CLOCK_MS
    found[:, 3] = np.where(gaps > 0, -gaps * np.log(mean_ms / USUAL_MS), NONE)
    last = recent[:, :LAST]
    known = inside & (last != unknown)
    found[:, 4] = ((last[:, :, None] == last[:, None, :]) & known[:, :, None]).sum(1).max(1)
    found[:, 5] = windows.twins
    found[:, 6] = windows.run
    found[:, 7] = regularity(windows.gaps, windows.logs, windows.squares)
    return found


def regularity(gaps: npt.NDArray[np.integer], logs: I64, squares: I64) -> F64:
    """-log of the probability (n,) that gaps differ as little, up to a constant; NONE for fewer than FEWEST_GAPS.

    gaps, logs, squares  (n,) number of gaps, sum of their `log_gap`, and of its squares
    """
    some = np.maximum(gaps, 1).astype(np.float64)
    mean = logs / some
    variance = np.maximum(some * squares - logs.astype(np.float64) ** 2, 0) / (some * PER_NAT) ** 2
    noise = NOISE_MS / np.exp(mean / PER_NAT)
    return np.where(gaps >= FEWEST_GAPS, (1 - gaps) * np.log(np.sqrt(variance + noise**2) + 1e-3), NONE)


def erlang(total: F64, count: I64) -> F64:
    """-log of the probability (n,) that the sum of `count` (n,) exponential numbers of mean 1 is at least `total` (n,).

    Source: the Erlang distribution.
    """
    k = np.arange(1, LAST)
    terms = np.cumprod(total[:, None] / k, axis=1)  # total^k / k!
    found: F64 = total - np.log(1 + np.where(k < count[:, None], terms, 0.0).sum(1))
    return found


def sentence(name: str, value: float, windows: Windows, click: int) -> str:
    """What a statistic has seen, in words.

    value    of the statistic
    windows  of some clicks
    click    position of the click among them
    """
    filled = int(windows.filled[click])
    gaps_ms = [gap for gap in windows.gap_ms[click, : filled - 1].tolist() if gap >= 0]
    mean_ms = sum(gaps_ms) / max(1, len(gaps_ms))
    last = f"the last {filled} clicks"
    gaps, twins = int(windows.gaps[click]), int(windows.twins[click])
    usual_s = np.exp(windows.logs[click] / max(1, gaps) / PER_NAT) / 1000
    return {
        "clicks": f"the items of {last} were not expected",
        "event types": f"the event types of {last} were not expected",
        "regular gaps": f"{last} came at almost equal intervals of about {mean_ms / 1000:.3g} s",
        "rate": f"{last} came every {mean_ms / 1000:.3g} s",
        "one item": f"{value:.0f} of {last} were on one item",
        "twins": f"clicks of the session that repeat the click before within {TWIN_MS / 1000:.0f} s: {twins}",
        "category run": f"{value:.0f} clicks in a row were on different items of one category",
        "steady pace": f"{gaps} intervals between the clicks of the session were nearly equal, about {usual_s:.3g} s",
    }[name]


def usually(name: str, median: float, gaps: int) -> str:
    """What is usual instead, in words; empty if the statistic has no unit that a person knows.

    median  of the statistic's largest values in the held-out sessions that it is compared with
    gaps    number of gaps between the last clicks, also of those that late clicks leave unknown: the held-out sessions
            have as many
    """
    if name == "rate":
        return f"; usual are {max(0.0, USUAL_MS * np.exp(-median / gaps) - CLOCK_MS) / 1000:.3g} s"
    return f"; usual are {median:.0f}" if name in ("one item", "category run") else ""
