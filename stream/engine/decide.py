"""Steps -> decisions: the top k of every user's new state, and an alert for each click that was too unlikely."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.detect.surprise import SurpriseDetector, Verdicts
from stream.engine.step import Steps
from stream.events import Anomaly, Click, Expected, Origin, Recommendation
from stream.model.runtime import F32, I64, Model, StateArray

SCORE_ROWS = 64
"""Users scored in one call: their logits over the catalogue stay in the CPU's cache (design part 3)."""

EXPECTED_ITEMS = 3


@dataclass(frozen=True)
class Lists:
    """n lists.

    items, log_probs        (n, k), of which the first counts (n,) count
    propensities, explored  (n, k) float64 and bool, None where nothing was explored
    """

    items: I64
    log_probs: F32
    counts: I64
    propensities: npt.NDArray[np.float64] | None = None
    explored: npt.NDArray[np.bool_] | None = None


def front(model: Model, state: list[StateArray], reach: int) -> tuple[I64, F32]:
    """The `reach` likeliest next items of each user and their log-probabilities, (n, reach) best first.

    state  score.onnx's inputs, each (n, *shape)
    """
    count = len(state[0])
    parts = [model.score([value[a : a + SCORE_ROWS] for value in state], reach) for a in range(0, count, SCORE_ROWS)]
    if not parts:
        return np.empty((0, reach), np.int64), np.empty((0, reach), np.float32)
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def top_items(model: Model, state: list[StateArray], left_out: npt.NDArray[np.int32], k: int) -> Lists:
    """The k likeliest next items of each user, without those left out; fewer where the catalogue is smaller.

    state     score.onnx's inputs, each (n, *shape)
    left_out  (n, N) item indices; -1 and the unknown item match none
    """
    reach = min(k + left_out.shape[1], len(model.items))
    items, log_probs = front(model, state, reach)
    unwanted = among(items, left_out)
    keep_first = np.argsort(unwanted, axis=1, kind="stable")[:, :k]
    counts = np.minimum(k, reach - unwanted.sum(1))
    return Lists(np.take_along_axis(items, keep_first, 1), np.take_along_axis(log_probs, keep_first, 1), counts)


def among(items: I64, left_out: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """(n, R) bool: which of each user's items (n, R) are among the user's left_out (n, N).

    Column by column: in one comparison (n, R, N) it took three times as long (N = 17).
    """
    found = np.zeros(items.shape, np.bool_)
    for column in left_out.T.astype(np.int64):
        found |= items == column[:, None]
    return found


def recommendations(
    model: Model,
    clicks: Sequence[Click],
    origins: Sequence[Origin],
    steps: Steps,
    verdicts: Verdicts,
    lists: Lists,
) -> list[Recommendation]:
    """One decision per click, in the clicks' order."""
    names, label = model.items, model.manifest.label
    rows = zip(
        clicks,
        origins,
        lists.items.tolist(),
        np.round(lists.log_probs.astype(np.float64), 5).tolist(),
        lists.counts.tolist(),
        *_exploration(lists),
        steps.surprise.astype(np.float64).round(5).tolist(),
        verdicts.p_value.tolist(),
        strict=True,
    )
    return [
        Recommendation(
            id=origin.id,
            user_id=click.user_id,
            item_id=click.item_id,
            timestamp=click.timestamp,
            items=[names[i] for i in row[:count]],
            log_probs=logs[:count],
            surprise=surprise,
            p_value=p_value,
            model=label,
            propensities=propensities and propensities[:count],
            explored=explored,
        )
        for click, origin, row, logs, count, propensities, explored, surprise, p_value in rows
    ]


def _exploration(lists: Lists) -> tuple[Iterable[list[float] | None], Iterable[list[int] | None]]:
    """Per list the propensity of each slot, and the slots explored; None where nothing is."""
    if lists.propensities is None or lists.explored is None:
        none = [None] * len(lists.items)
        return none, none
    return lists.propensities.tolist(), [np.flatnonzero(row).tolist() for row in lists.explored]


def anomalies(
    model: Model,
    detector: SurpriseDetector,
    clicks: Sequence[Click],
    origins: Sequence[Origin],
    steps: Steps,
    verdicts: Verdicts,
) -> list[Anomaly]:
    """An alert for each anomalous click, with what was expected of the state before it."""
    which = np.flatnonzero(verdicts.anomalous).tolist()
    none_left_out = np.empty((len(which), 0), np.int32)
    likely = top_items(model, [value[which] for value in steps.before], none_left_out, EXPECTED_ITEMS)
    return [
        _anomaly(model, detector, clicks[i], origins[i], float(steps.surprise[i]), verdicts, i, expected)
        for i, expected in zip(which, _expected(model, likely), strict=True)
    ]


def _expected(model: Model, likely: Lists) -> list[list[Expected]]:
    probabilities = np.exp(likely.log_probs.astype(np.float64)).round(5)
    return [
        [Expected(model.items[i], p) for i, p in zip(row, ps, strict=True)]
        for row, ps in zip(likely.items.tolist(), probabilities.tolist(), strict=True)
    ]


def _anomaly(
    model: Model,
    detector: SurpriseDetector,
    click: Click,
    origin: Origin,
    surprise: float,
    verdicts: Verdicts,
    i: int,
    expected: list[Expected],
) -> Anomaly:
    p_value = float(verdicts.p_value[i])
    pool: Any = int(verdicts.pool[i])
    likely = ", ".join(e.item_id for e in expected)
    return Anomaly(
        id=origin.id,
        user_id=click.user_id,
        item_id=click.item_id,
        event_type=click.event_type,
        timestamp=click.timestamp,
        reason=f"{click.event_type} of {click.item_id} where {likely} was expected: "
        f"surprise {surprise:.1f} nats, p-value {p_value:.2g}",
        surprise=round(surprise, 5),
        p_value=p_value,
        score=round(-float(np.log10(p_value)), 4),
        threshold=detector.alpha,
        pool=detector.calibration.names[pool],
        pool_size=len(detector.calibration.scores[pool]),
        expected=expected,
        model=model.manifest.label,
    )
