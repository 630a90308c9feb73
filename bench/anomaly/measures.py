"""Measures scores: false sessions, recall and delay of episodes, average precision, alerts among controls.

An episode is found at its first click whose score is above the threshold. No score counts for other clicks than its own
(no point adjustment). The threshold comes from the clean slice alone.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.anomaly.clicks import I64, World, sessions

F64 = npt.NDArray[np.float64]

PER = 10_000
FALSE = (1, 10)
"""Clean sessions with an alert, of PER."""

ALPHAS = (0.01, 0.001, 0.0001)
"""Nominal shares of sessions with an alert."""

HOUR_MS = 3_600_000
MIN_SESSIONS = 100
"""An hour with fewer sessions has no rate of its own."""


class Threshold(NamedTuple):
    """A click raises an alert if its score is above the value.

    allowed  clean sessions that may have an alert
    false    clean sessions that have one: fewer than allowed if scores are equal
    """

    value: float
    allowed: int
    false: int


class Found(NamedTuple):
    """What was found of some episodes. delay: clicks of the episode until it was found, with the one that raised it."""

    episodes: int
    found: int
    delays: list[int]


def session_maxima(score: F64, session: I64) -> F64:
    """The highest score of each session 0 to m - 1, (m,); clicks with session -1 do not count."""
    inside = session >= 0
    highest = np.full(int(session.max(initial=-1)) + 1, -np.inf)
    np.maximum.at(highest, session[inside], score[inside])
    return highest


def threshold(maxima: F64, per_10_000: int) -> Threshold:
    """The lowest score that at most this share of the clean sessions exceeds: an order statistic, no interpolation.

    maxima  (m,) highest score of each clean session. With fewer than 10,000 / per_10_000 sessions none may exceed it
    """
    allowed = len(maxima) * per_10_000 // PER
    value = float(np.sort(maxima)[len(maxima) - 1 - allowed])
    return Threshold(value, allowed, int((maxima > value).sum()))


def found(world: World, score: F64, value: float) -> Found:
    """The episodes of a world that have a click with a score above the value."""
    count = np.zeros(len(world.episodes), np.int64)
    delays: dict[int, int] = {}
    rows = np.flatnonzero(world.episode >= 0)
    for episode, high in zip(world.episode[rows].tolist(), (score[rows] > value).tolist(), strict=True):
        count[episode] += 1
        if high and episode not in delays:
            delays[episode] = int(count[episode])
    return Found(len(world.episodes), len(delays), sorted(delays.values()))


def average_precision(positive: F64, negative: F64) -> float:
    """Area under the precision-recall curve as a sum over the recall, with equal scores taken together."""
    scores = np.concatenate([positive, negative])
    labels = np.concatenate([np.ones(len(positive)), np.zeros(len(negative))])
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)
    hits = labels.cumsum()[last]
    precision = hits / (last + 1)
    return float((np.diff(hits, prepend=0) * precision).sum() / max(1, len(positive)))


def touched_maxima(world: World, score: F64) -> F64:
    """The highest score of each session that has a click of an episode."""
    numbers = sessions(world.clicks)
    touched = np.unique(numbers[world.episode >= 0])
    return session_maxima(score, numbers)[touched]


def alerts_among(world: World, score: F64, value: float) -> dict[str, int]:
    """Clicks and episodes of a control, and how many raise an alert."""
    hit = (world.episode >= 0) & (score > value)
    return {
        "users": len(world.episodes),
        "users_alerted": len(np.unique(world.episode[hit])),
        "clicks": int((world.episode >= 0).sum()),
        "clicks_alerted": int(hit.sum()),
    }


def realised(maxima: F64, start_ms: I64) -> dict[str, dict[str, float]]:
    """Nominal share of sessions with an alert -> the realised share, and that of the worst hour of the slice.

    maxima    (m,) the highest -log10 of a p-value in each clean session
    start_ms  (m,) time of its first click
    """
    hour = (start_ms - start_ms.min()) // HOUR_MS
    sessions = np.bincount(hour)
    large = sessions >= MIN_SESSIONS
    rates: dict[str, dict[str, float]] = {}
    for alpha in ALPHAS:
        alerted = maxima >= -np.log10(alpha) - 1e-12
        share = np.bincount(hour, weights=alerted)[large] / sessions[large]
        worst = round(float(share.max()), 6) if large.any() else float("nan")
        rates[f"{alpha:g}"] = {"rate": round(float(alerted.mean()), 6), "worst_hour": worst}
    return rates


def summary(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """One kind and strength over all seeds: recall and median delay at each false rate, and average precision."""
    total = sum(cell["episodes"] for cell in cells)
    figures: dict[str, Any] = {"episodes": total}
    for rate in FALSE:
        delays = sorted(delay for cell in cells for delay in cell[f"delays_{rate}"])
        figures[f"recall_{rate}"] = round(len(delays) / total, 4) if total else None
        figures[f"delay_{rate}"] = delays[(len(delays) - 1) // 2] if delays else None
    figures["auprc"] = round(float(np.mean([cell["auprc"] for cell in cells])), 4) if cells else None
    return figures
