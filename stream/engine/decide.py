"""Steps -> decisions: the top k of every user's new state, and an alert for each click that was too unlikely."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stream.detect.surprise import SurpriseDetector, Verdicts
from stream.engine.step import Steps
from stream.events import Anomaly, Click, Expected, Origin, Recommendation
from stream.lists.top import Lists, top_items
from stream.model.runtime import Model

EXPECTED_ITEMS = 3


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
