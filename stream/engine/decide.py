"""Steps -> decisions: the top k of every user's new state, and an alert for each click that was too unlikely."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.detect.surprise import SurpriseDetector, Verdicts
from stream.engine.step import Steps
from stream.events import Anomaly, Click, Expected, Origin, Recommendation
from stream.model.runtime import F32, I64, Model

SCORE_ROWS = 64
"""Users scored in one call: their logits over the catalogue stay in the CPU's cache (design part 3)."""

EXPECTED_ITEMS = 3


def top_items(model: Model, state: list[F32], recent: npt.NDArray[np.int32], k: int) -> tuple[I64, F32, I64]:
    """The k likeliest next items of each user, without those in `recent`.

    state    score.onnx's inputs, each (n, *shape)
    recent   (n, N) item indices to leave out; -1 and the unknown item match none
    returns  items (n, k') best first, log_probs (n, k'), how many of the k' count (n,); k' <= k
    """
    reach = min(k + recent.shape[1], len(model.items))
    parts = [
        model.score([value[a : a + SCORE_ROWS] for value in state], reach) for a in range(0, len(recent), SCORE_ROWS)
    ]
    items = np.concatenate([part[0] for part in parts]) if parts else np.empty((0, reach), np.int64)
    log_probs = np.concatenate([part[1] for part in parts]) if parts else np.empty((0, reach), np.float32)
    left_out = (items[:, :, None] == recent[:, None, :]).any(2)
    keep_first = np.argsort(left_out, axis=1, kind="stable")[:, :k]
    count = np.minimum(k, reach - left_out.sum(1))
    return np.take_along_axis(items, keep_first, 1), np.take_along_axis(log_probs, keep_first, 1), count


def recommendations(
    model: Model,
    clicks: Sequence[Click],
    origins: Sequence[Origin],
    steps: Steps,
    verdicts: Verdicts,
    k: int,
    exclude_recent: int,
) -> list[Recommendation]:
    """One decision per click, in the clicks' order."""
    items, log_probs, counts = top_items(model, steps.after, steps.recent[:, :exclude_recent], k)
    names, label = model.items, model.manifest.label
    rows = zip(
        clicks,
        origins,
        items.tolist(),
        np.round(log_probs.astype(np.float64), 5).tolist(),
        counts.tolist(),
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
        )
        for click, origin, row, logs, count, surprise, p_value in rows
    ]


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
    items, log_probs, _ = top_items(model, [value[which] for value in steps.before], none_left_out, EXPECTED_ITEMS)
    return [
        _anomaly(model, detector, clicks[i], origins[i], float(steps.surprise[i]), verdicts, i, expected)
        for i, expected in zip(which, _expected(model, items, log_probs), strict=True)
    ]


def _expected(model: Model, items: I64, log_probs: F32) -> list[list[Expected]]:
    probabilities = np.exp(log_probs.astype(np.float64)).round(5)
    return [
        [Expected(model.items[i], p) for i, p in zip(row, ps, strict=True)]
        for row, ps in zip(items.tolist(), probabilities.tolist(), strict=True)
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
