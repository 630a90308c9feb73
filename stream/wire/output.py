"""Decided columns -> events: a recommendation per click, an anomaly per click that was too unlikely."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from stream.events import Anomaly, Click, Expected, Origin, Recommendation

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def recommendations(
    names: Sequence[str],
    label: str,
    clicks: Sequence[Click],
    origins: Sequence[Origin],
    items: I64,
    log_probs: F32,
    counts: I64,
    propensities: F64 | None,
    explored: Bools | None,
    surprise: F32,
    p_value: F64,
) -> list[Recommendation]:
    """One decision per click, in the clicks' order.

    names, label            (V,) the item ids of the model, and its name and version
    items, log_probs        (n, k) each click's list, of which the first counts (n,) count
    propensities, explored  (n, k), None where nothing was explored
    surprise, p_value       (n,) of each click under the state before it, nats
    """
    rows = zip(
        clicks,
        origins,
        items.tolist(),
        np.round(log_probs.astype(np.float64), 5).tolist(),
        counts.tolist(),
        *_exploration(len(items), propensities, explored),
        surprise.astype(np.float64).round(5).tolist(),
        p_value.tolist(),
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
            surprise=nats,
            p_value=p,
            model=label,
            propensities=shares and shares[:count],
            explored=slots,
        )
        for click, origin, row, logs, count, shares, slots, nats, p in rows
    ]


def _exploration(
    n: int, propensities: F64 | None, explored: Bools | None
) -> tuple[Iterable[list[float] | None], Iterable[list[int] | None]]:
    """Per list the propensity of each slot, and the slots explored; None where nothing is."""
    if propensities is None or explored is None:
        none = [None] * n
        return none, none
    return propensities.tolist(), [np.flatnonzero(row).tolist() for row in explored]


def anomalies(
    names: Sequence[str],
    label: str,
    clicks: Sequence[Click],
    origins: Sequence[Origin],
    surprise: F32,
    p_value: F64,
    rules: Sequence[tuple[str, int, float]],
    items: I64,
    log_probs: F32,
) -> list[Anomaly]:
    """An alert for each of these clicks, with what was expected of the state before it.

    names, label       (V,) the item ids of the model, and its name and version
    surprise, p_value  (n,) of each click, nats
    rules              (n,) what raised it: name and size of the calibration pool, and the threshold on the p-value
    items, log_probs   (n, E) the likeliest items before it, best first
    """
    rows = zip(
        clicks,
        origins,
        surprise.tolist(),
        p_value.tolist(),
        rules,
        _expected(names, items, log_probs),
        strict=True,
    )
    return [_anomaly(label, *row) for row in rows]


def _expected(names: Sequence[str], items: I64, log_probs: F32) -> list[list[Expected]]:
    probabilities = np.exp(log_probs.astype(np.float64)).round(5)
    return [
        [Expected(names[i], p) for i, p in zip(row, ps, strict=True)]
        for row, ps in zip(items.tolist(), probabilities.tolist(), strict=True)
    ]


def _anomaly(
    label: str,
    click: Click,
    origin: Origin,
    surprise: float,
    p_value: float,
    rule: tuple[str, int, float],
    expected: list[Expected],
) -> Anomaly:
    pool, pool_size, threshold = rule
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
        threshold=threshold,
        pool=pool,
        pool_size=pool_size,
        expected=expected,
        model=label,
    )
