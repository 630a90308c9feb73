"""Says how good alerts were, by the verdicts of people: per statistic, and for other thresholds.

The verdicts are on alerts that were raised. So these figures say nothing of what raised no alert.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from stream.events import Anomaly

Z = 1.959963984540054
"""Of the normal distribution: 95 % lie within so many standard deviations."""

KEEP = 0.95
"""The proposed threshold keeps at least this share of the true episodes."""

NONE = "none by itself"
"""In the place of a statistic: none has a p-value of at most .01."""


class Episode(NamedTuple):
    """An episode of a user: its alerts as one.

    statistic  the strongest one in its first alert
    p_value    the smallest one
    threshold  the worker's alpha, at its first alert
    verdict    True, False, or None = nobody has judged one of its alerts. If several are judged, the last verdict
    """

    statistic: str
    p_value: float
    threshold: float
    verdict: bool | None


class Precision(NamedTuple):
    """How many episodes were judged true and false.

    low, high  95 % interval of the share of true ones among those that are judged (Wilson 1927); 0 and 1 without one
    """

    alerts: int
    episodes: int
    true: int
    false: int
    low: float
    high: float


class Choice(NamedTuple):
    """What another alpha would have kept of the judged episodes."""

    alpha: float
    true: int
    false: int


class Report(NamedTuple):
    """What the verdicts say.

    statistics  statistic -> its precision, that with most episodes first
    all         of all episodes
    choices     the largest alpha first; the first one keeps all judged episodes
    proposed    the smallest alpha that keeps KEEP of the true episodes; None if it leaves out no false one
    missing     verdicts on alerts that are not on the topic (any longer)
    """

    statistics: dict[str, Precision]
    all: Precision
    choices: list[Choice]
    proposed: float | None
    missing: int


def wilson(true: int, judged: int) -> tuple[float, float]:
    """The 95 % interval of a share. Source: Wilson 1927, Probable Inference."""
    if not judged:
        return 0.0, 1.0
    share, z2 = true / judged, Z * Z
    middle = share + z2 / (2 * judged)
    half = Z * math.sqrt(share * (1 - share) / judged + z2 / (4 * judged * judged))
    return max(0.0, (middle - half) / (1 + z2 / judged)), min(1.0, (middle + half) / (1 + z2 / judged))


def report(alerts: Iterable[Anomaly], verdicts: Mapping[str, tuple[int, bool]]) -> Report:
    """Compare alerts with verdicts.

    verdicts  id of an alert -> when it was judged, ms since the epoch, and whether it was true
    """
    by_episode: defaultdict[tuple[str, str], dict[str, _Alert]] = defaultdict(dict)
    for one in alerts:
        kept = _Alert(one.id != one.episode, next(iter(one.statistics), NONE), one.p_value, one.threshold)
        by_episode[one.user_id, one.episode][one.id] = kept
    episodes = [_episode(found, verdicts) for found in by_episode.values()]
    counts: defaultdict[str, int] = defaultdict(int)
    of: defaultdict[str, list[Episode]] = defaultdict(list)
    for found, episode in zip(by_episode.values(), episodes, strict=True):
        counts[episode.statistic] += len(found)
        of[episode.statistic].append(episode)
    ordered = sorted(of, key=lambda name: (-len(of[name]), name))
    known = {id_ for found in by_episode.values() for id_ in found}
    choices = _choices(episodes)
    return Report(
        {name: _precision(counts[name], of[name]) for name in ordered},
        _precision(sum(counts.values()), episodes),
        choices,
        _proposed(choices),
        len(verdicts.keys() - known),
    )


class _Alert(NamedTuple):
    """What is kept of an alert in memory. later: it is not the first one of its episode."""

    later: bool
    statistic: str
    p_value: float
    threshold: float


def _episode(alerts: Mapping[str, _Alert], verdicts: Mapping[str, tuple[int, bool]]) -> Episode:
    """alerts  by their ids"""
    first = min(alerts.values(), key=lambda alert: (alert.later, -alert.p_value))
    judged = [verdicts[id_] for id_ in alerts if id_ in verdicts]
    verdict = max(judged)[1] if judged else None
    return Episode(first.statistic, min(alert.p_value for alert in alerts.values()), first.threshold, verdict)


def _precision(alerts: int, episodes: list[Episode]) -> Precision:
    true = sum(one.verdict is True for one in episodes)
    false = sum(one.verdict is False for one in episodes)
    return Precision(alerts, len(episodes), true, false, *wilson(true, true + false))


def _choices(episodes: list[Episode]) -> list[Choice]:
    """The thresholds of the alerts, and below them 5, 2 and 1 of each power of ten that changes something."""
    judged = [one for one in episodes if one.verdict is not None]
    if not judged:
        return []
    largest = max(one.threshold for one in judged)
    steps = [digit * 10.0**power for power in range(-1, -10, -1) for digit in (5, 2, 1)]
    found: list[Choice] = []
    for alpha in [largest, *(step for step in steps if step < largest * (1 - 1e-9))]:
        kept = [one for one in judged if one.p_value <= alpha]
        true = sum(one.verdict is True for one in kept)
        choice = Choice(alpha, true, len(kept) - true)
        if not found or choice[1:] != found[-1][1:]:
            found.append(choice)
    return found


def _proposed(choices: list[Choice]) -> float | None:
    if not choices or not choices[0].true:
        return None
    enough = [one for one in choices if one.true >= KEEP * choices[0].true]
    return enough[-1].alpha if enough[-1].false < choices[0].false else None
