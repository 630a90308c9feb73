"""Converts the engine's decisions to events: a Recommendation for each click, an Anomaly for each anomalous click."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stream.events import Anomaly, Click, Expected, Origin, Partition, Recommendation, Run, Session, SystemAlert

F32 = npt.NDArray[np.float32]
Names = npt.NDArray[np.object_]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]
Rule = tuple[str, int, float, int, dict[str, float], str, int | None]
"""Why a click raised an alert, in the order of the fields of detect.alert.AlertRule."""
SystemRule = tuple[int, int, str, str, bool, int, int, int, float, float, int, bool]
"""Why an episode of a partition begins or ends, in the order of the fields of population.watch.SystemRule."""

DIGITS = 6
"""Digits of the probabilities of what a user does next."""


Foreseen = tuple[dict[str, float] | None, float | None, float | None, float | None]
"""What a user does next: `next`, `leaves`, `returns_7d` and `intent` of a Recommendation; None = not predicted."""

NOT_FORESEEN: Foreseen = (None, None, None, None)


Summed = tuple[list[Run], int, dict[str, int], int, int | None, float | None, int]
"""What a session was: the fields of a Session from `path` on."""


def recommendations(
    names: Names,
    label: str,
    clicks: Sequence[Click],
    origins: Sequence[Origin],
    items: I64,
    log_probs: F32,
    counts: I64,
    propensities: F64 | None,
    explored: Bools | None,
    superseded_by: Index,
    surprise: F32,
    p_value: F64,
    foreseen: Iterable[Foreseen] | None = None,
) -> list[Recommendation]:
    """Make the recommendation of each of n clicks, in the order of the clicks.

    names          (V,) item ids of the model, as Python strings
    label          "name/version" of the model
    items          (n, k) int64, indices of the recommended items
    log_probs      (n, k) float32, nats
    counts         (n,) int64, length of each list: only the first counts[i] entries of row i are used
    propensities   (n, k) float64, probability of each entry under exploration; None without exploration
    explored       (n, k) bool, entries that exploration filled; None without exploration
    superseded_by  (n,) intp, position among the n of the user's later click that has the list; -1 = this click has one
    surprise       (n,) float32, nats: -log probability of each click, given the user's state before the click
    p_value        (n,) float64 in (0, 1]
    foreseen       (n,) what the users do next; None = not predicted
    """
    ids = [f"{origin.id}@{label}" for origin in origins]
    rows = zip(
        clicks,
        ids,
        names.take(items).tolist(),
        log_probs.astype(np.float64).round(5).tolist(),
        counts.tolist(),
        *_exploration(len(items), propensities, explored),
        superseded_by.tolist(),
        surprise.astype(np.float64).round(5).tolist(),
        p_value.tolist(),
        [NOT_FORESEEN] * len(ids) if foreseen is None else foreseen,
        strict=True,
    )
    return [
        Recommendation(
            id=id_,
            user_id=click.user_id,
            item_id=click.item_id,
            timestamp=click.timestamp,
            items=row[:count],
            log_probs=logs[:count],
            surprise=nats,
            p_value=p,
            model=label,
            propensities=shares and shares[:count],
            explored=slots,
            superseded_by=None if later < 0 else ids[later],
            next=following,
            leaves=leaves,
            returns_7d=returns,
            intent=intent,
        )
        for click, id_, row, logs, count, shares, slots, later, nats, p, (following, leaves, returns, intent) in rows
    ]


def _exploration(
    n: int, propensities: F64 | None, explored: Bools | None
) -> tuple[Iterable[list[float] | None], Iterable[list[int] | None]]:
    """Return for each list its propensities and the slots that exploration filled; None without exploration."""
    if propensities is None or explored is None:
        none = [None] * n
        return none, none
    return propensities.tolist(), [np.flatnonzero(row).tolist() for row in explored]


def anomalies(
    names: Names,
    label: str,
    clicks: Sequence[Click],
    origins: Sequence[Origin],
    surprise: F32,
    p_value: F64,
    rules: Sequence[Rule],
    items: I64,
    log_probs: F32,
) -> list[Anomaly]:
    """Make the alert of each of n anomalous clicks.

    names      (V,) item ids of the model, as Python strings
    label      "name/version" of the model
    surprise   (n,) float32, nats
    p_value    (n,) float64 in (0, 1]
    rules      (n,) why each of them raised an alert
    items      (n, E) int64, the most probable items for the state before the click, best first
    log_probs  (n, E) float32, log probabilities of these items, nats
    """
    rows = zip(
        clicks,
        origins,
        surprise.astype(np.float64).round(5).tolist(),
        p_value.tolist(),
        (-np.log10(p_value)).round(4).tolist(),
        rules,
        names.take(items).tolist(),
        np.exp(log_probs.astype(np.float64)).round(5).tolist(),
        strict=True,
    )
    return [_anomaly(label, *row) for row in rows]


def _anomaly(
    label: str,
    click: Click,
    origin: Origin,
    surprise: float,
    p_value: float,
    score: float,
    rule: Rule,
    expected: list[str],
    probabilities: list[float],
) -> Anomaly:
    pool, pool_size, threshold, episode, statistics, sentence, part_of = rule
    return Anomaly(
        id=origin.id,
        user_id=click.user_id,
        item_id=click.item_id,
        event_type=click.event_type,
        timestamp=click.timestamp,
        episode=origin.at(episode).id,
        reason=f"{sentence} (p-value {p_value:.2g}); {click.event_type} of {click.item_id}"
        f"{_beside(click.item_id, expected)}",
        surprise=surprise,
        p_value=p_value,
        score=score,
        threshold=threshold,
        statistics=statistics,
        pool=pool,
        pool_size=pool_size,
        expected=list(map(Expected, expected, probabilities)),
        model=label,
        part_of=None if part_of is None else origin._replace(offset=part_of).id,
    )


def _beside(item: str, expected: list[str]) -> str:
    """What was expected, in words. The item itself can be among it: then the user's pace or so was unusual."""
    others = " or ".join(one for one in expected if one != item)
    if item not in expected:
        return f" where {others} was expected"
    return f", which was expected, as was {others}" if others else ", which was expected"


def system_alert(label: str, click: Click, origin: Origin, rule: SystemRule) -> SystemAlert:
    """Make the alert on a partition whose episode begins or ends with this click.

    label  "name/version" of the model
    """
    _, opened, sign, reason, closes, time_ms, users, of_users, usual, p_value, alerts, example = rule
    return SystemAlert(
        id=origin.id,
        episode=origin._replace(offset=opened).id,
        phase="closed" if closes else "opened",
        partition=origin.partition,
        sign=sign,
        timestamp=time_ms,
        reason=f"{reason}; for example {click.event_type} of {click.item_id}" if example else reason,
        users=users,
        usual_share=round(usual, 6),
        model=label,
        of_users=None if closes else of_users,
        p_value=None if closes else p_value,
        item_id=click.item_id if example else None,
        event_type=click.event_type if example else None,
        alerts=alerts if closes else None,
    )


def opened_session(label: str, click: Click, origin: Origin, known: bool) -> Session:
    """Make the event of a session that begins with this click. known: the model knows its event type"""
    at, events = click.timestamp, {click.event_type: 1} if known else {}
    return Session(origin.id, click.user_id, "opened", at, at, 1, events, label, unknown_events=0 if known else 1)


def closed_sessions(
    label: str,
    event_types: Sequence[str],
    users: Sequence[str],
    partitions: Sequence[Partition],
    sessions: Sequence[npt.NDArray[Any]],
    p_value: F64 | None,
    forecast: Sequence[F32 | None],
    summed: Sequence[Summed],
) -> list[Session]:
    """Make the events of n sessions that have ended.

    event_types  (T,) the names that the model knows
    users        (n,) user ids
    partitions   (n,) partitions of their clicks
    sessions     offset, start_ms, last_ms, revision, each (n,), and types (n, T + 1), as in sessions.track.Sessions
    p_value      (n,) float64 in (0, 1], of the ends; None if the model does not score them
    forecast     the intent after the first click, the highest and the last one, and the return, each (n,); None = not
                 predicted
    summed       (n,)
    """
    p_values: list[float] | list[None] = [None] * len(users) if p_value is None else p_value.tolist()
    offset, start_ms, last_ms, revision, types = sessions
    columns = (offset, start_ms, last_ms, revision, types[:, -1], types.sum(1), types)
    *intent, back = (_probabilities(one, len(users)) for one in forecast)
    return [
        Session(
            id=Origin(partition.topic, partition.number, 0).at(first).id,
            user_id=user,
            phase="closed",
            timestamp=last,
            started=start,
            clicks=clicks,
            events={name: n for name, n in zip(event_types, counts, strict=False) if n},
            model=label,
            revision=times,
            unknown_events=unknown,
            p_value=p,
            intent_first=of_intent[0],
            intent_highest=of_intent[1],
            intent_last=of_intent[2],
            returns_7d=returns,
            path=path,
            path_cut=cut,
            reached_ms=reached_ms,
            items=items or None,
            categories=categories,
            value=value,
            alerts=alerts,
        )
        for user, partition, p, of_intent, returns, (
            path,
            cut,
            reached_ms,
            items,
            categories,
            value,
            alerts,
        ), first, start, last, times, unknown, clicks, counts in zip(
            users,
            partitions,
            p_values,
            zip(*intent, strict=True),
            back,
            summed,
            *(column.tolist() for column in columns),
            strict=True,
        )
    ]


def _probabilities(values: F32 | None, n: int) -> list[float] | list[None]:
    return [None] * n if values is None else values.astype(np.float64).round(DIGITS).tolist()
